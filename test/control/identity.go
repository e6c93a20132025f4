package main

// peersCertificates is who may be at the other end of a mesh connection.
func peersCertificates() []control {
	const svid, resumed, clock = "TestSVID", "TestResumedSessionsAreRefused", "TestHandshakesNeedAClock"
	return []control{
		without("one URI", "svid.go", "case len(uris) > 1:", "case false:", svid),
		without("of this trust domain", "svid.go", "case id.TrustDomain() != b.trustDomain:", "case false:", svid),
		without("not a CA", "svid.go", "case leaf.IsCA:", "case false:", svid).and("case leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:", "case false:"),
		without("for this usage", "svid.go", "case !slices.Contains(leaf.ExtKeyUsage, usage):", "case !slices.Contains(leaf.ExtKeyUsage, usage) && false:", svid),
		without("for signatures", "svid.go", "case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:", "case false:", svid),
		without("of a root", "svid.go", "\treturn id, err\n}\n\n// usageName", "\t_ = err\n\treturn id, nil\n}\n\n// usageName", svid),
		without("the name as it is written", "svid.go", "uris, _, err := altNames(cert.Extensions)", "_, _, err := altNames(cert.Extensions)\n\tvar uris []string\n\tfor _, u := range cert.URIs {\n\t\turis = append(uris, u.String())\n\t}", svid),
		without("a node is no peer", "tls.go", "!service && !gateway {", "!service && !gateway && false {", "TestOnlyServicesAndGatewaysArePeers"),
		without("the one that was dialled", "tls.go", "if err == nil && id != want {", "if err == nil && id.IsZero() {", "TestClientRefusesTheWrongPeer"),
		without("a resumed session is refused", "tls.go", "case state.DidResume:", "case false:", resumed),
		without("no tickets", "tls.go", "\t\tSessionTicketsDisabled: true,\n\t\tGetConfigForClient", "\t\tGetConfigForClient", "TestSessionsDoNotResume").and("\t\tSessionTicketsDisabled: true,\n\t\tGetCertificate", "\t\tGetCertificate"),
		without("TLS 1.3", "tls.go", "\t\tMinVersion:             tls.VersionTLS13,\n\t\tNextProtos:             []string{ProtocolH2, ProtocolHTTP1, ProtocolTCP},\n\t\tSessionTicketsDisabled: true,\n\t\tGetCertificate", "\t\tMinVersion:             tls.VersionTLS10,\n\t\tNextProtos:             []string{ProtocolH2, ProtocolHTTP1, ProtocolTCP},\n\t\tSessionTicketsDisabled: true,\n\t\tGetCertificate", "TestProtocolIsEnforced").and("\t\tMinVersion:             tls.VersionTLS13,\n\t\tNextProtos:             []string{ProtocolH2, ProtocolHTTP1, ProtocolTCP},\n\t\tSessionTicketsDisabled: true,\n\t\tGetConfigForClient", "\t\tMinVersion:             tls.VersionTLS10,\n\t\tNextProtos:             []string{ProtocolH2, ProtocolHTTP1, ProtocolTCP},\n\t\tSessionTicketsDisabled: true,\n\t\tGetConfigForClient"),
		without("a protocol of the mesh", "tls.go", "case state.NegotiatedProtocol == \"\":", "case false:", "TestProtocolIsEnforced"),
		without("a certificate that has ended is not presented", "source.go", "s.clock.Now().After(end)", "false", "TestExpiredLeafIsRefused"),
		without("nothing is presented by a wrong clock", "source.go", "if err := s.clock.Check(); err != nil {\n\t\treturn nil, err", "if err := s.clock.Check(); false {\n\t\treturn nil, err", clock),
	}
}

// connectionsEnd is how long a handshake is believed, and what is presented in one.
func connectionsEnd() []control {
	const moves, ends, self = "TestConnectionsEndBeforeTheirCertificates", "TestAPeerWhoseCertificateEnds", "TestSelfCheck"
	return []control{
		without("a link is left in time", "linkset.go", "s.lives.add(until, made.Drain)", "s.lives.add(time.Time{}, made.Drain)", moves),
		without("a pooled connection is left in time", "upstream_pool.go", "func (c *upConn) expire() { c.over.Store(true) }", "func (c *upConn) expire() {}", moves),
		without("the own certificate counts", "lifetime.go", "if src != nil && src.Certificate.Leaf.NotAfter.Before(until) {", "if false {", moves),
		without("who dialled ends first", "lifetime.go", "return until.Add(-min(max(ahead, earlyLeast), left/2))", "return until.Add(0 * max(ahead, earlyLeast))", "TestEndEarly"),
		without("a peer's link ends", "listener.go", "l.e.lives.add(info.until, c.Drain)", "nil", ends),
		without("a peer's connection ends", "listener.go", "c.life = l.e.lives.add(info.until, c.expire)", "", ends),
		without("what is under way is the last", "client_h1.go", "c.leave.Load() || c.over.Load() || c.s.e.overload", "c.leave.Load() || c.s.e.overload", ends),
		without("wall clock", "engine_listen.go", "serving.Go(func() { e.lives.run(failed) })", "", moves),
		without("a renewal is checked on the wire", "engine_listen.go", "serving.Go(func() { e.checkSelf(failed, s.Listener.Addr(), in) })", "_ = in", self),
		without("serials are compared", "selfcheck.go", "!served.Equal(cert.Leaf)", "served == nil", self),
		without("the server's verdict is waited for", "selfcheck.go", "!errors.Is(err, os.ErrDeadlineExceeded)", "errors.Is(err, os.ErrClosed)", self),
	}
}

// rotation is when certificates and roots are renewed, and who is told if they are not.
func rotation() []control {
	const floor, roots, overdue = "TestClockFloor", "TestRootsAreReadBetweenRenewals", "TestOverdueIsAnAlarm"
	return []control{
		without("renewal at a third", "rotator.go", "Share: 1.0 / 3", "Share: 2.0 / 3", "TestRotatorRenewsAtAThirdOfLife"),
		without("renewals spread", "rotator.go", "jitter       = 0.1", "jitter       = 0", "TestRotatorsSpread"),
		without("waits grow", "rotator.go", "retryFirst<<min(n, 16)", "retryFirst<<min(n, 0)", "TestRotatorRetriesTheFirstCertificate"),
		without("an issuer that is back is asked at once", "rotator.go", "return wasDown && !r.down", "return wasDown && false", "TestRotatorPastExpiry"),
		without("wall clock", "rotator.go", "now := r.now().Round(0) // without", "now := time.Now() // without", "TestRotatorNoticesASuspension"),
		without("roots are read between renewals", "leaf.go", "now.Before(l.nextBundle)", "true", roots),
		without("roots that are read are used", "source.go", "next.Bundle = b", "next.Bundle = was.Bundle", roots),
		without("no own certificate without its root", "source.go", "if err := s.verifyOwn(was.chain, b, at); err != nil {", "if err := s.verifyOwn(was.chain, b, at); false {", "TestTrustRefuses"),
		without("a root that leaves renews", "leaf.go", "return mesh.KindOf(err) == mesh.Conflict", "return false", "TestARootThatLeavesRenewsFirst"),
		without("nobody waits for roots of who is away", "leaf.go", "last != nil && mesh.KindOf(*last) == mesh.Unavailable {", "last != nil && false {", "TestRootsAreNotReadOfAnIssuerThatIsAway"),
		without("roots are kept", "source.go", "Set(float64(len(b.roots)))\n\ts.store()", "Set(float64(len(b.roots)))", "TestTrustIsKept"),
		without("half of its life is an alarm", "source.go", "return !now.Before(c.Received.Add(end.Sub(c.Received) / 2))", "return now.Before(end) && false", overdue),
		without("the alarm is logged", "leaf.go", "overdue && !l.overdue && c != nil", "overdue && !l.overdue && c == nil", overdue),
		without("the clock's floor: built", "clock.go", "{c.built, \"this program was built\"}, ", "", floor),
		without("the clock's floor: signed", "clock.go", ", {c.newest(), \"the newest configuration was signed\"}", "", floor),
		without("nothing is renewed by a wrong clock", "rotator.go", "if r.tended(ctx) && r.due(ctx) {", "if _ = r.tended(ctx); r.due(ctx) {", "TestRotatorWaitsForTheClock"),
		without("a clock that is put back is followed", "rotator.go", "*at = at.Add(-back)", "*at = at.Add(0)", "TestRotatorWhenTheClockWasAhead"),
		without("for the roots too", "leaf.go", " && l.nextBundle.Sub(now) <= 2*bundleMost", "", "TestRotatorWhenTheClockWasAhead"),
		without("what is on disk waits for the clock", "keep.go", "if s.deferred = s.clock.Check() != nil; s.deferred {", "if s.deferred = s.clock.Check() != nil; false {", "TestRotatorWaitsForTheClock"),
		without("a failed self check shows", "source.go", "if err := s.onWire.Load(); err != nil && *err != nil {", "if err := s.onWire.Load(); false {\n\t\t_ = err", "TestAFailedSelfCheckShows"),
	}
}
