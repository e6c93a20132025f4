package main

// registrations is what is believed of what nodes register.
func registrations() []control {
	const believed, once = "TestDocumentsAreBelievedOfTheirNodeAlone", "TestACertificateIsVerifiedOnce"
	return []control{
		without("a document's signature is verified", "document_sign.go", "if !ecdsa.VerifyASN1(known.key, documentDigest(meshName, key.node, key.role, e.Document), e.Signature) {", "if known == nil {", believed),
		without("a document is signed", "document_sign.go", "if len(e.Signature) == 0 || len(e.Certificates) == 0 {", "if len(e.Certificates) == 0 {", believed),
		without("a document is its node's", "document_sign.go", "if id != want {", "if id.IsZero() {", believed),
		without("a node's certificate leads to the mesh's root", "document_sign.go", "id, err := identity.VerifySVID(chain, bundle, x509.ExtKeyUsageClientAuth, at)\n\tif err != nil {", "id, err := identity.VerifySVID(chain, bundle, x509.ExtKeyUsageClientAuth, at)\n\tif id.IsZero() {", believed),
		without("a document is for one mesh", "document_sign.go", "\"hedgerow instance document 1\", meshName, node", "\"hedgerow instance document 1\", \"m\", node", believed),
		without("a document is for one role", "document_sign.go", "meshName, node, role, \"\"}", "meshName, node, \"\"}", believed),
		without("a node's key is of one curve", "document_sign.go", "if !ok || key.Curve != elliptic.P256() {", "if !ok || key.Curve == elliptic.P224() {", believed),
		without("a chain is bounded", "document_sign.go", "if len(e.Certificates) > maxChain || n > maxChainBytes {", "if n < 0 {", believed+"|TestTheLargestDocumentFitsItsEnvelope"),
		without("a certificate that has ended signs nothing new", "document_sign.go", "c.bundle == bundle && !at.After(c.until) && ", "c.bundle == bundle && ", once),
		without("other roots have certificates verified anew", "document_sign.go", "c != nil && c.bundle == bundle && ", "c != nil && ", once),
		without("another certificate is verified", "document_sign.go", " && bytes.Equal(c.leaf, der)", " && len(der) == len(c.leaf)", once),
		without("what is refused takes nothing away", "watch_instances.go", "if raw != \"\" && !w.outlived(key, h, now) {", "if raw != \"\" && raw == h.raw && !w.outlived(key, h, now) {", "TestWhatIsRefusedTakesNothingAway"),
		without("a document that is kept there ends", "watch_instances.go", "if h.doc == nil || !h.doc.expired(now) {", "if h.doc == nil || now.IsZero() {", "TestADocumentThatIsKeptThereEnds|TestWhatIsRefusedTakesNothingAway"),
		without("who is gone does not come back by old words", "watch_instances.go", "if ok && seq < f.seq {", "if false {", "TestADocumentOfAProcessThatIsGoneIsNotTaken"),
		without("documents wait for roots", "watch_instances.go", "if bundle == nil {\n\t\tw.lastPoll,", "if bundle == nil && len(w.instances.floors) > 0 {\n\t\tw.lastPoll,", "TestDocumentsWaitForRoots"),
		without("a new certificate signs at once", "lease.go", " || cert.Leaf != l.signed", "", "TestLeaseIsRewrittenForANewCertificate"),
	}
}
