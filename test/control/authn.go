package main

// authnTokens is that a token chooses nothing and says what it has to.
func authnTokens() []control {
	const tokens = "TestTokens"
	return []control{
		without("none is no algorithm, whatever is configured", "jwt.go", "slices.Contains(v.rules.Algorithms, alg) && slices.Contains(Algorithms(), alg)", "slices.Contains(v.rules.Algorithms, alg)", tokens),
		without("only algorithms that are asked for", "jwt.go", "\tif len(v.rules.Algorithms) > 0 {\n\t\treturn slices", "\tif false {\n\t\treturn slices", tokens),
		without("a key verifies by what suits it", "keys.go", "if alg == k.usual || ", "if true || ", tokens),
		without("a key that says its algorithm verifies by no other", "keys.go", "chosen && !k.named && ", "chosen && ", tokens),
		without("a key is found by its id", "keys.go", "if id != \"\" && k.id != id {", "if false {", tokens),
		without("without an id there is one key", "keys.go", "if id == \"\" && len(found) > 1 {", "if false {", tokens),
		without("the signature is verified", "jwt.go", "if !signedBy(candidates, token, &p) {", "if false {", tokens),
		without("by the issuer", "jwt.go", "if c.Issuer != v.rules.Issuer {", "if false {", tokens),
		without("for the audience", "jwt.go", "if len(v.rules.Audiences) > 0 && ", "if false && ", tokens),
		without("not expired", "jwt.go", "case at >= c.expires+Skew.Seconds():", "case false:", tokens),
		without("valid already", "jwt.go", "case at < c.notBefore-Skew.Seconds():", "case false:", tokens),
		without("with an expiry", "jwt.go", "case math.IsInf(c.expires, -1):", "case false:", tokens).and("case at >= c.expires+Skew.Seconds():", "case !math.IsInf(c.expires, -1) && at >= c.expires+Skew.Seconds():"),
		without("no extension that is not known", "jwt.go", "if _, has := h[\"crit\"]; has {", "if _, has := h[\"crit\"]; false && has {", tokens),
		without("no claim twice", "claims.go", "if _, twice := object[text]; twice {", "if _, twice := object[text]; false && twice {", tokens),
		without("UTF-8", "claims.go", "if !utf8.Valid(raw) {", "if false && !utf8.Valid(raw) {", tokens),
		without("not nested deep", "claims.go", "if depth > maxDepth {", "if false {", tokens),
		without("nothing after the claims", "claims.go", "if _, err := d.Token(); !errors.Is(err, io.EOF) {", "if _, err := d.Token(); false && !errors.Is(err, io.EOF) {", tokens),
		without("not huge", "jwt.go", "if len(token) > MaxTokenBytes {", "if false {", tokens),
		without("what is remembered expires", "jwt.go", "return c, c.timely(now)", "return c, nil", "TestRemembered"),
		without("what is remembered is by the keys of now", "cache.go", "\tif c.keys != keys {\n\t\treturn nil", "\tif false {\n\t\treturn nil", "TestRemembered"),
		without("what is remembered is bounded", "cache.go", "if c.used.Len() == mostRemembered {", "if false {", "TestRememberedIsBounded"),
		without("an RSA key is long", "keys.go", "n < leastRSA || ", "", "TestKeySets"),
		without("keys are for signatures", "keys.go", "jwk.Use != \"\" && jwk.Use != \"sig\" || ", "", "TestKeySets"),
		without("a header carries no line break", "claims.go", "if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {", "if false {", "TestClaims"),
	}
}

// authnKeys is where the keys of issuers come from.
func authnKeys() []control {
	return []control{
		without("clear text is for the same machine", "keyring.go", "case plain && !addr.IsLoopback():", "case plain && false:", "TestFetching"),
		without("keys come from where the mesh may dial", "keyring.go", "case !allowed(addr):", "case false:", "TestFetching"),
		without("no redirect is followed", "keyring.go", "return http.ErrUseLastResponse", "return nil", "TestFetching"),
		without("a set of keys is bounded", "keyring.go", "io.ReadAll(io.LimitReader(resp.Body, MaxSetBytes+1))", "io.ReadAll(resp.Body)", "TestFetching"),
		without("only 200 has keys", "keyring.go", "if resp.StatusCode != http.StatusOK {", "if false {", "TestFetching"),
		without("unknown keys have keys fetched twice a minute at most", "keyring.go", "if time.Since(began) >= wantedEvery {", "if time.Since(began) >= 0 {", "TestWhenKeysAreFetched"),
		without("failures are spaced out", "keyring.go", "min(2*backoff, mostBackoff)", "firstBackoff", "TestWhenKeysAreFetched"),
	}
}

// authnGuards is that credentials are asked for, and nobody can say what only they prove.
func authnGuards() []control {
	const gateway, several, closed = "TestTokensAtAGateway", "TestSeveralAuthenticators", "TestAuthenticatorsFailClosed"
	return []control{
		without("a gateway asks", "decide.go", "|| face.Kind == Gateway && !d.authenticate(t.guards.gateways[face.Gateway], face, c) {", "{", gateway),
		without("a route asks", "decide.go", "if !d.authenticate(won.guard, face, c) {", "if false {", several),
		without("a sidecar asks", "decide.go", "|| !d.authenticate(t.guards.services[face.Service], face, c) {", "{", "TestTokensAtASidecar"),
		without("who shows nothing is refused", "authenticate.go", "case !found && g.optional:", "case !found:", gateway),
		without("one credential", "authenticate.go", "if n > 1 || n == 1 && found && text != credential {", "if false {", gateway+"|"+several),
		without("headers of claims are no client's to set", "decide.go", "\t\td.strip(t.guards.identity, c)\n", "", gateway+"|"+several),
		without("nor a peer's", "authenticate.go", "\t\td.strip(g.identity, c)\n", "", "TestTokensAtASidecar"),
		without("nor in another spelling", "authenticate.go", "if folds(name, folded) {", "if header.Equal(name, folded) {", gateway),
		without("nor as trailers", "upstream.go", "return isIdentity(x.decision.identity, f.Name)", "return false", "TestForwardedClaimsAreNoTrailers"),
		without("what cannot be read lets nobody through", "authenticators.go", "\t\tg.invalid = c.source.Name\n", "", closed),
		without("and closes everything if it names no target", "authenticators.go", "\t\tg.everywhere = &guard{invalid: c.source.Name}\n", "", closed),
		without("a short key does not count", "authenticators.go", "if len(credential) < leastKeyBytes {", "if false {", several),
		without("claims of policies", "policy_match.go", "if !hasClaims(c.proof.claims, f.claims) {", "if false {", "TestPoliciesByClaims|"+several),
		without("every claim of them", "policy_match.go", "\t\tif !has.Has(want[i].Name, want[i].Values) {\n\t\t\treturn false\n\t\t}\n\t}\n\treturn true", "\t\tif has.Has(want[i].Name, want[i].Values) {\n\t\t\treturn true\n\t\t}\n\t}\n\treturn len(want) == 0", "TestPoliciesByClaims"),
		without("an answer of the service that is asked is needed", "forward_auth.go", "case a.open:", "case true:", "TestForwardAuthFails"),
		without("it may refuse", "forward_auth.go", "return s.deniedBy(x, a, &v)", "continue", "TestForwardAuthDenies"),
		without("its answer is bounded", "forward_auth.go", "if len(out)+len(p) > mostAskedBytes {", "if false {", "TestForwardAuthFails"),
		without("it is asked", "serve.go", "\tif len(x.decision.asks) > 0 {\n", "\tif false {\n", "TestForwardAuthDenies"),
		without("what it is asked about only a gateway says", "headers.go", "header.Equal(name, forwardedMethod) || header.Equal(name, forwardedURI)) {", "false) {", "TestForwardAuthAllows"),
	}
}

// authnHeaders is which headers an authenticator may take from clients.
func authnHeaders() []control {
	const references = "TestAuthenticatorReferences"
	return []control{
		without("credentials of others are not taken", "references.go", "if id != a.ID() && other.losesTo(a) {", "if false {", references),
		without("nor looked for where there are none", "references.go", "if id != a.ID() && a.losesTo(other) {", "if false {", references),
		without("a sidecar reads what a gateway sent", "authenticator.go", "t.Gateway != \"\" || t.Route != \"\" || t.Service != \"\" && slices.Contains(other.Targets, t)", "t.Service + t.Gateway + t.Route != \"\" || slices.Contains(other.Targets, t)", references),
	}
}
