package vaultpki

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// maxIssuers bounds the issuers of a mount that are read for the bundle.
const maxIssuers = 32

// Issue has the request signed by the role, and returns the leaf with the
// intermediates that lead to its root, and the roots of every issuer of the
// mount. So a mount that holds a new issuer besides the old one hands out both
// before it signs with the new one. A 403 is taken for a dead token once: log
// in again, ask again.
func (c *Client) Issue(ctx context.Context, r identity.Request) (identity.Issued, error) {
	const op = "vaultpki.Sign"
	defer c.http.CloseIdleConnections() // the next call is hours away
	data := map[string]any{"csr": encodeCSR(r.CSR), "uri_sans": r.ID.String(), "exclude_cn_from_sans": true}
	if node, is := r.ID.Node(); is {
		data["common_name"] = node // by which it logs in
	}
	secret, err := c.sign(ctx, c.cfg.Mount+"/sign/"+c.cfg.Role, r.ID.String(), "add the identity to the role's allowed_uri_sans", data, r.TTL)
	if err != nil {
		return identity.Issued{}, err
	}
	chain, roots, err := parseSigned(secret)
	if err != nil {
		return identity.Issued{}, mesh.Errorf(op, r.ID.String(), mesh.Unavailable, "Vault's answer: %w", err)
	}
	// After signing, so that an issuer added in between is not missed.
	more, err := c.mountRoots(ctx)
	if err != nil {
		return identity.Issued{}, err
	}
	bundle, err := identity.NewBundle(r.ID.TrustDomain(), append(roots, more...)...)
	if err != nil {
		return identity.Issued{}, err
	}
	return identity.Issued{Chain: chain, Bundle: bundle}, nil
}

// Bundle returns the roots of every issuer of the mount. It needs no login.
func (c *Client) Bundle(ctx context.Context, trustDomain string) (*identity.Bundle, error) {
	defer c.http.CloseIdleConnections()
	roots, err := c.mountRoots(ctx)
	if err != nil {
		return nil, err
	}
	return identity.NewBundle(trustDomain, roots...)
}

// sign posts a CSR to path, in data, about name. Vault checks the names in it against
// the role, takes names and key from it and everything else from the role; the data
// say the names again for roles that do not read them from CSRs
// (use_csr_sans=false). A 403 is taken for a dead token once. allow says what to do
// if the role refuses the names.
func (c *Client) sign(ctx context.Context, path, name, allow string, data map[string]any, ttl time.Duration) (*api.Secret, error) {
	data["format"] = "pem"
	if ttl > 0 {
		data["ttl"] = fmt.Sprintf("%ds", max(1, int64(ttl/time.Second)))
	}
	var secret *api.Secret
	err := c.do(ctx, "sign", func(v *api.Client) (err error) {
		secret, err = v.Logical().WriteWithContext(ctx, path, data)
		return err
	})
	var known *mesh.Error
	if errors.As(err, &known) {
		return nil, known
	}
	if err != nil {
		return nil, wrapSign(err, path, name, allow)
	}
	return secret, nil
}

func encodeCSR(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// parseSigned takes the certificates out of the answer to sign: what to
// present, the leaf first and no root, and the roots of that chain.
func parseSigned(secret *api.Secret) (chain, roots []*x509.Certificate, err error) {
	// The api package returns nil and no error for some empty answers.
	if secret == nil {
		return nil, nil, errors.New("is empty")
	}
	leaf, err := certificates(secret.Data["certificate"])
	if err != nil {
		return nil, nil, fmt.Errorf("certificate: %w", err)
	}
	// ca_chain begins with the issuing CA; a Vault before 1.11 left it out
	// when the issuer is a root.
	above, err := certificates(secret.Data["ca_chain"])
	if err == nil && len(above) == 0 {
		above, err = certificates(secret.Data["issuing_ca"])
	}
	if err != nil {
		return nil, nil, fmt.Errorf("ca_chain: %w", err)
	}
	if len(leaf) != 1 || len(above) == 0 {
		return nil, nil, fmt.Errorf("%d certificates and %d issuers, want 1 and at least 1", len(leaf), len(above))
	}
	// Peers hold the roots; sending them would only make handshakes larger.
	chain = leaf
	for _, ca := range above {
		if !selfSigned(ca) {
			chain = append(chain, ca)
		}
	}
	return chain, rootsOf(above), nil
}

// mountRoots returns the roots of every issuer of the mount. Vault answers both
// calls to anybody, so no token is sent and no policy is needed.
func (c *Client) mountRoots(ctx context.Context) ([]*x509.Certificate, error) {
	keys, err := c.issuerKeys(ctx)
	if err != nil {
		return nil, err
	}
	var roots []*x509.Certificate
	for _, key := range keys {
		above, err := c.readIssuer(ctx, key)
		if err != nil {
			return nil, err
		}
		roots = append(roots, rootsOf(above)...)
	}
	return roots, nil
}

// issuerKeys returns the names of the mount's issuers.
func (c *Client) issuerKeys(ctx context.Context) ([]string, error) {
	const op = "vaultpki.ReadIssuers"
	var list *api.Secret
	err := c.measure("issuers", func() (err error) {
		list, err = c.anon.Logical().ListWithContext(ctx, c.cfg.Mount+"/issuers")
		return err
	})
	if err != nil {
		return nil, c.wrap(op, err)
	}
	var keys []any
	if list != nil {
		keys, _ = list.Data["keys"].([]any)
	}
	if len(keys) == 0 || len(keys) > maxIssuers {
		return nil, mesh.Errorf(op, c.cfg.Mount, mesh.Unavailable, "the mount has %d issuers, want 1 to %d", len(keys), maxIssuers)
	}
	names := make([]string, 0, len(keys))
	for _, key := range keys {
		name, _ := key.(string)
		names = append(names, name)
	}
	return names, nil
}

// readIssuer returns an issuer's certificate and those above it.
func (c *Client) readIssuer(ctx context.Context, id string) ([]*x509.Certificate, error) {
	const op = "vaultpki.ReadIssuers"
	var secret *api.Secret
	err := c.measure("issuers", func() (err error) {
		secret, err = c.anon.Logical().ReadWithContext(ctx, c.cfg.Mount+"/issuer/"+url.PathEscape(id)+"/json")
		return err
	})
	if err != nil {
		return nil, c.wrap(op, err)
	}
	if secret == nil {
		return nil, mesh.Errorf(op, c.cfg.Mount, mesh.Unavailable, "issuer %.100q is empty", id)
	}
	cert, err := certificates(secret.Data["certificate"])
	if err != nil {
		return nil, mesh.Errorf(op, c.cfg.Mount, mesh.Unavailable, "issuer %.100q: %w", id, err)
	}
	above, err := certificates(secret.Data["ca_chain"])
	if err != nil {
		return nil, mesh.Errorf(op, c.cfg.Mount, mesh.Unavailable, "issuer %.100q: ca_chain: %w", id, err)
	}
	return append(cert, above...), nil
}

// rootsOf returns the trust anchors of one issuer's chain, lowest first: its
// self-signed certificates, or the topmost if the root itself is kept
// elsewhere, offline.
func rootsOf(chain []*x509.Certificate) []*x509.Certificate {
	var roots []*x509.Certificate
	for _, cert := range chain {
		if selfSigned(cert) {
			roots = append(roots, cert)
		}
	}
	if len(roots) == 0 && len(chain) > 0 {
		roots = chain[len(chain)-1:]
	}
	return roots
}

// selfSigned checks the signature too: equal names alone do not make a root.
func selfSigned(cert *x509.Certificate) bool {
	return bytes.Equal(cert.RawSubject, cert.RawIssuer) && cert.CheckSignatureFrom(cert) == nil
}

// certificates reads a field that holds PEM: absent, one string or a list.
func certificates(field any) ([]*x509.Certificate, error) {
	switch field := field.(type) {
	case nil:
		return nil, nil
	case string:
		return identity.ParseCertificates([]byte(field))
	case []any:
		var all []*x509.Certificate
		for _, item := range field {
			text, ok := item.(string)
			if !ok {
				return nil, errors.New("is not a list of strings")
			}
			certs, err := identity.ParseCertificates([]byte(text))
			if err != nil {
				return nil, err
			}
			all = append(all, certs...)
		}
		return all, nil
	default:
		return nil, errors.New("is neither a string nor a list")
	}
}
