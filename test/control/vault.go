package main

// trustVault is how Vault is reached and logged in to.
func trustVault() []control {
	const another, config = "TestAnotherAddressServes", "TestConfig"
	return []control{
		without("another address is tried", "nodes.go", "for i := range g.nodes.urls {", "for i := range g.nodes.urls[:1] {", another),
		without("a node that does not serve is left", "nodes.go", "case !elsewhere(res.StatusCode):", "case true:", another),
		without("the address that serves stays in use", "nodes.go", "g.nodes.used.Store(int32(at))", "_ = int32(at)", another),
		without("a silent node costs one timeout", "nodes.go", "late := time.AfterFunc(g.timeout, cancel)", "late := time.AfterFunc(time.Hour, cancel)", another).and("ResponseHeaderTimeout: timeout,", "").orHangs(),
		without("a refusal is not asked elsewhere", "nodes.go", "return status >= 500 ||", "return status >= 400 ||", "TestARefusalIsNotAskedElsewhere"),
		without("no token over a plain network", "nodes.go", "if err := checkTransport(u); err != nil {", "if err := checkTransport(u); false {", "TestRedirectToPlainHTTPIsRefused"),
		without("a certificate logs in over TLS", "access.go", "!strings.HasPrefix(address, \"https:\")", "false", config),
		without("there is one login", "access.go", "if ways != 1 {", "if false {", config),
		without("a token refused is replaced", "access.go", "if !forbidden(err) {", "if true {", "TestTokenLife"),
		without("the entry of the certificate is named", "login.go", "if leaf.Subject.CommonName == \"\" {", "if false {", "TestRealVaultLoginByCertificate"),
		without("a token that lives is not given up", "session.go", "if s != nil && s != refused && time.Now().Round(0).Before(s.expires) {\n\t\t\tv.log", "if false {\n\t\t\tv.log", "TestATokenOutlivesAFailedLogin"),
		without("a dry run writes nothing", "bootstrap.go", "if b.DryRun {\n\t\tb.say(\"would write %s\", path)", "if false {\n\t\tb.say(\"would write %s\", path)", "TestRealVaultBootstrap"),
		without("a Vault of another mesh is left alone", "bootstrap.go", "if data[\"mesh\"] != b.Mesh ||", "if false && data[\"mesh\"] != b.Mesh ||", "TestRealVaultBootstrap"),
		without("a CA of leaves signs no CA", "bootstrap.go", "\"not_before_duration\": issuerBackdate, \"max_path_length\": 0,", "\"not_before_duration\": issuerBackdate,", "TestRealVaultBootstrap").and("\"not_before_duration\": rootBackdate, \"max_path_length\": 1,", "\"not_before_duration\": rootBackdate,"),
		without("a secret_id is wrapped", "access.go", "return invitationLife.String()", "return \"\"", "TestRealVaultInvitation"),
		without("a wrap is of the node's login", "unwrap.go", "found.Data[\"creation_path\"] != want", "want == \"\"", "TestRealVaultInvitation"),
		without("an invitation voids those of before", "admin.go", "\tif err := a.v.remove(ctx, \"admin\", path); err != nil {\n\t\treturn nil, err\n\t}\n", "", "TestRealVaultInvitation"),
		without("a token that was used is not pending", "admin.go", "return uses == \"1\", nil", "return uses != \"\", nil", "TestRealVaultInvitation"),
		without("a withdrawn node's tokens end", "admin.go", "if err := a.disable(ctx, node); err != nil {", "if err := error(nil); err != nil {", "TestRealVaultNode").and("return a.v.remove(ctx, \"admin\", \"identity/entity/name/\"+node)", "return nil"),
		without("a node's name is one", "admin.go", "if !mesh.ValidID(node) || node == controlRole {", "if false {", "TestRealVaultNode"),
		without("a withdrawn node does not log in", "admin.go", "\"auth/cert/certs/\" + node, \"auth/approle", "\"auth/approle", "TestRealVaultNode"),
		without("who was the node before does not log in", "admin.go", "\"allowed_organizational_units\": n.unit(),", "\"allowed_organizational_units\": \"\",", "TestRealVaultNode"),
		without("Vault's signature is verified", "transit.go", "!ed25519.Verify(s.public, message, signature)", "false", "TestSignerVerifies"),
		without("a lost race is noticed", "log.go", "case there == value:", "case there != \"\":", "TestRealVaultLogRace|TestRealVaultLogCreateIsRepeatable"),
		without("a chunk is the one that the head names", "log.go", " || chunkName(chunk) != name", "", "TestRealVaultLogRefuses").and(" || c.Head != e.Head || leaves.Digest() != e.Head.Digest", ""),
		without("a revision follows the one before", "log.go", "if n != l.head.Revision+1 || c.Head.Epoch < l.head.Epoch {", "if false {", "TestRealVaultLogRefuses"),
		without("a head stays", "log.go", "if name == headName {", "if false {", "TestRealVaultLogSnapshots"),
		without("a new control plane starts from a snapshot", "log.go", "if snapshot != nil {", "if false {", "TestRealVaultLogSnapshots"),
		without("a log is that of the mesh", "log.go", "if marker.mesh != meshName {", "if false {", "TestRealVaultLogRefuses"),
	}
}

// sharedWrites is how control planes share a log.
func sharedWrites() []control {
	return []control{
		without("a lost race is decided again", "writer.go", "if !errors.As(err, new(*lostRace)) || try == maxRaces {", "if true {", "TestALostRaceIsDecidedAgain"),
		without("a race that is always lost ends", "writer.go", " || try == maxRaces {", " {", "TestARaceThatIsAlwaysLostEnds").orHangs(),
		without("others' revisions are followed", "follow.go", "\treturn w.load(ctx)\n", "\treturn nil\n", "TestOthersRevisionsAreFollowed"),
	}
}
