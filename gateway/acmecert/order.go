package acmecert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/acme"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// order gets a certificate for c's hostname (RFC 8555 section 7.4).
func (a *Authority) order(ctx context.Context, c *Certificate) (*tls.Certificate, error) {
	defer a.http.CloseIdleConnections() // the next order is weeks away
	client, err := a.account(ctx)
	if err != nil {
		return nil, err
	}
	o, err := a.authorize(ctx, client, c)
	if err != nil {
		return nil, err
	}
	key, request, err := identity.NewServerRequest(0, c.name)
	if err != nil {
		return nil, err
	}
	ders, _, err := client.CreateCertFromOrder(ctx, o, request.CSR, true)
	if err != nil {
		return nil, refused("acmecert.Finalize", c.name, err)
	}
	chain := make([]*x509.Certificate, len(ders))
	for i, der := range ders {
		if chain[i], err = x509.ParseCertificate(der); err != nil {
			return nil, mesh.Errorf("acmecert.Finalize", c.name, mesh.Unavailable, "the server's answer: %w", err)
		}
	}
	return identity.ServerCertificate(key, chain, c.name)
}

// account returns a client of the account, which is made if the server does not know
// it. It is asked for each order: a server that was set up anew does not know it any
// more, and an order is rare.
func (a *Authority) account(ctx context.Context) (*acme.Client, error) {
	const op = "acmecert.Account"
	key, err := a.files.account()
	if err != nil {
		return nil, mesh.Errorf(op, a.cfg.Directory, mesh.Internal, "the account's key: %w", err).
			WithHint("see to the data directory; without the key's file another account is made")
	}
	client := &acme.Client{
		Key: key, DirectoryURL: a.cfg.Directory, HTTPClient: a.http.http, RetryBackoff: again, UserAgent: "hedgerow",
	}
	account := &acme.Account{}
	if a.cfg.Email != "" {
		account.Contact = []string{"mailto:" + a.cfg.Email}
	}
	// The terms were accepted in the configuration, or there would be no Authority.
	if _, err := client.Register(ctx, account, acme.AcceptTOS); err != nil && !errors.Is(err, acme.ErrAccountAlreadyExists) {
		return nil, refused(op, a.cfg.Directory, err)
	}
	return client, nil
}

// authorize orders and proves, by the first kind of challenge that the server can
// verify: port 443 may be somebody else's, or port 80 closed. A refused proof ends
// its order, so that each kind has one of its own.
func (a *Authority) authorize(ctx context.Context, client *acme.Client, c *Certificate) (*acme.Order, error) {
	var failures []string
	var last error
	for _, kind := range c.kinds() {
		o, err := a.prove(ctx, client, c, kind)
		if err == nil {
			c.answered.Store(&kind)
			return o, nil
		}
		last = err
		failures = append(failures, kind+": "+oneLine(err.Error()))
		var unproved *acme.AuthorizationError
		if !errors.As(err, &unproved) && !errors.Is(err, errNotOffered) {
			break // of no kind can anything else be expected
		}
	}
	wrapped := refused("acmecert.Authorize", c.name, last)
	wrapped.Err = &failure{strings.Join(failures, "; "), last}
	return nil, wrapped
}

var errNotOffered = errors.New("the server does not offer this challenge")

// prove makes an order and proves by challenges of one kind.
func (a *Authority) prove(ctx context.Context, client *acme.Client, c *Certificate, kind string) (*acme.Order, error) {
	o, err := client.AuthorizeOrder(ctx, acme.DomainIDs(c.name))
	if err != nil {
		return nil, err
	}
	if o.Status == acme.StatusReady { // what was proved before counts for a while
		return o, nil
	}
	for _, at := range o.AuthzURLs {
		if err := c.satisfy(ctx, client, at, kind); err != nil {
			return nil, err
		}
	}
	return client.WaitOrder(ctx, o.URI)
}

// satisfy proves one authorization (RFC 8555 section 7.5).
func (c *Certificate) satisfy(ctx context.Context, client *acme.Client, at, kind string) error {
	z, err := client.GetAuthorization(ctx, at)
	if err != nil {
		return err
	}
	if z.Status == acme.StatusValid {
		return nil
	}
	i := slices.IndexFunc(z.Challenges, func(ch *acme.Challenge) bool { return ch.Type == kind })
	if i < 0 {
		return errNotOffered
	}
	hide, err := c.show(client, z.Challenges[i])
	if err != nil {
		return err
	}
	defer hide()
	if _, err := client.Accept(ctx, z.Challenges[i]); err != nil {
		return err
	}
	_, err = client.WaitAuthorization(ctx, at)
	return err
}

// refused makes the error of what a server, or the way to it, has refused.
func refused(op, name string, err error) *mesh.Error {
	e := &mesh.Error{Op: op, Name: name, Kind: mesh.Unavailable, Err: &failure{oneLine(err.Error()), err}}
	var answer *acme.Error
	var unproved *acme.AuthorizationError
	var ended *acme.OrderError
	switch {
	case errors.Is(err, context.Canceled):
	case errors.As(err, &unproved), errors.Is(err, errNotOffered):
		e.Kind = mesh.Denied
		e.Hint = "the name has to lead to this gateway: port 443 to the listener with tls.acme, or port 80 to one in clear text"
	case errors.As(err, &ended):
		e.Kind = mesh.Denied
	case errors.As(err, &answer):
		if _, limited := acme.RateLimit(answer); limited {
			e.Hint = "the server's limits are reached; it is asked again when it says"
		} else if answer.StatusCode >= 400 && answer.StatusCode < 500 {
			e.Kind = mesh.Denied
		}
	default:
		e.Hint = "check tls.acme.directory and caFile, and that the ACME server can be reached from here"
	}
	return e
}

// later returns how long the server asked to wait, 0 if it did not.
func later(err error) time.Duration {
	var answer *acme.Error
	if !errors.As(err, &answer) {
		return 0
	}
	wait, _ := acme.RateLimit(answer)
	return wait
}

// failure has a message of one line, and the cause for errors.As.
type failure struct {
	text  string
	cause error
}

// Error returns the message.
func (f *failure) Error() string { return f.text }

// Unwrap returns the cause.
func (f *failure) Unwrap() error { return f.cause }

// maxText bounds what is repeated of a server's words, in bytes.
const maxText = 600

// oneLine joins the lines of a text and bounds it.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxText {
		s = fmt.Sprintf("%s...", strings.ToValidUTF8(s[:maxText], ""))
	}
	return s
}
