package main

// trustSigning is whose configuration is taken.
func trustSigning() []control {
	const heads, keys = "TestHeadsThatAreBelieved", "TestKeysThatAreLearned"
	return []control{
		without("a head's signature is verified", "verifier.go", "if err != nil || !ed25519.Verify(key.PublicKey, headMessage(v.mesh, h), signature) {", "if err != nil && ed25519.Verify(key.PublicKey, headMessage(v.mesh, h), signature) {", heads),
		without("a head is signed", "verifier.go", "case h.Signature == \"\" || h.KeyID == \"\":", "case false:", heads),
		without("a key that expired signs nothing", "verifier.go", "case now.After(key.NotAfter):", "case false:", heads),
		without("the roots say the epoch", "verifier.go", "case h.Epoch != keys.Epoch:", "case false:", heads),
		without("a revoked key signs nothing", "keyset.go", "if slices.Contains(k.Revoked, id) {", "if slices.Contains(k.Revoked, id+\"x\") {", "TestRevokeExpireAndBumpEpoch"),
		without("the mesh is signed", "signing.go", "message(\"hedgerow configuration 1\", meshName,", "message(\"hedgerow configuration 1\", \"m\",", heads),
		without("the epoch is signed", "signing.go", "strconv.FormatUint(uint64(h.Epoch), 10), ", "", heads).and("strconv.FormatUint(uint64(h.Revision), 10)", "strconv.FormatUint(uint64(h.Revision), 10)+\"\""),
		without("the revision is signed", "signing.go", "strconv.FormatUint(uint64(h.Revision), 10)", "\"0\"", heads),
		without("the digest is signed", "signing.go", "h.Digest, h.Time", "\"\", h.Time", heads),
		without("the time is signed", "signing.go", "h.Time.UTC().Format(time.RFC3339Nano)", "time.Time{}.Format(time.RFC3339Nano)", heads),
		without("a root signed the keys", "keyset.go", "if !ed25519.Verify(root, keySetMessage(s.KeySet), s.Signature) {", "if len(root) == 0 {", keys),
		without("the root is pinned", "keyset.go", "root, known := roots[s.Root]\n\tif !known {", "root, known := roots[s.Root]\n\tfor _, root = range roots {\n\t}\n\tif !known && len(roots) == 0 {", keys),
		without("keys are of this mesh", "keyset.go", "case k.Mesh != meshName:", "case false:", keys),
		without("keys do not go back", "verifier.go", "if known != nil && keys.Serial <= known.keys.Serial {", "if false {", keys),
		without("a key has its own name", "keyset.go", "key.ID != KeyID(key.PublicKey)", "false", keys),
		without("a key's life is bounded", "keyset.go", "if key.NotAfter.After(k.Time.Add(MaxKeyLife)) {", "if false {", keys),
		without("a revoked key is not delegated to again", "ceremony.go", "if _, revoked := k.key(id); revoked {", "if false {", "TestRevokeExpireAndBumpEpoch"),
		without("a private key is its owner's", "key.go", "if info.Mode().Perm()&0o077 != 0 {", "if false {", "TestKeyFiles"),
	}
}

// trustRegistry is what a data plane takes from Redis and from disk.
func trustRegistry() []control {
	return []control{
		without("a head is believed before it is applied", "watch_config.go", "if r := w.believe(head); r != nil {", "if r := w.believe(head); false {", "TestWatchRefuses"),
		without("a change's head is believed", "watch_config.go", "if r == nil {\n\t\t\tr = w.believe(change.Head)\n\t\t}", "", "TestWatchRefuses"),
		without("nothing older is applied", "watch_config.go", "case head.Before(s.floor):", "case false:", "TestWatchRefuses|TestNothingOlderIsAppliedAfterARestart"),
		without("no older change is applied", "watch_config.go", "if r := w.config.goesBack(head); r != nil {", "if r := w.config.goesBack(head); false {", "TestNothingOlderIsAppliedAfterARestart"),
		without("no other history is applied", "watch_config.go", "case !s.floor.Before(head) && head.Digest != s.floor.Digest:", "case false:", "TestWatchRefuses"),
		without("what was applied is remembered", "watch_config.go", "\tw.raiseFloor(head)\n", "", "TestNothingOlderIsAppliedAfterARestart"),
		without("what was remembered is read", "watch.go", "\t\tw.loadFloor()\n", "", "TestNothingOlderIsAppliedAfterARestart"),
		without("the disk is not believed", "watch_disk.go", "r = unbelieved(w.client.trust.Kept(s.Head))", "r = nil", "TestASnapshotOnDiskIsVerified").and("r := unbelieved(err)", "var r *refusal"),
		without("what nobody signed is overwritten", "publish.go", "if err == nil && c.trust.Head(head, time.Now()) == nil {", "if err == nil && head.Revision > 0 {", "TestWatchRefuses"),
		without("a head is signed again in Redis", "republish.go", "if intact && (head.Time.After(found.head.Time) ||", "if intact && (false ||", "TestAHeadIsSignedAgain"),
		without("keys are published", "republish.go", "found.keys != string(keys)", "false", "TestKeysChangeAndAreRevoked"),
	}
}

// trustWrites is what a control plane signs.
func trustWrites() []control {
	return []control{
		without("a write is signed", "writer.go", "if err := w.sign(ctx, p); err != nil {", "if err := w.sign(ctx, p); false {", "TestAWriteThatCannotBeSignedStoresNothing"),
		without("the newest head is signed again", "sign.go", "w.now().Sub(head.Time) >= signEvery", "false", "TestTheNewestHeadIsSignedAgain"),
		without("another epoch is a revision", "sign.go", "if w.authority.Epoch() > head.Epoch {\n\t\treturn w.newEpoch", "if false {\n\t\treturn w.newEpoch", "TestAnotherEpochIsARevision"),
		without("that nothing is signed shows", "sign.go", "w.signError.Store(&err)", "", "TestTheNewestHeadIsSignedAgain"),
	}
}
