package main

// engineProofs is how a gateway proves the hostnames that it wants certificates for.
func engineProofs() []control {
	return []control{
		without("unknown tokens are requests like others", "serve.go", "if !known {", "if !known && false {", "TestProofs"),
		without("a proof needs no configuration", "serve.go", "if rule := s.proves(&x.request); rule != nil {", "if rule := s.proves(&x.request); rule != nil && s.e.state.Load() != nil {", "TestProofs"),
		without("what only shook hands sends no request", "listener.go", `case identity.ProtocolHTTP1, "":`, "default:", "TestProtocolsThatNobodySpeaks"),
	}
}

// publicCertificates is which certificate strangers get.
func publicCertificates() []control {
	const names = "TestCertificatesForNames"
	return []control{
		without("exact names come before wildcards", "certificates.go", "if slices.ContainsFunc(cert.Leaf.DNSNames, func", "if true || slices.ContainsFunc(cert.Leaf.DNSNames, func", names),
		without("a name without its certificate gets no other", "certificates.go", "if len(exact) > 0 || len(below) > 0 || len(c.files) == 0 {", "if len(c.files) == 0 {", names),
	}
}

// acmeCertificates is what an ACME server is asked and told, and what is kept of it.
func acmeCertificates() []control {
	return []control{
		without("the terms are accepted by a person", "acmecert.go", "if !c.AcceptTerms {", "if false {", "TestConfig"),
		without("no wildcards", "acmecert.go", `case strings.Contains(name, "*"):`, "case false:", "TestConfig"),
		without("answers lead nowhere in clear text", "client.go", `if req.URL.Scheme != "https" {`, "if false {", "TestClientIsGuarded"),
		without("who refuses is asked seldom", "acmecert.go", "if mesh.KindOf(err) == mesh.Unavailable {", "if true {", "TestPace"),
		without("proofs are for who asks for nothing else", "challenge.go", "if len(hello.SupportedProtos) != 1 || hello.SupportedProtos[0] != acme.ALPNProto {", "if len(hello.SupportedProtos) == 0 {", "TestProofsAreForServers"),
		without("a proof ends with its order", "challenge.go", "delete(a.proofs, c.name)", "_ = a.proofs", "TestProofsAreForServers"),
		without("what has ended is not served", "acmecert.go", "h != nil && !time.Now().After(h.cert.Leaf.NotAfter)", "h != nil", "TestEndedCertificates"),
	}
}

// issuedCertificates is what of an issuer's answer is put to use, and when it is asked.
func issuedCertificates() []control {
	const answers = "TestServerCertificate"
	return []control{
		without("a certificate is for our key", "server.go", "!ok || !public.Equal(key.Public())", "!ok || public == nil", answers),
		without("a certificate is for every name", "server.go", "strings.EqualFold(of, name)", "true || strings.EqualFold(of, name)", answers),
		without("what is kept is not asked for again", "rotator.go", "if from, until := r.of.Life(); !until.IsZero() {\n\t\tr.schedule", "if from, until := r.of.Life(); false {\n\t\tr.schedule", "TestRotatorBeginsWithWhatIsThere"),
	}
}
