package conformance

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// haproxy is the reference: what it fails, we may.
const haproxy = `
global
  maxconn 1000
defaults
  mode http
  timeout client 30s
  timeout server 30s
  timeout connect 5s
  timeout http-request 10s
frontend edge
  bind %s ssl crt %s alpn h2,http/1.1
  default_backend workload
backend workload
  server workload %s
`

// junit is what h2spec writes.
type junit struct {
	Suites []struct {
		Package string `xml:"package,attr"`
		Cases   []struct {
			Name    string    `xml:"classname,attr"`
			Failure *struct{} `xml:"failure"`
			Error   *struct{} `xml:"error"`
			Skipped *struct{} `xml:"skipped"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

// h2spec runs every case against a TLS port and returns how many there were and
// which failed.
func h2spec(t *testing.T, program, port string) (cases int, failed map[string]bool) {
	t.Helper()
	report := filepath.Join(t.TempDir(), "report.xml")
	out, exit := try(t, 5*time.Minute, "", program, "-h", "127.0.0.1", "-p", port, "-t", "-k", "-o", "3", "-j", report) // its exit code says that some failed
	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("%v\n%v\n%s", err, exit, out)
	}
	var suites junit
	if err := xml.Unmarshal(text, &suites); err != nil {
		t.Fatal(err)
	}
	failed = map[string]bool{}
	for _, s := range suites.Suites {
		for _, c := range s.Cases {
			cases++
			if c.Failure != nil || c.Error != nil {
				failed[s.Package+" "+c.Name] = true
			}
		}
	}
	return cases, failed
}

func TestH2Spec(t *testing.T) {
	workload, _ := address(t)
	serveHTTP(t, workload)
	program := tool(t, "github.com/summerwind/h2spec/cmd/h2spec")
	s := newSite(t, "web", "HTTP", workload, "")
	cases, ours := h2spec(t, program, port(t, s.gateway.Public))

	reference, referencePort := address(t)
	cert, err := os.ReadFile(s.tls.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(s.tls.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	pem := write(t, "edge.pem", string(cert)+string(key))
	serve(t, reference, "haproxy", "/usr/sbin/haproxy", "-db", "-f", write(t, "haproxy.cfg", fmt.Sprintf(haproxy, reference, pem, workload)))
	_, theirs := h2spec(t, program, referencePort)

	var beyond []string
	for name := range ours {
		if !theirs[name] {
			beyond = append(beyond, name)
		}
	}
	t.Logf("h2spec: %d cases, %d failed, %d of them not by HAProxy, which failed %d", cases, len(ours), len(beyond), len(theirs))
	if cases < 140 {
		t.Errorf("%d cases were run, want all", cases)
	}
	if len(beyond) > 0 {
		t.Errorf("failed, and not by HAProxy:\n%s", strings.Join(beyond, "\n"))
	}
}
