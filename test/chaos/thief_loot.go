package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// loot is what is found in the files of a node, and nothing else.
type loot struct {
	files  map[string][]byte // by path below the node's directory
	node   *tls.Certificate
	leaves []*tls.Certificate // of services
	roots  *x509.CertPool     // of the mesh
	// words are all that could be a secret: single words of some length, wherever they are.
	words []string
	spent string // the token of the join file, which was used

	vault, redis, user, password, api string
	vaultCA, apiCA                    *x509.CertPool
}

// steal takes every file of a node's host.
func (e *estate) steal(node string) *loot {
	e.t.Helper()
	l := &loot{files: map[string][]byte{}, roots: x509.NewCertPool(), vaultCA: x509.NewCertPool(), apiCA: x509.NewCertPool()}
	dir := e.path("host", node)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		l.files[name], err = os.ReadFile(path)
		return err
	})
	if err == nil {
		err = l.sift()
	}
	if err != nil {
		e.t.Fatalf("what was taken of %s: %v", node, err)
	}
	return l
}

// sift finds in the files what they are good for.
func (l *loot) sift() error {
	for _, text := range l.files {
		var object any
		if json.Unmarshal(text, &object) != nil {
			l.word(strings.TrimSpace(string(text)))
			continue
		}
		l.walk(object)
		fields, _ := object.(map[string]any)
		if err := l.credential(fields); err != nil {
			return err
		}
		if token, ok := fields["token"].(string); ok { // the join file
			l.spent = token
			at, _ := fields["vault"].(map[string]any)
			l.vault = firstOf(at["addresses"])
			l.vaultCA.AppendCertsFromPEM([]byte(asText(at["caPem"])))
			plane, _ := fields["controlPlane"].(map[string]any)
			l.api = asText(plane["url"])
			l.apiCA.AppendCertsFromPEM([]byte(asText(plane["caPem"])))
		}
		if at, _ := fields["redis"].(map[string]any); at["username"] != nil { // the configuration
			l.redis, l.user = firstOf(at["addresses"]), asText(at["username"])
			l.password = strings.TrimSpace(string(l.named(filepath.Base(asText(at["passwordFile"])))))
		}
	}
	slices.Sort(l.words)
	l.words = slices.Compact(l.words)
	switch {
	case l.node == nil, len(l.leaves) == 0:
		return errors.New("no certificate of the node, or none of a service")
	case l.spent == "", l.vault == "", l.redis == "", l.user == "", l.password == "", l.api == "":
		return errors.New("no join file, no password, or not where the servers are")
	}
	return nil
}

// credential takes a certificate with its key.
func (l *loot) credential(fields map[string]any) error {
	key, chain := asText(fields["key"]), asText(fields["chain"])
	if key == "" || chain == "" {
		return nil
	}
	cert, err := tls.X509KeyPair([]byte(chain), []byte(key))
	if err != nil {
		return err
	}
	l.roots.AppendCertsFromPEM([]byte(asText(fields["roots"])))
	if strings.HasPrefix(uriOf(cert.Leaf), "/node/") {
		l.node = &cert
	} else {
		l.leaves = append(l.leaves, &cert)
	}
	return nil
}

// leaf is the certificate of the node's first service.
func (l *loot) leaf() *tls.Certificate { return l.leaves[0] }

// uriOf is the path of a certificate's only identity.
func uriOf(cert *x509.Certificate) string {
	if cert == nil || len(cert.URIs) != 1 {
		return ""
	}
	return cert.URIs[0].Path
}

// named returns the content of the file with this name.
func (l *loot) named(base string) []byte {
	for name, text := range l.files {
		if filepath.Base(name) == base {
			return text
		}
	}
	return nil
}

// walk notes every string of a JSON value.
func (l *loot) walk(v any) {
	switch v := v.(type) {
	case string:
		l.word(v)
	case []any:
		for _, item := range v {
			l.walk(item)
		}
	case map[string]any:
		for _, item := range v {
			l.walk(item)
		}
	}
}

// word notes what may be a secret: what an API takes as a token has 16 characters at least.
func (l *loot) word(s string) {
	if len(s) >= 16 && len(s) <= 1024 && !strings.ContainsAny(s, " \t\r\n") {
		l.words = append(l.words, s)
	}
}

// client is one that logs in to Redis as the node.
func (l *loot) client() *redis.Client { return redisClient(l.redis, l.user, l.password) }

func redisClient(addr, user, password string) *redis.Client {
	return redis.NewClient(&redis.Options{Addr: addr, Username: user, Password: password, DisableIdentity: true, Protocol: 2, MaxRetries: -1})
}

// asText is v as text, "" if it is none.
func asText(v any) string { s, _ := v.(string); return s }

// firstOf is the first text of a list.
func firstOf(v any) string {
	list, _ := v.([]any)
	if len(list) == 0 {
		return ""
	}
	return asText(list[0])
}

// pemOf is certificates and keys as PEM.
func pemOf(kind string, ders ...[]byte) string {
	var out bytes.Buffer
	for _, der := range ders {
		_ = pem.Encode(&out, &pem.Block{Type: kind, Bytes: der}) // into memory
	}
	return out.String()
}
