package peers

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// TestConfigurations looks for the lines that make the sides comparable: a peer
// that verifies nobody, or keeps no connection, would look cheaper or dearer
// than it is.
func TestConfigurations(t *testing.T) {
	files := servers.LoopbackTLS(t)
	chain := []Hop{
		{Name: "out", Listen: "127.0.0.1:1001", Next: []string{"127.0.0.1:1002"}, Encrypts: true},
		{Name: "in", Listen: "127.0.0.1:1002", Next: []string{"127.0.0.1:1003", "127.0.0.1:1004"}, Secure: true, Mutual: true},
	}
	edge := []Hop{{Name: "edge", Listen: "127.0.0.1:1001", Next: []string{"127.0.0.1:1003"}, Secure: true}}
	pair := func(c Config) string { return filepath.Join(c.Dir, c.Name+".pem") }
	for _, tt := range []struct {
		name, template string
		hops           []Hop
		want, not      []string // with PAIR, CA, CERT and KEY for the files
	}{
		{"HAProxy's chain", haproxyConfig, chain, []string{
			"nbthread 1", "http-reuse always", "ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256", "ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256",
			"bind 127.0.0.1:1001\n", "bind 127.0.0.1:1002 ssl crt PAIR ssl-min-ver TLSv1.3 ca-file CA verify required\n",
			"X-Forwarded-Client-Cert %[ssl_c_s_dn]",
			"server next0 127.0.0.1:1002 ssl crt PAIR ca-file CA verify required sni str(localhost) verifyhost localhost ssl-min-ver TLSv1.3\n",
			"server next0 127.0.0.1:1003\n", "server next1 127.0.0.1:1004\n",
		}, []string{"log"}},
		{"HAProxy's edge", haproxyConfig, edge, []string{
			"bind 127.0.0.1:1001 ssl crt PAIR ssl-min-ver TLSv1.3\n", "server next0 127.0.0.1:1003\n",
		}, []string{"verify", "X-Forwarded"}},
		{"nginx's chain", nginxConfig, chain, []string{
			"access_log off", "worker_processes 1;", "keepalive 256;", "ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;", "proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;",
			"listen 127.0.0.1:1001;", "listen 127.0.0.1:1002 ssl;", "ssl_client_certificate CA;", "ssl_verify_client on;", "ssl_protocols TLSv1.3;",
			"X-Forwarded-Client-Cert $ssl_client_s_dn", "proxy_pass https://out;", "proxy_pass http://in;",
			"proxy_ssl_certificate CERT;", "proxy_ssl_certificate_key KEY;", "proxy_ssl_trusted_certificate CA;", "proxy_ssl_verify on;", "proxy_ssl_protocols TLSv1.3;",
			"server 127.0.0.1:1003;", "server 127.0.0.1:1004;",
		}, nil},
		{"nginx's edge", nginxConfig, edge, []string{"listen 127.0.0.1:1001 ssl;", "ssl_certificate CERT;", "proxy_pass http://edge;"}, []string{"ssl_verify_client", "proxy_ssl_verify", "X-Forwarded"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := Config{Dir: t.TempDir(), Name: "peer", TLS: files, Hops: tt.hops}
			path := write(t, c, "conf", tt.template, file{Config: c, TLSFiles: files, PairFile: pair(c)})
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			names := strings.NewReplacer(pair(c), "PAIR", files.CAFile, "CA", files.CertFile, "CERT", files.KeyFile, "KEY", c.Dir, "DIR")
			got := names.Replace(string(text))
			_, rules, _ := strings.Cut(got, "\n") // the first line is a comment
			for _, line := range tt.want {
				if !strings.Contains(rules, line) {
					t.Errorf("there is no %q in\n%s", line, got)
				}
			}
			for _, line := range tt.not {
				if strings.Contains(rules, line) {
					t.Errorf("there is %q in\n%s", line, got)
				}
			}
		})
	}
}

func TestWorkloadConfiguration(t *testing.T) {
	dir := t.TempDir()
	path := write(t, Config{Dir: dir, Name: "workload"}, "conf", nginxConfig, file{Config: Config{Dir: dir}, Answers: []Answers{{"127.0.0.1:1001", `{"got":1}`, `{"posted":2}`}}})
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"listen 127.0.0.1:1001;", `return 200 '{"got":1}';`, `return 200 '{"posted":2}';`} {
		if !strings.Contains(string(text), line) {
			t.Errorf("there is no %q in\n%s", line, text)
		}
	}
	if strings.Contains(string(text), "proxy_pass") {
		t.Error("a workload passes requests on")
	}
}

// TestPairFile: HAProxy wants the certificate and, after it, the key.
func TestPairFile(t *testing.T) {
	files := servers.LoopbackTLS(t)
	path, err := pairFile(Config{Dir: t.TempDir(), Name: "peer", TLS: files})
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	for _, name := range []string{files.CertFile, files.KeyFile} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, text...)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != string(want) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := pairFile(Config{Dir: t.TempDir(), Name: "peer"}); err == nil {
		t.Error("without files there is a pair")
	}
}
