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

// trustPolicies is what policies ask beside identities, methods and paths.
func trustPolicies() []control {
	const callers, conditions, audit = "TestPolicyCallers", "TestConditions", "TestAuditPolicies"
	return []control{
		without("blocks are asked for", "policy_match.go", "if len(f.blocks) > 0 && !f.inBlock(c.Remote) {", "if len(f.blocks) > 0 && false {", callers),
		without("IPv4 is IPv4", "policy_match.go", "addr = addr.Unmap().WithZone(\"\")", "_ = addr.Unmap()", callers),
		without("devices are asked for", "policy_match.go", "if len(f.devices) > 0 && !f.ofDevice(", "if len(f.devices) > 1<<20 && !f.ofDevice(", callers),
		without("only a bridge says whose message it is", "policy_match.go", "!ok || service != bridgeService || ", "", callers).and("if service, _, ok :=", "if _, _, _ ="),
		without("a bridge of this mesh", "policy_match.go", " || r.Peer.TrustDomain() != trustDomain {", " {", callers),
		without("one device", "policy_match.go", "return only(r.Fields, deviceHeader)", "v, _ := r.Fields.Get(deviceHeader)\n\treturn v", callers),
		without("letters matter unless told", "policy_match.go", "p.fold && strings.EqualFold(a, b)", "strings.EqualFold(a, b)", "TestPolicyRules"),
		without("letters do not matter if told", "policy_match.go", "p.fold && strings.EqualFold(a, b)", "false", callers+"|TestHostilePathsThroughTheMesh"),
		without("a condition is asked", "policy_match.go", "return to && (r.when == nil || r.when.holds(c, path, deny))", "return to", conditions),
		without("a condition without a value is against the caller", "condition.go", "w.failed.Add(1)\n\t\treturn deny", "w.failed.Add(1)\n\t\treturn !deny", conditions),
		without("a pattern of a condition is bounded", "condition.go", "err = mesh.BoundRegex(pattern)", "_ = pattern", "TestConditionsThatAreRefused"),
		without("a malformed query has no value", "condition.go", "if err != nil { // the workload", "if err != nil && false { // the workload", "TestConditionsOnOddRequests"),
		without("a device of another mesh is none to conditions", "condition.go", "deviceOf(r, f.trustDomain)", "deviceOf(r, r.Peer.TrustDomain())", "TestConditionsOnOddRequests"),
		without("a denial looks at few conditions", "policy_match.go", "if *conditions == 0 {", "if false {", "TestNearMissesCostLittle"),
		without("an ALLOW with a condition lets no connection in", "policy_match.go", "len(r.to) == 0 && r.when == nil", "len(r.to) == 0", "TestConditionsOfConnections"),
		without("a condition's cost is bounded", "condition.go", "if cost.Max > maxConditionCost {", "if false {", "TestConditionsThatAreRefused"),
		without("no caller chooses a pattern", "condition.go", "if err := checkPatterns(compiled); err != nil {", "if err := checkPatterns(compiled); false {", "TestConditionsThatAreRefused"),
		without("a condition is true or false", "condition.go", "if compiled.OutputType() != cel.BoolType {", "if false {", "TestConditionsThatAreRefused"),
		without("an AUDIT policy decides nothing", "policy.go", "set.audit = append(set.audit, p)", "set.allow.all = append(set.allow.all, p)", audit),
		without("what an AUDIT would change is told", "policy.go", "return s.audit[0], mesh.Deny", "return nil, \"\"", audit),
		without("policies of any caller are found", "policy_index.go", "callers := it.l.anyCaller[word]", "callers := uint64(0)", "TestPolicyIndexDecidesAsAll"),
		without("policies of any path are found", "policy_index.go", "paths := it.l.anyPath[word]", "paths := uint64(0)", "TestPolicyIndexDecidesAsAll"),
		without("either reading of a path is found", "policy_index.go", "c.TCP || c.other != \"\" ||", "c.TCP ||", "TestPolicyIndexDecidesAsAll"),
		without("a connection has no path", "policy_index.go", "c.TCP || c.other != \"\" ||", "c.other != \"\" ||", "TestPolicyIndexDecidesAsAll"),
		without("a final slash is found", "policy_index.go", "literal := strings.TrimSuffix(p.literal, \"/\")", "literal := p.literal", "TestPolicyIndexDecidesAsAll"),
		without("folded paths are found", "policy_index.go", "if paths[k].fold {", "if false {", "TestPolicyIndexDecidesAsAll"),
	}
}

// trustKept is what identities on disk are worth.
func trustKept() []control {
	const kept, refused = "TestASourceIsKept", "TestWhatIsKeptAndRefused"
	return []control{
		without("a credential is kept", "source.go", "if err := s.keep(s.current.Load()); err != nil {", "if err := error(nil); err != nil {", kept),
		without("a credential is taken", "keep.go", "err = s.put(key, issued, received, at)", "_, _, _, _ = key, issued, received, at", kept),
		without("what others could read is not", "keep.go", "if info.Mode().Perm()&0o077 != 0 {", "if false {", refused),
		without("a file is bounded", "keep.go", "if len(raw) > maxKeptBytes {", "if false {", refused),
		without("what is not kept shows", "source.go", "s.unkept.Store(&err)", "", "TestWhatCannotBeKeptIsInUse"),
	}
}

// trustDigests is what a digest stands for.
func trustDigests() []control {
	return []control{
		without("a record is not two", "digest.go", "if strings.IndexByte(l[i].name, 0) >= 0 {", "if false {", "TestDigestCoversEveryRecord"),
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
		without("keys are there before a head", "publish.go", "_, signers := c.trust.Keys()\n", "var signers []byte\n", "TestKeysAreThereBeforeAHead"),
		without("a change that was published stays one", "publish.go", "if repair {\n", "if true {\n", "TestRepublishingLeavesAChangeThatWasPublished"),
		without("a Redis may learn functions", "tokens.go", "c.scripts.Store(false)", "", "TestTokensAfterAnUpgrade"),
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
