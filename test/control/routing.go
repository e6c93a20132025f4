package main

// routingMatches is which rule takes a request.
func routingMatches() []control {
	const slashes = "TestEscapedSlashes"
	return []control{
		without("a regex matches all of a path", "site.go", "c.regex.MatchString(path)", "c.regex.FindString(path) == path || true", "TestPathMatch"),
		without("a regex comes before a prefix", "site.go", "if s.regexes != nil {\n\t\tif c :=", "if s.regexes != nil && len(path) > 1<<20 {\n\t\tif c :=", "TestPathMatch|TestPrecedenceOfTheGatewayAPI"),
		without("a header has one value", "match.go", "r.Fields.Count(m.name) == 1 && m.accepts(value)", "m.accepts(value)", "TestConditionMatch"),
		without("a regex matches a value", "match.go", "return m.regex.MatchString(value)", "return true", "TestConditionMatch"),
		without("a value begins with its prefix", "match.go", "return strings.HasPrefix(value, m.prefix)", "return true", "TestConditionMatch"),
		without("escaped slashes need a rule that takes them", "decide.go", "if r.DecodedPath != \"\" && (won.rule == nil || !won.rule.keepsSlash) {", "if false {", slashes),
		without("escaped slashes need a rule of the service at its inbound", "decide.go", "if r.DecodedPath != \"\" && !t.keepsSlash[face.Service] {", "if false {", slashes),
		without("policies read escaped slashes either way", "decide.go", "c.other = r.DecodedPath", "c.other = \"\"", slashes),
		without("a route that changed is compiled", "table.go", "if r == nil || r.route != cfg.Routes[id] {", "if r == nil {", "TestNextDecidesAsCompile"),
		without("a policy that changed is compiled", "policy.go", "if p == nil || p.source != source {", "if p == nil {", "TestNextDecidesAsCompile"),
		without("a split is sticky", "decide.go", "draw = drawOf(value)", "_ = value", "TestStickySplitsOnlyAddMembers"),
	}
}

// routingFilters is what rules do to requests and responses.
func routingFilters() []control {
	return []control{
		without("the rate is kept", "filter_limit.go", "if early := next - l.burst - at; early > 0 {", "if early := next - l.burst - at; early > time.Hour {", "TestRateLimitAdmitsTheBurstAndThenTheRate"),
		without("a burst is not one more", "filter_limit.go", "next - l.burst - at", "next - l.interval - l.burst - at", "TestRateLimitAdmitsTheBurstAndThenTheRate"),
		without("keys are bounded", "filter_limit.go", "if !known && len(r.taken) >= mostBuckets {", "if !known && len(r.taken) >= 1<<30 {", "TestRateLimitBoundsItsMemory"),
		without("a rule's keys crowd no others out", "filter_limit.go", " && r.keys[b.rule] >= mostBuckets/max(len(r.keys), 1)", "", "TestRateLimitsDoNotCrowdEachOtherOut"),
		without("filters see what came", "serve.go", "applyHeaderOps(append(x.altered[:0], l...), rule.requestHeaders)", "applyHeaderOps(l, rule.requestHeaders)", "TestFiltersSeeWhatCame"),
		without("no WebSocket is mirrored", "filter_mirror.go", "len(x.tried) == 0 || x.wish.wanted()", "len(x.tried) == 0", "TestWebSocketIsRememberedRightly"),
		without("what is told of a WebSocket is its own", "tunnel.go", "\tx.detach()\n", "", "TestWebSocketIsRememberedRightly"),
		without("a shared rate is told", "limit_shared.go", "Spent: b.spent,", "Spent: 0,", "TestSharedLimitsHoldTheRate"),
		without("no more is used than was leased", "limit_shared.go", "\t\tb.leased--\n", "", "TestSharedLimitsHoldTheRate"),
		without("more is leased than the own part", "limit_shared.go", "Want: want - min(want, b.leased),", "Want: 0 * want,", "TestSharedLimitsAreLeased"),
		without("what is not used is given back", "limit_shared.go", "b.returned += b.leased", "_ = b.leased", "TestSharedLimitsTellAgain"),
		without("a raised limit forgets old debts", "filter_limit.go", "last = most\n", "_ = most\n", "TestRaisedLimits"),
		without("a raised limit of the mesh too", "limit_shared.go", "b.full = earlier(b.full, now.Add(burst)) // the limit may", "// the limit may", "TestRaisedLimits"),
		without("what is held does not pile up", "limit_shared.go", "max(min(leasedFor, l.burst/4), 2*askEvery)", "leasedFor", "TestSharedLimitsThatAreHeld"),
		without("a rate at both faces is one", "engine.go", "n += s.callers", "n += 0 * s.callers", "TestEnforcers"),
		without("a long part is remembered", "limit_shared.go", "b.full.After(now) || ", "", "TestSharedLimitsRememberLongParts"),
		without("what many data planes admit is owed", "limit_shared.go", "Planes: uint32(b.planes),", "", "TestSharedLimitsOfManyPlanes"),
		without("a data plane alone keeps to its part", "limit_shared.go", "interval = b.limit.interval * time.Duration(planes)", "interval = b.limit.interval", "TestSharedLimitsAlone"),
		without("what was not heard is told again", "limit_shared.go", "b.spent = min(b.spent+asks[i].Spent, b.limit.most())", "b.spent = min(b.spent+0*asks[i].Spent, b.limit.most())", "TestSharedLimitsTellAgain"),
		without("a bucket that is full again is forgotten", "limit_shared.go", "now.Sub(b.used) < leasedFor {", "now.Sub(b.used) < 2*b.limit.burst {", "TestSharedLimitsForgetStrangers"),
		without("what matters no more is not told again", "limit_shared.go", "\t\t\t\tb.spent = 0\n", "", "TestSharedLimitsForgetStrangers"),
		without("shared keys are bounded", "limit_shared.go", "if b == nil && len(s.buckets) >= mostBuckets {", "if b == nil && len(s.buckets) >= 1<<30 {", "TestSharedLimitsBoundTheirMemory"),
		without("a foreign origin may not read", "filter_cors.go", "if !ok || !c.allows(origin) {", "if !ok {", "TestCORS"),
		without("a preflight of a foreign origin learns nothing", "filter_cors.go", "if !c.allows(origin) {\n\t\treturn l\n\t}\n\tl = c.grant", "if false {\n\t\treturn l\n\t}\n\tl = c.grant", "TestCORS"),
		without("what the workload says of origins is not passed on", "filter_cors.go", "l = l.Del(name)", "_ = name", "TestCORS"),
		without("an origin's labels are labels", "filter_cors.go", "strings.Trim(labels, ", "strings.Trim(\"\", ", "TestOrigins"),
		without("faults hit their share", "filter_fault.go", "another(x.draw, drawFault) >= f.share", "false", "TestFaultAborts"),
		without("mirrors have a share", "filter_mirror.go", "another(x.draw, drawMirror+uint64(i)<<8) >= m.share", "true", "TestMirror"),
		without("what is compressed stays", "filter_compress.go", "if _, encoded := head.fields.Get(\"Content-Encoding\"); encoded {", "if false {", "TestCompress"),
		without("a client that refuses a coding does not get it", "filter_compress.go", "return named > 0", "return true", "TestCompress"),
		without("pieces are flushed", "filter_compress.go", "if err := b.w.Flush(); err != nil {", "if false {", "TestCompressedPiecesArriveAtOnce").orHangs(),
	}
}

// routingBalancing is which endpoint a request goes to.
func routingBalancing() []control {
	return []control{
		without("ejected endpoints are skipped", "balance.go", "(!c.ejections || !e.outlier.ejected(c.now))", "true", "TestOutliersAreEjected"),
		without("at most a share is ejected", "outlier.go", "e.outlier.gone || len(j.out) >= j.most", "e.outlier.gone", "TestOutliersAreEjected"),
		without("a success forgives", "outlier.go", "e.outlier.connectFailures.Store(0)\n\t}\n}", "}\n}", "TestOutliersAreEjected"),
		without("loads of a hash are bounded", "balance_hash.go", "if float64(e.InFlight())+1 <= math.Ceil(", "if true || 1 <= math.Ceil(", "TestHashingHasABoundOnLoad"),
		without("a ring's points do not depend on others", "balance_hash.go", "each := ringPoints / float64(max(unit, 1))", "each := 1024 / float64(total)", "TestHashingDisruptsLittle"),
		without("who asks for no more is avoided", "balance.go", "c.shuns = c.now < shun", "c.shuns = false", "TestEndpointsThatAskForNoMoreAreAvoided"),
		without("every policy avoids who asks for no more", "balance.go", "&& (!c.shuns || e.avoid.Load() <= c.now)", "", "TestEveryPolicyAvoids"),
		without("who asks for no more is better than nobody", "balance.go", "if e == nil && c.shuns {", "if false {", "TestEveryPolicyAvoids"),
		without("a pick survives ejections by others", "balance.go", "case a == nil:\n\t\treturn b\n", "case a == nil && b == nil:\n\t\treturn b\n", "TestFewerAreUsableThanWereCounted"),
		without("who has left is not ejected", "outlier.go", "already || e.outlier.gone ||", "already ||", "TestWhatHasLeftIsNotEjected"),
		without("new endpoints start slowly", "balance.go", "if window := c.set.balancing.slowStart; window > 0 {", "if window := c.set.balancing.slowStart; window > 1<<60 {", "TestSlowStart"),
		without("near endpoints come first", "balance.go", "if !last && draw >= share {", "if !last && draw >= share-9 {", "TestLocality"),
		without("STRICT stays in the zone", "balance.go", "\t\tif strict {\n\t\t\treturn nil\n\t\t}\n", "", "TestLocality"),
	}
}

// routingResilience is what keeps failures small.
func routingResilience() []control {
	return []control{
		without("retries have a budget", "upstream_mesh.go", "if !set.retries.retry(time.Now(), retry.Budget) {", "if false {", "TestRetriesStayInTheirBudget"),
		without("requests are bounded", "upstream_mesh.go", "if !breaker.request() {", "if breaker.request() && false {", "TestCircuitBreakerBoundsRequests"),
		without("connect failures are counted", "upstream_mesh.go", "case failed.kind == failedConnect:", "case false:", "TestDeadEndpointIsTakenOut"),
		without("timeouts of tries are counted", "upstream_mesh.go", "case failed.kind == failedReset, failed.kind == failedTimeout:", "case failed.kind == failedReset:", "TestPerTryTimeoutsEject"),
		without("a caller's hurry is not held against an instance", "upstream_mesh.go", "case late && x.hurried:", "case late && x.hurried && false:", "TestCallersInAHurryEjectNobody"),
		without("tunnels that come too late are cut", "tunnel.go", "\tif over {", "\tif over && false {", "TestTunnelThatComesTooLateIsCut").orHangs(),
		without("strangers announce nobody", "announce.go", "if !among(p.From, peer) {", "if false {", "TestProxyProtocolOfStrangers"),
		without("a PROXY header is awaited for so long", "announce.go", "time.Now().Add(within)", "time.Now().Add(time.Hour)", "TestProxyProtocolOfStrangers").orHangs(),
		without("429 is heard", "upstream_mesh.go", "case status == http.StatusTooManyRequests:", "case status == 999:", "TestTooManyRequestsTurnsTrafficAway"),
	}
}

// routingDeadlines is how much time a request has.
func routingDeadlines() []control {
	return []control{
		without("the lesser deadline counts", "serve.go", "if x.deadline > 0 && (whole == 0 || x.deadline < whole) {", "if false {", "TestDeadlinesShrink"),
		without("dead work is not started", "serve.go", "if terms.timed && terms.deadline == 0 {", "if false {", "TestDeadWorkIsNotStarted"),
		without("strangers set no deadline", "deadline.go", " && face != Gateway {", " {", "TestDeadlineOfAStrangerIsNotHeard"),
		without("the deadline is passed on", "deadline.go", "x.out.fields = x.out.fields.Set(deadlineHeader, header.View(millis))", "", "TestDeadlinesShrink"),
	}
}

// routingTCP is who may connect to what.
func routingTCP() []control {
	const policies, apart = "TestTCPServicePolicies", "TestTCPAndHTTPAreKeptApart"
	return []control{
		without("a policy decides about a connection", "tcp.go", "if refusal == nil {\n\t\tvar err error", "if true {\n\t\trefusal = nil\n\t\tvar err error", policies),
		without("an operation allowed is no connection", "policy_match.go", "return deny || len(r.to) == 0", "return true || len(r.to) == 0", policies),
		without("an operation denied is any connection", "policy_match.go", "return deny || len(r.to) == 0", "return len(r.to) == 0", policies),
		without("a raw stream goes to no service of HTTP", "decide.go", "(s.Protocol == mesh.ProtocolTCP) != r.TCP", "false", apart),
		without("another instance is tried", "tcp.go", "for range mostConnects {", "for range 1 {", "TestTCPServiceTriesAnother"),
		without("connections are bounded", "tcp.go", "if !set.breaker.connection() {", "if set.breaker.connection() && false {", "TestTCPServiceBoundsConnections"),
	}
}

// routingOutside is what leaves the mesh.
func routingOutside() []control {
	const addresses = "TestExternalServiceAddresses|TestPublicAddresses"
	return []control{
		without("the policies of a service outside are asked", "upstream_mesh.go", "if failed := f.leave(x, endpoint); failed != nil {", "if failed := f.leave(x, endpoint); failed != nil && failed.Status != http.StatusForbidden {", "TestExternalServicePolicies"),
		without("they see what is sent", "external.go", `strings.Cut(x.out.target, "?")`, `strings.Cut(x.in.target, "?")`, "TestExternalServicePolicies"),
		without("and as whom", "external.go", "Peer: x.sender()}", "Peer: x.request.Peer}", "TestExternalServicePolicies"),
		without("connections leave by policies too", "tcp.go", "return got.Refusal, got.Authorization", "return nil, got.Authorization", "TestExternalServiceOfTCP"),
		without("of a copy they see from where it came", "filter_mirror.go", ", c.request.Remote = x.request.Peer, strings.Clone(x.request.Remote)", " = x.request.Peer", "TestExternalServiceMirrored"),
		without("where a name leads is asked", "external.go", "if !ps.outside(addr.Addr()) {", "if false {", addresses),
		without("no old connection goes where none may", "engine.go", "return s.sameDial && service != nil", "return service != nil", addresses),
		without("an address within another is not public", "external.go", `of(16).Addr().String() != "2002::" && `, "", addresses),
		without("a service outside proves its name", "external.go", "ServerName: e.TLS.ServerName}", "ServerName: e.TLS.ServerName, InsecureSkipVerify: true}", "TestExternalServiceProvesItsName|TestExternalServiceOfTCP"),
		without("connections are to where it is", "engine.go", "service.External == key.external", "key.external != nil", "TestExternalServiceMoves"),
		without("what is the mesh's stays inside", "upstream_mesh.go", "x.out.fields = x.out.fields.Del(deadlineHeader)", "_ = deadlineHeader", "TestExternalService"),
		without("what it says of the mesh is not passed on", "serve.go", "s.local != nil || x.leaves()", "s.local != nil", "TestExternalService"),
		without("it is not ejected", "upstream_mesh.go", "if endpoint.external != nil { // there is no other\n\t\treturn\n\t}\n", "", "TestExternalServiceIsNotEjected"),
	}
}

// routingAdaptive is how many requests a workload gets at once.
func routingAdaptive() []control {
	return []control{
		without("no more are let in than the limit", "adaptive.go", "if n <= a.limit.Load() {", "if n <= 1<<20 {", "TestAdaptiveConcurrencyKeepsLatency|TestAdaptiveConcurrencyLetsIn"),
		without("the limit follows the latency", "adaptive.go", "min(max(float64(a.freely)*(1+rules.buffer)/float64(took), 0.5), 2)", "2.0", "TestAdaptiveConcurrencyKeepsLatency"),
		without("it grows again", "adaptive.go", "next := gradient*limit + math.Sqrt(limit)", "next := min(gradient, 1)*limit + 0*math.Sqrt(limit)", "TestAdaptiveConcurrencyKeepsLatency|TestAdaptiveConcurrencyLetsIn"),
		without("the latency without load is measured again", "adaptive.go", "now.Sub(a.measured) > jittered(every) {", "now.Sub(a.measured) > jittered(every) && a.freely == 0 {", "TestAdaptiveConcurrencyMeasuresAgain"),
		without("who waits may leave", "adaptive.go", "case <-ctx.Done():\n\t\t\terr =", "case <-ctx.Done():\n\t\t\t<-calm\n\t\t\terr =", "TestAdaptiveConcurrencyWhileItMeasures"),
		without("few wait", "adaptive.go", "case a.waiting >= a.before:", "case a.waiting >= 1<<20:", "TestAdaptiveConcurrencyWhileItMeasures"),
		without("measuring ends", "adaptive.go", "if a.calm == calm {", "if a.calm == calm && a.inFlight.Load() < 0 {", "TestAdaptiveConcurrencyWhileItMeasures"),
		without("links that end at once are not made for ever", "upstream_links.go", "waited > mostStale:", "waited > 90:", "TestLinkThatEndsAtOnce"),
		without("what a sidecar refuses ejects nobody", "upstream_mesh.go", "x.resp.fields.Count(overloadHeader) > 0", "x.resp.fields.Count(overloadHeader) > 1", "TestAdaptiveConcurrencyAtASidecar"),
		without("rules that stay keep what is known", "adaptive.go", "*old == *next", "*old != *next", "TestAdaptiveConcurrencyIsConfigured"),
	}
}

// routingHedging is a second try while the first is under way.
func routingHedging() []control {
	return []control{
		without("nothing is hedged that may do harm", "hedge.go", "x.isWhole && x.idempotent() &&", "x.isWhole &&", "TestHedgingOfWhatIsNotIdempotent"),
		without("the other try is given up", "hedge.go", "y.abort(errHedged)", "_ = errHedged", "TestHedging"),
		without("both end with their request", "hedge.go", "y.abort(context.Cause(ctx))", "_ = ctx", "TestHedgingForNobody"),
		without("hedges are within the budget", "hedge.go", "if !set.retries.retry(time.Now(), x.decision.Rule.Retry.Budget) {", "if !set.retries.retry(time.Now(), 1000) {", "TestHedgingIsBounded"),
		without("hedges are within the breaker", "hedge.go", "if !set.breaker.retry() {", "if set.breaker.retry(); false {", "TestHedgingIsBounded"),
		without("a bad answer waits for a better one", "hedge.go", "if !good && under > 0 {", "if !good && r.failed != nil && under > 0 {", "TestHedgingOfFailures"),
		without("series of what is gone go", "metrics_by.go", "delete(next, key)", "_ = key", "TestRequestsByRouteAndPeer"),
		without("callers are bounded", "metrics_by.go", "len(old) >= s.most && old[key] == nil", "len(old) >= 1<<20", "TestPeersAreBounded"),
		without("a hedge is an attempt", "upstream_mesh.go", "n += hedges", "_ = hedges", "TestHedgingOfFailures"),
		without("a try that came just in time stays", "upstream.go", "if !came {", "if !came || true {", "TestPerTryTimeoutDecidesOnce"),
	}
}
