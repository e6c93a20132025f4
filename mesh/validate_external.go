package mesh

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"strings"
)

// validateExternal checks a service that lives outside the mesh. It is one endpoint,
// which nobody stands beside: what is for several, or for a sidecar, it cannot have.
func (s *Service) validateExternal(v *Violations) {
	e := s.External
	checkRemoteName("external.address", e.Address, v)
	switch {
	case e.Address == "":
	case strings.HasSuffix(e.Address, ".mesh"):
		v.Add("external.address", "leave external out: instances register themselves", "%q is a name inside the mesh", e.Address)
	}
	if e.Port < 1 || e.Port > 65535 {
		v.Add("external.port", "e.g. 443", "%d is not a port", e.Port)
	}
	if e.TLS != nil {
		if e.TLS.ServerName != "" {
			checkRemoteName("external.tls.serverName", e.TLS.ServerName, v)
		}
		if e.TLS.CAPem != "" {
			checkCAs("external.tls.caPem", e.TLS.CAPem, v)
		}
	}
	for _, given := range []struct {
		field string
		set   bool
		hint  string
	}{
		{"subsets", len(s.Subsets) > 0, "make another service for another address"},
		{"loadBalancing", s.LoadBalancing != nil, "make several services, and a route that splits among them"},
		{"adaptiveConcurrency", s.AdaptiveConcurrency != nil, "use circuitBreaker.maxRequests"},
		{"health", s.Health != nil, "retries and timeouts of routes hold for it"},
		{"outlierDetection", s.OutlierDetection != nil, "retries and timeouts of routes hold for it"},
	} {
		if given.set {
			v.Add(given.field, given.hint, "a service outside the mesh is one endpoint without a sidecar")
		}
	}
}

// checkRemoteName checks a host name or IP address, as one is dialled.
func checkRemoteName(field, name string, v *Violations) {
	if name == "" {
		v.Add(field, "a host name or an IP address, e.g. \"api.example.com\"", "is needed")
		return
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		switch {
		case addr.Zone() != "" || addr.Is4In6():
			v.Add(field, "an address without a zone, IPv4 as such", "%q is not an address that can be dialled from everywhere", name)
		case addr.IsUnspecified() || addr.IsMulticast():
			v.Add(field, "", "%q is nobody's address", name)
		}
		return
	}
	if strings.HasPrefix(name, "*") {
		v.Add(field, "name one host", "%q is not one host", name)
		return
	}
	checkHostname(field, name, v)
	label := name[strings.LastIndexByte(name, '.')+1:]
	if strings.Trim(label, "0123456789") == "" || strings.HasPrefix(strings.ToLower(label), "0x") { // inet_aton(3) takes either
		v.Add(field, "four numbers up to 255, e.g. \"10.0.0.7\"", "%q is not an IP address, and a host name does not end in a number", name)
	}
}

// checkCAs checks PEM certificates that are to be trusted.
func checkCAs(field, text string, v *Violations) {
	rest, n := []byte(text), 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		n++
		if block.Type != "CERTIFICATE" {
			v.Add(field, "give certificates only", "holds a block of %q", block.Type)
			return
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			v.Add(field, "", "certificate %d: %v", n, err)
			return
		}
	}
	if n == 0 || len(bytes.TrimSpace(rest)) > 0 {
		v.Add(field, "\"-----BEGIN CERTIFICATE-----\" and so on", "is not a list of PEM certificates")
	}
}
