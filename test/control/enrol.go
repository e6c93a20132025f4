package main

// enrolNodes is what the certificate of a node is, and what it is not.
func enrolNodes() []control {
	const verify, kept = "TestVerifyNode", "TestANodeThatIsNotKept"
	return []control{
		without("a node's certificate is a node's", "svid.go", "if node, ok = id.Node(); !ok || certs[0].Subject.CommonName != node {", "if node, ok = id.Node(); !ok && certs[0].Subject.CommonName == \"\" {", verify),
		without("a node is known to Vault by its name", "svid.go", "!ok || certs[0].Subject.CommonName != node {", "!ok {", verify),
		without("a certificate is this node's", "node.go", "if want, _ := id.Node(); node != want ||", "if node == \"\" ||", kept),
		without("a node's certificate is for its key", "node.go", "!ok || !public.Equal(key.Public()) {", "!ok || public == nil {", kept),
		without("a node is renewed once", "node.go", "if r.fresh() {", "if false {", "TestANodeIsRenewedOnce"),
		without("a node is renewed that peers refuse", "node.go", "err != nil || !n.denies.renewFrom(n.id, c).IsZero()", "err != nil", "TestTheCertificateOfAReleasedNodeIsRenewed"),
		without("a full disk costs no identity", "node.go", "n.current, n.unkept = c, true", "n.unkept = false", "TestANodeIsRenewedWithoutADisk"),
		without("what was not written is written later", "node.go", "return r.rewrite() // it was", "return nil // it was", "TestANodeIsRenewedWithoutADisk"),
		without("processes of a node take turns", "node.go", "syscall.LOCK_EX|syscall.LOCK_NB", "syscall.LOCK_SH|syscall.LOCK_NB", "TestALockIsWaitedForAndNotForever"),
	}
}

// enrolTokens is what becomes of join tokens.
func enrolTokens() []control {
	const tokens, reports = "TestTokens", "TestReportsNeedTheProof"
	return []control{
		without("a report needs the proof", "join.go", "[]byte(j.Proof)) == 1 && known", "[]byte(j.Proof)) < 2 && known", reports),
		without("a refused token is an alarm", "join.go", "return m.raise(ctx, j, Refused, remote)", "return nil", tokens),
		without("a used token that nobody enrols with is an alarm", "join.go", "case !j.Used.IsZero() && now.Sub(j.Used) >= enrolWithin:", "case false:", tokens),
		without("a token that nobody watched is an alarm", "join.go", "case j.Used.IsZero() && !now.Before(j.Expires) && !j.ended(now):", "case false:", "TestTokensOutliveTheControlPlane"),
		without("a token is kept before it is given out", "join.go", "if err := m.save(ctx, j); err != nil {\n\t\treturn Invitation{}", "if err := m.save(ctx, j); false {\n\t\treturn Invitation{}", "TestATokenIsKeptBeforeItIsGivenOut"),
		without("the token itself is not kept", "join.go", "Proof: proofOf(inv.Token)", "Proof: inv.Token", tokens),
		without("wrong proofs are limited", "join.go", "if m.limit.spent(remote) {", "if m.limit.spent(remote); false {", "TestReportsAreLimited"),
		without("reports of one token are limited", "join.go", "if !m.limit.allow(j.Proof) {", "if m.limit.allow(j.Proof); false {", "TestReportsAreLimited"),
		without("the limiter is bounded", "limit.go", "if !known && len(l.remotes) >= maxRemotes {\n\t\tfor", "if !known && false {\n\t\tfor", "TestTheLimiterIsBounded"),
		without("nothing is withdrawn before anything is known", "reconcile.go", "if ctx.Err() != nil || !keep && !known {", "if ctx.Err() != nil {", "TestNothingIsWithdrawnBeforeAnythingIsKnown").and("if known && !m.listed {", "if known || !m.listed {"),
		without("what Vault has too much is found", "reconcile.go", "\tfor _, node := range names {\n\t\tm.entry(node)\n\t}\n}", "\t_ = names\n}", "TestVaultFollowsTheConfiguration"),
		without("who was shut out does not come back", "reconcile.go", "if wanted, known := m.opt.Wanted(); known {", "if wanted, known := m.opt.Wanted(); known && false {", "TestANodeThatIsShutOutDoesNotComeBack"),
	}
}

// enrolHosts is what a host does with a join file.
func enrolHosts() []control {
	const crash, file = "TestACrashAtEveryStep", "TestReadJoinFile"
	return []control{
		without("a secret is saved before it is used", "enroll.go", "return secret, w.put(secretFile, []byte(secret))", "return secret, nil", crash),
		without("a token is saved before it is used", "enroll.go", "if _, ok, err := w.get(tokenFile); ok || err != nil {", "if _, _, err := w.get(tokenFile); err != nil {", crash),
		without("who comes second is told, and tells", "enroll.go", "if report := w.Report(ctx, w.JoinFile, w.proof, false); report != nil {", "if report := error(nil); report != nil {", "TestATokenThatIsRefused"),
		without("what is spent is deleted", "enroll.go", "\tif err := w.clean(); err != nil {\n\t\treturn err\n\t}\n\tif r.Reported {", "\tif r.Reported {", "TestAHostEnrols"),
		without("a report is made up for", "enroll.go", "r.Reported = true\n\treturn w.record(r)", "return w.record(r)", "TestAHostEnrols"),
		without("one run at a time", "enroll.go", "syscall.LOCK_EX|syscall.LOCK_NB", "syscall.LOCK_SH|syscall.LOCK_NB", "TestTwoRunsAtOnce"),
		without("a join file is its owner's", "enrolment.go", "if info.Mode().Perm()&0o077 != 0 {", "if false {", file),
		without("a proof goes nowhere in the clear", "enrolment.go", "case u.Scheme == \"https\", u.Scheme == \"http\" &&", "case u.Scheme == \"https\", u.Scheme == \"http\" ||", file),
	}
}
