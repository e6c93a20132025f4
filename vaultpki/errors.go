package vaultpki

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

const hintSealed = "unseal Vault; certificates in use stay good until they expire"

// maxMessage bounds what an error repeats of Vault's own words, in bytes.
const maxMessage = 300

// measure counts and times one request to Vault.
func (v *Vault) measure(operation string, request func() error) error {
	begin := time.Now()
	err := request()
	result := "ok"
	if err != nil {
		result = classify(err).kind.String()
	}
	v.metrics.requests.WithLabelValues(operation, result).Inc()
	v.metrics.seconds.WithLabelValues(operation).Observe(time.Since(begin).Seconds())
	return err
}

// cause is what an error of the api package comes down to.
type cause struct {
	kind    mesh.Kind
	message string
	hint    string
}

// classify reads an error of the api package, whose own text has many lines.
func classify(err error) cause {
	var refused *api.ResponseError
	if !errors.As(err, &refused) {
		// No answer at all, or one that is not Vault's: the network, TLS,
		// a timeout. The same request may succeed later.
		hint := "check addresses and caFile, and that Vault is up"
		if errors.Is(err, context.Canceled) {
			hint = ""
		}
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err // its address is anyNode
		}
		return cause{mesh.Unavailable, oneLine(err.Error()), hint}
	}
	words := oneLine(strings.Join(refused.Errors, "; "))
	if words == "" {
		words = http.StatusText(refused.StatusCode)
	}
	// Vault answers 400 to most refusals of a role, so its words decide. They
	// are those of 1.21; words that change fall back to Invalid without a hint.
	switch code := refused.StatusCode; {
	case code == http.StatusServiceUnavailable && strings.Contains(words, "sealed"):
		return cause{mesh.Unavailable, words, hintSealed}
	case code == http.StatusForbidden && strings.Contains(words, "invalid token"):
		return cause{mesh.Denied, words, "Vault does not know the token: it has expired or was revoked, or is another Vault's"}
	case code == http.StatusForbidden:
		return cause{mesh.Denied, words, "the token's policy does not allow this path"}
	case code == http.StatusNotFound:
		return cause{mesh.NotFound, words, "check mount and role: Vault has no such path"}
	case code == http.StatusBadRequest && strings.Contains(words, "HTTP request to an HTTPS server"):
		return cause{mesh.Unavailable, words, "its address has to begin with https://"}
	case code == http.StatusBadRequest && strings.Contains(words, "unknown role"):
		return cause{mesh.NotFound, words, "check role: the mount has no such role"}
	case code == http.StatusBadRequest && (strings.Contains(words, "not allowed by this role") || strings.Contains(words, "not valid for this role")):
		return cause{mesh.Denied, words, "let the role allow the names"}
	case code == http.StatusBadRequest && strings.Contains(words, "before signer's notBefore"):
		return cause{mesh.Unavailable, words, "the CA is younger than the role's not_before_duration: wait, or make CAs with a longer one"}
	case code == http.StatusBadRequest && strings.Contains(strings.ToLower(words), "secret id"):
		return cause{mesh.Unauthentic, words, "role_id or secret_id is wrong, spent or expired: make a new secret_id"}
	case code >= 400 && code < 500 && code != http.StatusTooManyRequests && code != http.StatusPreconditionFailed && code < 470:
		return cause{mesh.Invalid, words, ""}
	default: // 412, 429 and 472 to 474 of Vault's standbys, and 5xx
		return cause{mesh.Unavailable, words, ""}
	}
}

// wrap makes the error that callers see, about whoever logs in.
func (v *Vault) wrap(op string, err error) error {
	return wrapCause(op, v.name, err)
}

// wrapCertLogin wraps the refusal of a certificate.
func wrapCertLogin(name string, err error) error {
	wrapped := wrapCause(opLogin, name, err)
	if refused := (*api.ResponseError)(nil); errors.As(err, &refused) && (refused.StatusCode == http.StatusBadRequest || refused.StatusCode == http.StatusForbidden) {
		wrapped.Kind, wrapped.Hint = mesh.Unauthentic, "the node was withdrawn, or its certificate has expired or is of another mesh: enrol it again"
	}
	return wrapped
}

// wrapSign wraps the refusal of a signature, whose 403 is about one path, and whose
// other refusals are about names, which allow says how to allow.
func wrapSign(err error, path, name, allow string) error {
	wrapped := wrapCause("vaultpki.Sign", name, err)
	switch {
	case forbidden(err):
		wrapped.Hint = "a new token is refused too: let the policy of the login update " + path
	case wrapped.Kind == mesh.Denied:
		wrapped.Hint = allow
	}
	return wrapped
}

func wrapCause(op, name string, err error) *mesh.Error {
	why := classify(err)
	return &mesh.Error{Op: op, Name: name, Kind: why.kind, Err: &vaultError{why.message, err}, Hint: why.hint}
}

// vaultError has the message of one line and keeps the cause for errors.As.
type vaultError struct {
	message string
	err     error
}

func (e *vaultError) Error() string { return e.message }
func (e *vaultError) Unwrap() error { return e.err }

// forbidden reports a 403, which Vault answers to a token it does not know and
// to one whose policy does not allow the path alike.
func forbidden(err error) bool {
	var refused *api.ResponseError
	return errors.As(err, &refused) && refused.StatusCode == http.StatusForbidden
}

// oneLine joins the lines of a message and cuts it to a readable length.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "..."
	}
	return s
}
