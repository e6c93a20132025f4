package controlapi

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/jwt"
)

const (
	maxTokens = 64
	// minTokenBytes is what nobody guesses: 16 characters of base64 are 96 bits.
	minTokenBytes = 16
	maxTokenBytes = 1024
)

// tokens are the hashes of the tokens of a file. Nothing else of
// them is kept in memory.
type tokens []hash

// loadTokens reads a token file; see Options.TokenFile.
func loadTokens(file string) (tokens, error) {
	const op = "controlapi.loadTokens"
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, &mesh.Error{Op: op, Name: file, Kind: mesh.Invalid, Err: err}
	}
	var out tokens
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		hash, ok := parseToken(line)
		if !ok {
			// The line is a secret, so the message does not repeat it.
			return nil, mesh.Errorf(op, file, mesh.Invalid, "line %d is neither a token of %d to %d characters without spaces nor \"sha256:\" and 64 hex digits", n, minTokenBytes, maxTokenBytes).
				WithHint("make one with: openssl rand -base64 32")
		}
		out = append(out, hash)
	}
	if err := lines.Err(); err != nil {
		return nil, &mesh.Error{Op: op, Name: file, Kind: mesh.Invalid, Err: err}
	}
	if len(out) == 0 || len(out) > maxTokens {
		return nil, mesh.Errorf(op, file, mesh.Invalid, "%d tokens, 1 to %d are needed", len(out), maxTokens)
	}
	return out, nil
}

func parseToken(line string) (hash [sha256.Size]byte, ok bool) {
	if digits, ok := strings.CutPrefix(line, "sha256:"); ok {
		b, err := hex.DecodeString(digits)
		if err != nil || len(b) != sha256.Size {
			return hash, false
		}
		return [sha256.Size]byte(b), true
	}
	if len(line) < minTokenBytes || len(line) > maxTokenBytes || strings.ContainsAny(line, " \t") {
		return hash, false
	}
	return sha256.Sum256([]byte(line)), true
}

// has reports whether h is of one of t. Hashes are compared, all of them and each
// in constant time, so that the time taken says nothing about a token.
func (t tokens) has(h hash) bool {
	found := 0
	for _, known := range t {
		found |= subtle.ConstantTimeCompare(h[:], known[:])
	}
	return found == 1
}

// callers knows who may call.
type callers struct {
	file   tokens  // of an admin, whatever the log says
	writer *writer // whose state has the others
	now    func() time.Time
	used   *lastUse
	log    zerolog.Logger

	certificates []grant[*x509.Certificate]
	oidc         *OIDC // nil: no token of others is taken
	claims       []grant[*jwt.Claims]
}

// authenticate returns who presents the Authorization header.
func (c *callers) authenticate(authorization string) (principal, error) {
	const op = "controlapi.authenticate"
	scheme, presented, _ := strings.Cut(authorization, " ")
	presented = strings.TrimSpace(presented)
	if !strings.EqualFold(scheme, "Bearer") || presented == "" {
		return principal{}, mesh.Errorf(op, "", mesh.Unauthentic, "a bearer token is needed").
			WithHint("send \"Authorization: Bearer TOKEN\", or a client certificate where they are configured; hedgerow up writes the token to admin.token, and a curl -K file to curlrc, in its data directory")
	}
	h, now := sha256.Sum256([]byte(presented)), c.now()
	if c.file.has(h) {
		// Enough of the hash to tell tokens apart in the log of revisions.
		return principal{name: "token:" + hex.EncodeToString(h[:4]), role: admin, bearer: true}, nil
	}
	t := c.writer.state.Load().tokens[h]
	if t == nil && c.oidc != nil && strings.Count(presented, ".") == 2 {
		return c.byClaims(presented)
	}
	if t == nil {
		return principal{}, mesh.Errorf(op, "", mesh.Unauthentic, "the bearer token is not known here").
			WithHint("check that it is a token of this control plane, and was not deleted")
	}
	if t.ExpireTime == nil || !now.Before(*t.ExpireTime) {
		return principal{}, mesh.Errorf(op, t.Name, mesh.Unauthentic, "the bearer token has expired").
			WithHint("have an admin make another")
	}
	c.used.note(h, now)
	return principalOf(t), nil
}

// identify returns who sent r.
func (c *callers) identify(r *http.Request) caller {
	out := caller{remote: r.RemoteAddr}
	authorization := ""
	switch v := r.Header.Values("Authorization"); len(v) {
	case 0:
		var ok bool
		if out.principal, ok, out.err = c.byCertificate(r.TLS); ok {
			return out
		}
	case 1:
		authorization = v[0]
	}
	out.principal, out.err = c.authenticate(authorization)
	return out
}
