package main

// accessRoles is who may call what of the control API, and on which objects.
func accessRoles() []control {
	const roles, scopes, lists = "TestRolesOfEveryRPC", "TestScopes", "TestListsHaveWhatMayBeRead"
	return []control{
		without("strangers call nothing", "access.go", "if c.err != nil {\n\t\treturn c.err\n\t}", "", roles),
		without("an RPC asks for a role", "access.go", "case c.role < needs.role:", "case false:", roles),
		without("an RPC that nobody placed is an admin's", "access.go", "needs = permission{role: admin}", "needs = permission{}", "TestUnplacedRPCsAreAnAdmins"),
		without("what is about no objects is not for the scoped", "access.go", "case len(c.scopes) > 0 && !needs.scoped:", "case false:", "TestUnplacedRPCsAreAnAdmins"),
		without("REST asks who may", "http.go", "err := admit(r.Context(), rpc)", "var err error", roles),
		without("gRPC asks who may", "grpc.go", "if err := admit(ctx, path.Base(info.FullMethod)); err != nil {", "if err := admit(ctx, path.Base(info.FullMethod)); err != nil && false {", roles),
		without("a batch writes no more than a PUT", "scope.go", "p.role < needs {", "false {", scopes),
		without("an object of others is not taken", "scope.go", "stored != nil && !p.mayHave(e.name, stored.Labels)", "false", scopes).and("stored := s.header(e.name); ", ""),
		without("an object is not given away", "scope.go", "if !p.mayHave(e.name, e.object.Header().Labels) {", "if false {", scopes),
		without("deleting says nothing of others", "scope.go", "if s.records[e.name] == nil && !p.mayHave(e.name, nil) {", "if false {", scopes),
		without("references stay within the labels", "state.go", "if err := by.refersTo(edits, config); err != nil {", "if err := by.refersTo(edits, config); false {", scopes),
		without("gateways carry no labels", "scope.go", "found = append(found, beyondLabels(e.object, own)...)", "_ = beyondLabels", scopes),
		without("a label makes no bridge", "scope.go", "if role == mesh.RoleBridge {", "if role == \"\" {", scopes),
		without("nor what bridges are", "scope.go", "if service == bridgeService {", "if service == \"\" {", scopes),
		without("a label takes no service's place", "scope.go", "inside && own.Services[service] == nil {", "inside && own == nil && service == \"\" {", scopes),
		without("a value of a label counts", "scope.go", "!ok || have != v", "!ok || have == \"\" && v == have", scopes),
		without("what is read is of the scope", "service.go", "err := callerOf(ctx).reads(name, labels); err != nil", "err := callerOf(ctx).reads(name, labels); false", scopes),
		without("lists have what may be read", "list.go", "(len(by.scopes) == 0 || by.mayHave(name, st.header(name).Labels))", "by.err == nil && st != nil", lists),
		without("instances are scoped", "list.go", "if by.mayHave(name, i.Labels) {", "if by.err == nil && i != nil {", "TestInstancesAreScoped"),
		without("a form is no JSON", "http.go", "if err == nil {\n\t\t\terr = checkContentType(r)\n\t\t}\n", "", "TestWithoutABearerTokenJSONSaysThatItIs"),
	}
}

// accessTokens is what a token of the API is worth, and where it is known.
func accessTokens() []control {
	const once, refused, private = "TestATokenMayDoWhatItsRoleAndScopesSay", "TestTokensThatAreRefused", "TestPrivateObjectsAreNotPublished"
	return []control{
		without("an expired token is none", "auth.go", "if t.ExpireTime == nil || !now.Before(*t.ExpireTime) {", "if t.ExpireTime == nil && now.IsZero() {", "TestTokensAreRefusedAtOnce"),
		without("a deleted token is none", "state.go", "leaves: leaves, config: config, tokens: tokensByHash(config),", "leaves: leaves, config: config, tokens: both(s.tokens, tokensByHash(config)),", "TestTokensAreRefusedAtOnce").
			and("func checkSize(", "func both(a, b map[hash]*mesh.Token) map[hash]*mesh.Token {\n\tmaps.Copy(a, b)\n\treturn a\n}\n\nfunc checkSize("),
		without("a token has a role", "tokens.go", "role: viewer, bearer: true}\n\tswitch", "role: admin, bearer: true}\n\tswitch", once),
		without("a token has scopes", "tokens.go", "p.scopes = append(p.scopes, own)", "_ = own", once),
		without("tokens are an admin's", "access.go", "\"GetToken\": {admin, false}, \"ListTokens\": {admin, false}", "\"GetToken\": {viewer, false}, \"ListTokens\": {viewer, false}", once),
		without("who is limited makes no token", "access.go", "\"PutToken\": {admin, false}, \"DeleteToken\": {admin, false}", "\"PutToken\": {admin, true}, \"DeleteToken\": {admin, true}", "TestTokensAreForAdminsWithoutScopes").
			and("\"GetToken\": {admin, false}, \"ListTokens\": {admin, false}", "\"GetToken\": {admin, true}, \"ListTokens\": {admin, true}"),
		without("nor by a batch", "scope.go", "if len(p.scopes) > 0 && mesh.Collection(of).Private() {", "if false {", "TestTokensAreForAdminsWithoutScopes"),
		without("nobody chooses a hash", "tokens.go", "if t.Hash = e.hash; stored != nil {", "if t.Hash == \"\" && stored != nil {", "TestASecretIsAnsweredOnceAndStoredNowhere"),
		without("a token is not for years", "tokens.go", "case left > maxTokenLife:", "case false:", refused),
		without("a token is not over", "tokens.go", "case left <= 0:", "case false:", refused),
		without("no batch makes a token", "tokens.go", "if t.Hash == \"\" {", "if false {", refused),
		without("what is private is not published", "writer.go", "p.change.Published()", "p.change", private),
		without("what is private is not published again", "controlapi.go", "return st.head, st.public, nil", "return st.head, st.records, nil", private),
	}
}

// accessGrants is who else is known: by client certificates, and tokens of an issuer.
func accessGrants() []control {
	const certificates, oidc, refused = "TestClientCertificates", "TestBearerTokensOfOIDC", "TestGrantsThatAreRefused"
	return []control{
		without("a certificate is asked for again", "grant.go", "now.After(c.NotAfter) || now.Before(c.NotBefore)", "now.IsZero()", certificates),
		without("a certificate has one identity", "grant.go", "if len(c.URIs) != 1 {", "if len(c.URIs) == 0 {", certificates),
		without("an identity is of the trust domain", "grant.go", "err != nil || id.TrustDomain() != trustDomain", "err != nil", certificates),
		without("an identity is an operator's", "grant.go", "ok && !strings.Contains(name, \"/\") && (who", "(ok || name != \"\") && (who", certificates),
		without("an identity is the one that was named", "grant.go", "(who == \"*\" || name == who)", "(who != \"\" || name == who)", certificates),
		without("a workload's subject is nobody's", "grant.go", "len(c.URIs) == 0 && c.Subject", "c.Subject", certificates),
		without("no grant is for workloads", "grant.go", "if !ok || strings.Contains(who, \"/\") {", "if false && ok {", refused),
		without("a certificate may come from a form", "grant.go", "p.bearer = false", "p.bearer = true", certificates),
		without("a wrong token is not forgiven for a certificate", "auth.go", "case 1:\n\t\tauthorization = v[0]", "case 1:\n\t\tauthorization = v[0]\n\t\tif p, ok, err := c.byCertificate(r.TLS); ok && err == nil {\n\t\t\tout.principal = p\n\t\t\treturn out\n\t\t}", certificates),
		without("who is of no group may nothing", "grant.go", "p, ok := find(c.claims, claims)\n\tif !ok {", "p, ok := find(c.claims, claims)\n\tif p.role = max(p.role, viewer); false && !ok {", oidc),
		without("a caller has a name", "grant.go", "if !ok || len(name) > maxNameBytes {", "if !ok && len(name) > maxNameBytes {", oidc),
	}
}

// accessAudit is what is kept of what was asked for, and how often one may ask.
func accessAudit() []control {
	const strangers = "TestStrangersGetFewEntries"
	return []control{
		without("join tokens are audited", "join.go", "if err := s.writer.audit.allowed(ctx, name); err != nil {", "if err := s.writer.audit.allowed(ctx, name); false {", "TestJoinTokensAreAudited"),
		without("a node is released as another one", "join.go", "q.ReleaseTime.After(t) {", "q.ReleaseTime.IsZero() {", "TestSinceWhenANodeIsItself"),
		without("what is not audited is not written", "writer.go", "if err := w.audit.accepted(ctx, p); err != nil {", "if err := w.audit.accepted(ctx, p); false {", "TestWithoutAnAuditNothingIsWritten"),
		without("what was not stored is told", "writer.go", "w.audit.failed(ctx, p, err)", "", "TestAWriteThatCannotBeStoredIsAuditedAsFailed"),
		without("REST is audited", "http.go", "h.service.writer.audit.refused(r.Context(), r.URL.Path, err)", "", "TestWhatIsAudited"),
		without("gRPC is audited", "grpc.go", "s.writer.audit.refused(ctx, targetOf(req), err)", "", "TestWhatIsAudited"),
		without("strangers do not fill the disk", "audit.go", "if !a.strangers.take(a.now(), strangersPerSecond, 10*strangersPerSecond) {", "if false {", strangers),
		without("a caller has a rate", "rate.go", "if !take(l.callers, c.name, l.now(), l.perCaller) {", "if false {", "TestCallersAreKeptToTheirRate"),
		without("strangers have a rate", "rate.go", "mesh.KindOf(c.err) == mesh.Unauthentic && !take(", "false && !take(", strangers).and("\"github.com/hedgerow-mesh/hedgerow/mesh\"\n", "_ \"github.com/hedgerow-mesh/hedgerow/mesh\"\n"),
		without("buckets are bounded", "rate.go", "if len(of) >= maxBuckets {\n\t\t\treturn false\n\t\t}", "", "TestBucketsAreBounded"),
	}
}

// accessHostile is what else is refused at the API.
func accessHostile() []control {
	const rows = "TestHostileRows"
	return []control{
		without("nothing is inflated", "http.go", "if err == nil {\n\t\t\terr = checkEncoding(r)\n\t\t}\n", "", rows),
	}
}

// accessChain is how the audit log shows what was done to it.
func accessChain() []control {
	const bytes, lines = "TestEveryChangedByteIsFound", "TestEveryLineThatIsMissingMovedOrAddedIsFound"
	return []control{
		without("a line has its hash", "auditlog.go", "hex.EncodeToString(sum[:]) != hash {", "hex.EncodeToString(sum[:]) == \"\" {", bytes),
		without("a line follows another", "auditlog.go", "(e.Seq != after.Seq+1 || e.Prev != after.Hash)", "false", lines),
		without("a line has the hash of the one before", "auditlog.go", "e.Seq != after.Seq+1 || e.Prev != after.Hash", "e.Seq != after.Seq+1", lines),
		without("a torn line is cut off", "auditlog.go", "err = f.Truncate(whole)", "err = nil", "TestHalfALineAtTheEndIsCutOff"),
		without("a changed log is not continued", "auditlog.go", "if err != nil && !errors.Is(err, errTorn) {", "if false {", "TestAChangedLogIsNotContinued"),
		without("a rotation that fails is made up for", "auditlog.go", "l.file = nil // and with", "// and with", "TestARotationThatFailsIsMadeUpFor"),
		without("what is moved away is not of the log", "auditlog.go", "return err == nil && filepath.Base(l.nameAfter(seq)) == name", "return strings.HasPrefix(name, \"audit-\") || err == nil && seq == 0", "TestFilesBesideTheLogAreNotOfIt"),
		without("one process writes the log", "auditlog.go", "syscall.LOCK_EX|syscall.LOCK_NB", "syscall.LOCK_SH|syscall.LOCK_NB", "TestOneProcessWritesTheLog"),
	}
}
