package enrolment

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

const reportTimeout = 10 * time.Second

// Report tells the control plane of j what became of the token with the proof. It sends no
// credentials, and follows no redirects.
func Report(ctx context.Context, j *JoinFile, proof string, enrolled bool) error {
	const op = "enrolment.Report"
	outcome := "REFUSED"
	if enrolled {
		outcome = "ENROLLED"
	}
	body, err := json.Marshal(map[string]string{"proof": proof, "outcome": outcome})
	if err != nil {
		return mesh.Errorf(op, j.Node, mesh.Internal, "%w", err)
	}
	if err := checkURL(j.ControlPlane.URL); err != nil {
		return mesh.Errorf(op, j.Node, mesh.Invalid, "%w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if pem := j.ControlPlane.CAPem; pem != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(pem)) {
			return mesh.Errorf(op, j.Node, mesh.Invalid, "controlPlane.caPem holds no certificate")
		}
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	to := strings.TrimSuffix(j.ControlPlane.URL, "/") + "/v1/nodes/" + url.PathEscape(j.Node) + ":reportJoin"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return mesh.Errorf(op, j.Node, mesh.Invalid, "%w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	client := &http.Client{
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return mesh.Errorf(op, j.Node, mesh.Unavailable, "%w", err).WithHint("check controlPlane in the join file, and that the control plane is up")
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	var problem struct {
		Detail string `json:"detail"`
	}
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // what is there
	if json.Unmarshal(raw, &problem) != nil || problem.Detail == "" {
		problem.Detail = http.StatusText(resp.StatusCode)
	}
	kind := mesh.Unavailable
	if resp.StatusCode/100 == 4 {
		kind = mesh.Denied
	}
	return mesh.Errorf(op, j.Node, kind, "%s", fmt.Sprintf("%s answered %d: %.300q", j.ControlPlane.URL, resp.StatusCode, problem.Detail))
}
