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
		without("processes of a node take turns", "node.go", "syscall.LOCK_EX|syscall.LOCK_NB", "syscall.LOCK_SH|syscall.LOCK_NB", "TestALockIsWaitedForAndNotForever"),
	}
}
