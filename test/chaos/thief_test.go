package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

// answering is an attempt that is answered so, whoever makes it.
func answering(v verdict) attempt[string] {
	return attempt[string]{name: "an attempt", why: `^403: `, do: func(context.Context, string) verdict { return v }}
}

// What was allowed fails the row, and so does what was refused for a mistake in the attempt,
// a control that does not succeed, and a list that has become short.
func TestAttemptsCanFail(t *testing.T) {
	refused, mistaken, done := answering(verdict{answer: "403: denied"}), answering(verdict{answer: "404: no such path"}), answering(verdict{done: true})
	for _, tt := range []struct {
		name     string
		attempts []attempt[string]
		least    int
		control  bool
		passed   bool
	}{
		{"refused", []attempt[string]{refused}, 1, false, true},
		{"allowed", []attempt[string]{refused, done}, 1, false, false},
		{"mistaken", []attempt[string]{refused, mistaken}, 1, false, false},
		{"few", []attempt[string]{refused}, 2, false, false},
		{"a control", []attempt[string]{done}, 1, true, true},
		{"a control that is refused", []attempt[string]{done, refused}, 1, true, false},
		{"a control that is mistaken", []attempt[string]{mistaken}, 1, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r row
			err := stage.Run(t.Context(), "test", func(st *stage.T) {
				if tt.control {
					vouch(st, &r, "x", tt.attempts, "")
				} else {
					assail(st, &r, "x", tt.least, tt.attempts, "")
				}
			})
			if err != nil || r.passed() != tt.passed {
				t.Errorf("passed: %v, %v, %v", r.passed(), r.failures, err)
			}
		})
	}
}

// What lies in the files is found by what it is, wherever that is.
func TestSift(t *testing.T) {
	err := stage.Run(t.Context(), "test", func(st *stage.T) {
		ca, key := newAuthority(st)
		keep := func(id string) []byte {
			cert := forgeCertificate(st, id, ca, key)
			der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
			if err != nil {
				st.Fatal(err)
			}
			text, err := json.Marshal(map[string]string{"key": pemOf("PRIVATE KEY", der), "chain": pemOf("CERTIFICATE", cert.Certificate...), "roots": pemOf("CERTIFICATE", ca.Raw)})
			if err != nil {
				st.Fatal(err)
			}
			return text
		}
		l := &loot{roots: x509.NewCertPool(), vaultCA: x509.NewCertPool(), apiCA: x509.NewCertPool(), files: map[string][]byte{
			"data/identity/node.json": keep("/node/edge7"), "data/identity/a.json": keep("/svc/a/n/edge7"),
			"join.json":    []byte(`{"token": "hvs.a-token-that-was-used", "vault": {"addresses": ["https://v"]}, "controlPlane": {"url": "https://c"}}`),
			"password":     []byte("a-password-of-redis\n"),
			"sidecar.yaml": []byte(`{"redis": {"addresses": ["r:6379"], "username": "node-edge7", "passwordFile": "/etc/password"}}`),
		}}
		if err := l.sift(); err != nil {
			st.Fatal(err)
		}
		if uriOf(l.node.Leaf) != "/node/edge7" || len(l.leaves) != 1 || uriOf(l.leaf().Leaf) != "/svc/a/n/edge7" {
			st.Errorf("certificates %v, %v", l.node, l.leaves)
		}
		if got := strings.Join([]string{l.spent, l.vault, l.redis, l.user, l.password, l.api}, " "); got != "hvs.a-token-that-was-used https://v r:6379 node-edge7 a-password-of-redis https://c" {
			st.Errorf("found %s", got)
		}
		if !slices.Contains(l.words, "a-password-of-redis") || !slices.Contains(l.words, "hvs.a-token-that-was-used") {
			st.Errorf("words %v", l.words)
		}
		delete(l.files, "join.json")
		l.spent = ""
		if l.sift() == nil {
			st.Errorf("nothing is missed")
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// What is wanted of a role is told from what any certificate of a node has.
func TestWantedNames(t *testing.T) {
	own := &x509.Certificate{NotAfter: time.Now().Add(7 * 24 * time.Hour)}
	for _, n := range wantedNames() {
		if n.got(own) {
			t.Errorf("%s: any certificate has it", n.what)
		}
	}
}
