package main

// registrations is what is believed of what nodes register.
func registrations() []control {
	const believed, once = "TestDocumentsAreBelievedOfTheirNodeAlone", "TestACertificateIsVerifiedOnce"
	return []control{
		without("a document's signature is verified", "document_sign.go", "if !ecdsa.VerifyASN1(known.key, documentDigest(meshName, key.node, key.role, e.Document), e.Signature) {", "if known == nil {", believed),
		without("a document is signed", "document_sign.go", "if len(e.Signature) == 0 || len(e.Certificates) == 0 {", "if len(e.Certificates) == 0 {", believed),
		without("a document is its node's", "document_sign.go", "if id != want {", "if id.IsZero() && id != want {", believed),
		without("a node's certificate leads to the mesh's root", "document_sign.go", "id, err := identity.VerifySVID(chain, bundle, x509.ExtKeyUsageClientAuth, at)\n\tif err != nil {", "id, err := identity.VerifySVID(chain, bundle, x509.ExtKeyUsageClientAuth, at)\n\tif err != nil && id != want && chain[0].IsCA {", believed),
		without("a document is for one mesh", "document_sign.go", "\"hedgerow instance document 1\", meshName, node", "\"hedgerow instance document 1\", \"m\", node", believed),
		without("a document is for one role", "document_sign.go", "meshName, node, role, \"\"}", "meshName, node, \"\"}", believed),
		without("a node's key is of one curve", "document_sign.go", "if !ok || key.Curve != elliptic.P256() {", "if !ok || key.Curve == elliptic.P224() {", believed),
		without("a chain is bounded", "document_sign.go", "if len(e.Certificates) > maxChain || n > maxChainBytes {", "if n < 0 {", believed+"|TestTheLargestDocumentFitsItsEnvelope"),
		without("a certificate that has ended signs nothing new", "document_sign.go", "c.bundle == bundle && !at.After(c.until) && ", "c.bundle == bundle && ", once),
		without("other roots have certificates verified anew", "document_sign.go", "c != nil && c.bundle == bundle && ", "c != nil && ", once),
		without("another certificate is verified", "document_sign.go", " && bytes.Equal(c.leaf, der)", " && bytes.Equal(c.leaf[:1], der[:1])", once),
		without("what is refused takes nothing away", "watch_instances.go", "if raw != \"\" && !w.outlived(key, h, now) {", "if raw != \"\" && raw == h.raw && !w.outlived(key, h, now) {", "TestWhatIsRefusedTakesNothingAway"),
		without("a document that is kept there ends", "watch_instances.go", "if h.doc == nil || !h.doc.expired(now) {", "if h.doc == nil || now.IsZero() {", "TestADocumentThatIsKeptThereEnds|TestWhatIsRefusedTakesNothingAway"),
		without("who is gone does not come back by old words", "watch_instances.go", "if ok && seq < f.seq {", "if false {", "TestADocumentOfAProcessThatIsGoneIsNotTaken"),
		without("documents wait for roots", "watch_instances.go", "if bundle == nil {\n\t\tw.lastPoll,", "if bundle == nil && len(w.instances.floors) > 0 {\n\t\tw.lastPoll,", "TestDocumentsWaitForRoots"),
		without("a new certificate signs at once", "lease.go", " || cert.Leaf != l.signed", "", "TestLeaseIsRewrittenForANewCertificate"),
		without("a clock that was ahead shuts nobody out", "document.go", "d.Seq = 0 // by", "// by", "TestDocumentsAfterTheClockWasAhead"),
	}
}

// redisUsers is what the users of nodes may do in Redis, and who keeps them.
func redisUsers() []control {
	const rules, may, follow, passwords = "TestRulesAreOfANodeAlone", "TestWhatANodeMayDo", "TestUsersFollowTheNodes", "TestUsersFollowTheirPasswords"
	return []control{
		without("a node writes under its own keys alone", "users.go", "~\"+k.prefix+\"inst:\"+node+\"/*)\"", "~\"+k.prefix+\"inst:*)\"", may),
		without("a pattern is no node", "users.go", "if !mesh.ValidID(node) {", "if false && !mesh.ValidID(node) {", rules),
		without("a digest is a digest", "users.go", "if b, err := hex.DecodeString(digest); err != nil || len(b) != 32 || digest != strings.ToLower(digest) {", "if b, err := hex.DecodeString(digest); err != nil && len(b) > 32 {", rules),
		without("a node reads what nodes read", "users.go", "k.prefix + \"dev:\" + node}", "k.prefix + \"*\"}", may),
		without("a node writes no configuration", "users.go", "\"%R~\"+pattern", "\"~\"+pattern", may).and("\"(-@all +set +del +pexpire ~\"", "\"+set\", \"+del\", \"(-@all +set +del +pexpire ~\""),
		without("a node runs no scripts", "users.go", "\"+get\", \"+getrange\",", "\"+get\", \"+eval\", \"+getrange\",", may),
		without("who is gone has no user", "users_server.go", "_, wanted := want[strings.TrimPrefix(name, userPrefix)]; !wanted && ", "_, wanted := want[strings.TrimPrefix(name, userPrefix)]; !wanted && false && ", follow),
		without("another mesh's users are left alone", "users_server.go", "!wanted && listed[name].ours(u.client.keys)", "!wanted", follow),
		without("another mesh's user is not taken over", "users_server.go", "case ok && !there.ours(u.client.keys):", "case false:", follow),
		without("what somebody changed is set right", "users_server.go", "setUser{strings.Join(one, \" \"), there.line}", "setUser{strings.Join(one, \" \"), s.set[name].line}", follow),
		without("a withdrawn password keeps no connection", "users_server.go", "if ok && !there.has(digest) {", "if false {", passwords),
		without("nor later, if that failed", "users_server.go", "maps.DeleteFunc(s.kill, func(name string, _ bool) bool { return listed[name].name == \"\" })", "clear(s.kill)", "TestConnectionsOfAnOldPasswordAreEndedInTheEnd"),
		without("passwords that are away take nobody's user", "users_run.go", "away = mesh.KindOf(err) == mesh.Unavailable", "away = mesh.KindOf(err) == mesh.Unavailable\n\t\t\t\tcontinue", passwords),
		without("users are on the replicas too", "users_server.go", "for _, r := range replicas {", "for _, r := range replicas[:0] {", "TestUsersAreOnEveryServer"),
		without("users are saved", "users_server.go", "err := s.redis.Do(ctx, \"ACL\", \"SAVE\").Err()", "err := s.redis.Ping(ctx).Err()", "TestUsersOutliveARestart"),
	}
}

// dialLists is where proxies dial.
func dialLists() []control {
	const lists, outside = "TestMetadataHasToBeListedAsSuch", "TestServicesOutsideAreWhereProxiesDial"
	return []control{
		without("metadata has to be listed as such", "dial.go", "return block.Bits() >= g.Bits()", "return true", lists+"|"+outside),
		without("no address of this machine is stored", "dial.go", "!addr.IsLoopback() && ", "", outside),
		without("localhost is this machine", "dial.go", "address != \"localhost\" && ", "", outside),
	}
}
