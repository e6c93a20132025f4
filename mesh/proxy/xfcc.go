package proxy

import (
	"crypto/sha256"
	"encoding/hex"
)

// clientCertHeader tells the workload who called (Envoy,
// x-forwarded-client-cert). Only a sidecar's inbound sets it.
const clientCertHeader = "X-Forwarded-Client-Cert"

// clientCert is one element of X-Forwarded-Client-Cert.
type clientCert struct {
	by   string // SPIFFE ID of the sidecar that received the request
	hash string // lower-case hex SHA-256 of the caller's leaf certificate, DER
	uri  string // SPIFFE ID of the caller
}

// newClientCert describes the caller with id uri and the DER certificate leaf,
// as seen by the sidecar by.
func newClientCert(by, uri string, leaf []byte) clientCert {
	sum := sha256.Sum256(leaf)
	return clientCert{by: by, hash: hex.EncodeToString(sum[:]), uri: uri}
}

// String returns the header value. SPIFFE IDs have no character that the
// format would have to quote.
func (c clientCert) String() string {
	return "By=" + c.by + ";Hash=" + c.hash + ";URI=" + c.uri
}
