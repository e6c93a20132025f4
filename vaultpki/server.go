package vaultpki

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// ServerRole is a PKI role that signs certificates of public servers, for clients
// that know nothing of the mesh. It logs in as its Client does.
type ServerRole struct {
	c           *Client
	mount, role string
}

var _ identity.Prober = (*ServerRole)(nil)

// CheckServerRole returns what is wrong with a mount and a role, whose place in the
// configuration is field.
func CheckServerRole(field, mount, role string) []error {
	var errs []error
	if !mountPattern.MatchString(mount) {
		errs = append(errs, fmt.Errorf("%s.mount: %.100q is not the path of a PKI engine's mount, such as pki", field, mount))
	}
	if !rolePattern.MatchString(role) {
		errs = append(errs, fmt.Errorf("%s.role: %.100q is not the name of a PKI role, such as gateway-edge", field, role))
	}
	return errs
}

// ServerRole returns the role of the PKI engine at mount, which need not be that of
// the mesh. It does not talk to Vault. Errors are of kind Invalid.
func (c *Client) ServerRole(mount, role string) (*ServerRole, error) {
	if errs := CheckServerRole("vault", mount, role); len(errs) > 0 {
		return nil, mesh.Errorf("vaultpki.ServerRole", role, mesh.Invalid, "%w", errors.Join(errs...))
	}
	return &ServerRole{c: c, mount: mount, role: role}, nil
}

// maxCommonName is how many characters a common name holds (RFC 5280 appendix A.1).
const maxCommonName = 64

// SignServer has the request signed and returns the leaf with the intermediates that
// lead to its root. Errors are of kind Denied if asking again is pointless until
// somebody changes a role or policy, and Unavailable if the same request may succeed
// later.
func (r *ServerRole) SignServer(ctx context.Context, request identity.ServerRequest) ([]*x509.Certificate, error) {
	defer r.c.http.CloseIdleConnections() // the next call is hours away
	name := request.Hostnames[0]
	data := map[string]any{"csr": encodeCSR(request.CSR), "alt_names": strings.Join(request.Hostnames, ",")}
	if len(name) <= maxCommonName { // a role demands one by default
		data["common_name"] = name
	}
	allow := "let the role allow the hostnames: allowed_domains, with allow_bare_domains, allow_subdomains or allow_wildcard_certificates"
	secret, err := r.c.sign(ctx, r.mount+"/sign/"+r.role, name, allow, data, request.TTL)
	if err != nil {
		return nil, err
	}
	chain, _, err := parseSigned(secret)
	if err != nil {
		return nil, mesh.Errorf("vaultpki.Sign", name, mesh.Unavailable, "Vault's answer: %w", err)
	}
	return chain, nil
}

// Probe implements identity.Prober.
func (r *ServerRole) Probe(ctx context.Context) error { return r.c.Probe(ctx) }
