package main

// quarantineDenies is whose certificates are refused.
func quarantineDenies() []control {
	const refuse, boundary = "TestDeniesRefuse", "TestCertificatesFromAtItsBoundary"
	return []control{
		without("a node is shut out whatever certificate it has", "quarantine.go", "deny{all: q.Active(), from: from}", "deny{from: from}", refuse),
		without("a gateway that the node could serve is shut", "quarantine.go", "d.gateways[g] = d.gateways[g].and(deny{from: from})", "_ = g", refuse),
		without("the node's own certificate is refused", "quarantine.go", "node, ok := id.Node()\n", "node, ok := \"\", false\n", refuse),
		without("certificates from before are refused", "quarantine.go", "return denied && (found.all || notBefore.Before(found.from))\n}\n\n// From", "return denied && found.all\n}\n\n// From", refuse+"|"+boundary),
		without("the later of two times holds", "quarantine.go", "if other.from.After(d.from) {", "if d.from.IsZero() {", "TestDeniesAdd"),
		without("clocks differ", "quarantine.go", "t.Add(ClockSkew - backdate + time.Second)", "t.Add(time.Second - backdate)", boundary),
		without("a NotBefore is cut to a second", "quarantine.go", "t.Add(ClockSkew - backdate + time.Second)", "t.Add(ClockSkew - backdate)", boundary),
		without("what is not understood shuts out", "config.go", "c.Put(closedQuarantine(name))", "_ = id", "TestAQuarantineThatCannotBeReadShutsOut"),
		without("what is not understood shuts out when it is taken over", "config.go", " && of != Quarantines {", " {", "TestAQuarantineThatCannotBeReadShutsOut"),
		without("a release has a time to go by", "quarantine.go", "if q.ReleaseTime != nil && q.CertificatesFrom == nil {", "if false {", "TestAQuarantineThatCannotBeReadShutsOut"),
		without("a deny lives as long as what it denies", "quarantine.go", "q.ReleaseTime.Add(LongestLife+ClockSkew)", "*q.ReleaseTime", "TestQuarantineValidation"),
		without("nobody is released by time", "quarantine.go", "return !q.Active() && now.After(q.ReleaseTime", "return now.After(q.Time", "TestQuarantineValidation"),
	}
}

// quarantineHandshakes is who asks it.
func quarantineHandshakes() []control {
	return []control{
		without("handshakes ask", "tls.go", "return id, s.denies.Check(id, state.PeerCertificates[0].NotBefore)", "return id, nil", "TestHandshakesRefuseWhoIsDenied"),
		without("a certificate that peers refuse is renewed", "rotator.go", "|| r.refused(now) {", "{", "TestACertificateThatPeersRefuseIsRenewed"),
		without("it is not asked for in vain", "denies.go", "if !ok || !leaf", "if !leaf", "TestACertificateOfAQuarantinedNodeIsNotRenewedForThat").and("from, ok :=", "from, _ :="),
	}
}

// quarantineConnections is what stands.
func quarantineConnections() []control {
	const stands, sockets, tcp = "TestQuarantineCutsWhatStands", "TestQuarantineCutsWebSockets", "TestQuarantineCutsTCP"
	return []control{
		without("what stands is cut", "standing.go", "c.breakOff()", "_ = c", stands+"|"+sockets+"|"+tcp),
		without("what peers made is cut", "listener.go", "if err := l.e.standing.enter(secure, &state); err != nil {", "if err := error(nil); err != nil {", stands+"|"+sockets+"|"+tcp),
		without("what was made to peers is cut", "upstream_peers.go", "if err := ps.standing.enter(conn, &state); err != nil {", "if err := error(nil); err != nil {", stands+"|"+sockets+"|"+tcp),
		without("others are not cut", "standing.go", "if next.Refuses(peer.ID, peer.NotBefore) {", "if peer.ID.String() != \"\" {", "TestQuarantineTouchesNobodyElse"),
	}
}

// quarantineRegistry is what a data plane drops, and what it says.
func quarantineRegistry() []control {
	return []control{
		without("what the node registered is dropped", "watch_instances.go", "if h.doc == nil || w.denied(key.node, h.by) {", "if h.doc == nil {", "TestAQuarantinedNodeIsDeniedAndDropped"),
		without("a snapshot says who is denied", "watch.go", "Denies: w.config.denies, ", "", "TestAQuarantinedNodeIsDeniedAndDropped|TestRedisCannotLiftAQuarantine"),
		without("the deny list is on disk", "watch_disk.go", ", denies: w.denies(decoded)}", "}", "TestAQuarantinedNodeIsDeniedAndDropped"),
		without("what the roots deny is denied", "watch_config.go", "mesh.NewDenies(config.Quarantines, keys.Quarantines())", "mesh.NewDenies(config.Quarantines)", "TestRootsShutANodeOut"),
		without("it needs no revision", "watch_config.go", "\t\tw.rootsDeny()\n", "", "TestRootsShutANodeOut"),
		without("whoever learned it first", "watch_config.go", "keys != w.deniedBy {", "len(keys.Denied) > 64 {", "TestRootsShutANodeOutOfSnapshotsOfWhoLearnedItFirst"),
		without("what was carried out is told", "lease.go", "d.Contained = next", "_ = next", "TestLeaseReportsQuarantines"),
		without("its time is told once", "lease.go", "next[i].Time = d.Contained[at].Time", "_, _ = i, at", "TestLeaseReportsQuarantines"),
		without("a report is bounded", "lease.go", "next = next[:min(len(next), maxContained)]", "", "TestLeaseReportsQuarantines"),
	}
}

// quarantineWrites is what lifts a quarantine, and what a receipt says.
func quarantineWrites() []control {
	const lift, receipt = "TestNothingButAReleaseLiftsAQuarantine", "TestQuarantineReceipt"
	return []control{
		without("an apply lifts none", "apply.go", "if !slices.Contains(mesh.Collections(), mesh.Collection(of)) {", "if of == \"\" && !slices.Contains(mesh.Collections(), mesh.Collection(of)) {", lift),
		without("a release has a later time", "quarantine.go", "q.ReleaseTime, q.ReleasedBy, q.CertificatesFrom = &now, callerOf(ctx).name, &from", "q.ReleaseTime, q.ReleasedBy = &now, callerOf(ctx).name\n\t\t_ = from", lift),
		without("a receipt is of this quarantine", "containment.go", "!done.Since.Equal(p.since) ||", "", receipt),
		without("no clock is believed to be early", "containment.go", "if at.Before(p.since) {", "if false {", receipt),
		without("nobody who is shut out is waited for", "containment.go", "(of == q.ID() || shutOut(config, of))", "of == q.ID()", "TestQuarantineWaitsForNobodyWhoIsShutOut"),
		without("what failed shows", "containment.go", "case w.err != nil:", "case false:", receipt),
		without("what failed is tried again", "containment.go", "due := w.done.IsZero() &&", "due := w.done.IsZero() && w.tries == 0 &&", receipt),
		without("what a gateway got meanwhile is refused", "containment.go", "err = s.refuseLater(ctx, q.ID())", "_ = s.refuseLater", "TestCertificatesOfGatewaysUntilTheWithdrawalAreRefused"),
	}
}

// quarantineSessions is a bridge whose own node it is.
func quarantineSessions() []control {
	return []control{
		without("the bridge leaves its broker", "external.go", "if suspended {", "if suspended && e == nil {", "TestExternalLeavesWhileItsNodeIsInQuarantine"),
		without("the bridge stays away", "external.go", "e.bridge.allowed(ctx)", "ctx.Err() == nil", "TestExternalLeavesWhileItsNodeIsInQuarantine"),
	}
}

// quarantineBroker is the sessions of the embedded broker.
func quarantineBroker() []control {
	return []control{
		without("sessions are cut", "listener.go", "left = slices.Collect(maps.Keys(l.conns))", "_, _ = slices.Collect[*conn], maps.Keys[map[*conn]struct{}]", "TestQuarantineCutsEverySession"),
		without("nobody is admitted", "listener.go", "case l.away:", "case false:", "TestQuarantineCutsEverySession"),
	}
}
