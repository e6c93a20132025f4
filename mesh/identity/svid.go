package identity

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"slices"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

const opVerify = "identity.VerifySVID"

// VerifySVID verifies a peer's certificates, the leaf first, and returns who
// the peer is. It is all there is to trust: both sides of every handshake end
// here, and certificates from an Issuer pass it before they are used.
//
// The leaf must be an X.509-SVID (SPIFFE X509-SVID sections 2 to 4) of the
// bundle's trust domain: exactly one URI SAN that is a SPIFFE ID with a path,
// not a CA, no certificate or CRL signing, usage among its extended key
// usages by name, and a valid chain to a root at the time now. Errors are of
// kind Unauthentic and one line.
func VerifySVID(certs []*x509.Certificate, b *Bundle, usage x509.ExtKeyUsage, now time.Time) (mesh.ID, error) {
	id, err := verifySVID(certs, b, usage, now)
	if err != nil {
		return mesh.ID{}, &mesh.Error{Op: opVerify, Name: id.String(), Kind: mesh.Unauthentic, Err: err}
	}
	return id, nil
}

// VerifyNode verifies the certificate of a node, the leaf first, and returns which node's it
// is. What holds for a peer's in VerifySVID holds here, with the identity /node/<node> and,
// since Vault goes by it, the node as common name; it need not be good for a server.
func VerifyNode(certs []*x509.Certificate, b *Bundle, now time.Time) (node string, err error) {
	id, err := verifySVID(certs, b, x509.ExtKeyUsageClientAuth, now)
	if err == nil {
		var ok bool
		if node, ok = id.Node(); !ok || certs[0].Subject.CommonName != node {
			err = errors.New("the certificate is not a node's")
		}
	}
	if err != nil {
		return "", &mesh.Error{Op: "identity.VerifyNode", Name: id.String(), Kind: mesh.Unauthentic, Err: err}
	}
	return node, nil
}

func verifySVID(certs []*x509.Certificate, b *Bundle, usage x509.ExtKeyUsage, now time.Time) (mesh.ID, error) {
	if len(certs) == 0 {
		return mesh.ID{}, errors.New("the peer sent no certificate")
	}
	leaf := certs[0]
	id, err := leafID(leaf)
	if err != nil {
		return mesh.ID{}, err
	}
	switch {
	case id.TrustDomain() != b.trustDomain:
		return id, errors.New("the certificate is of another trust domain than " + b.trustDomain)
	case id.Path() == "":
		return id, errors.New("the certificate names the trust domain and nobody in it")
	case leaf.IsCA:
		return id, errors.New("the certificate is a CA's")
	case leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return id, errors.New("the certificate may sign certificates or CRLs")
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return id, errors.New("the certificate lacks the key usage digitalSignature")
	case !slices.Contains(leaf.ExtKeyUsage, usage):
		// Verify below would accept a leaf without any extended key usage.
		return id, errors.New("the certificate lacks the extended key usage " + usageName(usage))
	}
	// Whatever else the peer sent may help to build a chain and is not
	// believed otherwise: crypto/x509 wants each link to be a CA's, in its
	// path length, for this usage, and bounds the work.
	intermediates := x509.NewCertPool()
	for _, cert := range certs[1:] {
		intermediates.AddCert(cert)
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots:         b.pool,
		Intermediates: intermediates,
		KeyUsages:     []x509.ExtKeyUsage{usage},
		CurrentTime:   now,
	})
	return id, err
}

// usageName is the usage as RFC 5280, 4.2.1.12, spells it.
func usageName(usage x509.ExtKeyUsage) string {
	if usage == x509.ExtKeyUsageClientAuth {
		return "clientAuth"
	}
	return "serverAuth"
}

// PeerID returns the identity of the peer of a completed handshake that used
// ServerConfig or ClientConfig, which verified it. It verifies nothing itself.
func PeerID(state *tls.ConnectionState) (mesh.ID, error) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return mesh.ID{}, mesh.Errorf("identity.PeerID", "", mesh.Unauthentic, "the connection has no peer certificate")
	}
	id, err := leafID(state.PeerCertificates[0])
	if err != nil {
		return mesh.ID{}, mesh.Errorf("identity.PeerID", "", mesh.Unauthentic, "%w", err)
	}
	return id, nil
}

// leafID returns the only URI SAN of a certificate. It reads the extension's
// own bytes: cert.URIs went through net/url, which lower-cases the scheme and
// so would let SPIFFE://td/x pass for spiffe://td/x.
func leafID(cert *x509.Certificate) (mesh.ID, error) {
	uris, _, err := altNames(cert.Extensions)
	switch {
	case err != nil:
		return mesh.ID{}, err
	case len(uris) == 0:
		return mesh.ID{}, errors.New("the certificate has no URI SAN")
	case len(uris) > 1:
		return mesh.ID{}, errors.New("the certificate has more than one URI SAN")
	}
	return mesh.ParseID(uris[0])
}

// altNames returns the URIs of the subject alternative name extension
// (RFC 5280, 4.2.1.6) and how many names of other kinds are there.
func altNames(extensions []pkix.Extension) (uris []string, others int, err error) {
	oid := asn1.ObjectIdentifier{2, 5, 29, 17}
	const tagURI = 6
	for _, ext := range extensions {
		if !ext.Id.Equal(oid) {
			continue
		}
		var names asn1.RawValue
		rest, err := asn1.Unmarshal(ext.Value, &names)
		if err != nil || len(rest) != 0 || names.Class != asn1.ClassUniversal || names.Tag != asn1.TagSequence || !names.IsCompound {
			return nil, 0, errors.New("the subject alternative names are malformed")
		}
		for rest = names.Bytes; len(rest) > 0; {
			var name asn1.RawValue
			if rest, err = asn1.Unmarshal(rest, &name); err != nil || name.Class != asn1.ClassContextSpecific {
				return nil, 0, errors.New("the subject alternative names are malformed")
			}
			if name.Tag == tagURI {
				uris = append(uris, string(name.Bytes))
			} else {
				others++
			}
		}
	}
	return uris, others, nil
}
