package main

// engineRequests is what is refused before anything is decided.
func engineRequests() []control {
	const bytes, h1, h2 = "TestHostileBytesAreUnseen", "TestHostileHTTP1", "TestHostileHTTP2"
	return []control{
		without("CONNECT opens no tunnel", "serve.go", "case in.method == http.MethodConnect:", "case false:", "TestScreen"),
		without("CONNECT opens no tunnel over HTTP/1.1", "serve.go", "case in.method == http.MethodConnect:", "case false:", h1),
		without("CONNECT opens no tunnel over HTTP/2", "serve.go", "case in.method == http.MethodConnect:", "case false:", h2),
		without("TRACE shows nothing", "serve.go", "case in.method == http.MethodTrace:", "case false:", "TestScreen"),
		without("a target is bounded over HTTP/2", "serve.go", "case len(in.target) > l.TargetBytes:", "case false:", "TestScreen"),
		without("fields are counted over HTTP/2", "serve.go", "case len(in.fields) > l.HeaderCount:", "case false:", "TestScreen"),
		without("a body's length is bounded", "serve.go", "case in.length > l.BodyBytes && l.BodyBytes > 0:", "case false:", "TestScreen"),
		without("a target without a path is refused", "serve.go", "target, ok := originForm(in.target)\n\tif !ok {", "target, ok := originForm(in.target)\n\tif false && !ok {", h1),
		without("a target has no fragment", "serve.go", `if strings.ContainsAny(target, "# ") {`, "if false {", "TestOriginForm"),
		without("a target's scheme is http or https", "serve.go", `if !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {`, `if !ok || strings.EqualFold(scheme, "-") {`, "TestOriginForm"),
		without("a target has no user information", "serve.go", `case strings.Contains(rest[:at], "@"):`, "case false:", "TestScreen"),
		without("a Host that is none is refused", "serve.go", "host, err := CanonicalHost(x.in.host)\n\tif err != nil {", "host, err := CanonicalHost(x.in.host)\n\tif false {", "TestScreen"),
		without("a path with two readings is refused", "serve.go", "if err != nil {\n\t\treturn &Refusal{http.StatusBadRequest, CodeBadRequest, \"the request path", "if false {\n\t\treturn &Refusal{http.StatusBadRequest, CodeBadRequest, \"the request path", bytes),
		without("the path that was decided about is the one that is sent", "serve.go", "x.out.target = path + escaped", "x.out.target = rawPath + escaped", "TestTargetIsTheOneThatWasDecidedAbout"),
		without("a request that is refused as malformed is the last", "refuse.go", "f.kind == failedClient || f.Status == http.StatusBadRequest || ", "f.kind == failedClient || ", bytes),
		without("a CONNECT is the last request", "refuse.go", " || x.in.method == http.MethodConnect)", ")", bytes),
		without("without a configuration nothing is forwarded", "serve.go", "if state == nil {", "if false {", "TestNothingIsForwardedWithoutADecision"),
		without("what was refused is not forwarded", "serve.go", "if x.decision.Refusal != nil {", "if false {", "TestNothingIsForwardedWithoutADecision"),
	}
}

// engineFields is which header fields pass a proxy.
func engineFields() []control {
	const clean = "TestCleanRequest"
	return []control{
		without("a name with _ for - is misspelled", "headers.go", "case c == '_' || c == '.':", "case c == '.':", clean),
		without("a name with . for - is misspelled", "headers.go", "case c == '_' || c == '.':", "case c == '_':", "TestHostileBytesAreUnseen"),
		without("Transfer_Encoding is refused", "headers.go", `return exactly(name, "transfer-encoding", connection)`, "return connection", clean),
		without("Content_Length is refused", "headers.go", `return exactly(name, "content-length", ordinary)`, "return ordinary", clean),
		without("the fields that Connection names stay here", "headers.go", `if header.Equal(f.Name, "Content-Length") || namedIn(named, f.Name) {`, `if header.Equal(f.Name, "Content-Length") || namedIn(named[:0], f.Name) {`, clean),
		without("the length travels apart", "headers.go", `if header.Equal(f.Name, "Content-Length") || namedIn(named, f.Name) {`, "if namedIn(named, f.Name) {", "TestLengthTravelsApart"),
		without("Connection stays here", "headers.go", `case folds(name, "connection"):`, "case false:", clean),
		without("Upgrade stays here", "headers.go", `if folds(name, "upgrade") {`, "if false {", clean),
		without("HTTP2-Settings stays here", "headers.go", `case folds(name, "http2-settings"):`, "case false:", clean),
		without("Keep-Alive stays here", "headers.go", `if folds(name, "keep-alive") {`, "if false {", clean),
		without("Proxy-Authorization stays here", "headers.go", ` || folds(name, "proxy-authorization")`, "", clean),
		without("TE and Trailer stay here", "headers.go", `case folds(name, "te"), folds(name, "trailer"):`, "case false:", clean),
		without("nobody but the mesh says Forwarded", "headers.go", `if folds(name, "forwarded") {`, "if false {", clean),
		without("nobody but the mesh says X-Real-IP", "headers.go", `case folds(name, "x-real-ip"), `, "case ", clean),
		without("nobody but the mesh says X-Forwarded-*", "headers.go", `, foldsPrefix(name, "x-forwarded-"):`, ":", clean),
		without("nobody but the mesh says Hedgerow-*", "headers.go", `case foldsPrefix(name, "hedgerow-"):`, "case false:", clean),
		without("the method is not overridden", "headers.go", `case folds(name, "x-http-method-override"), folds(name, "x-http-method"), folds(name, "x-method-override"):`, "case false:", clean),
		without("an identity header is not believed of everybody", "headers.go", "if !t.trusted(f.Name) || ", "if ", clean),
		without("an identity header is there once", "headers.go", "if !t.trusted(f.Name) || src.Count(f.Name) != 1 {", "if !t.trusted(f.Name) {", clean),
		without("only a gateway says X-Forwarded-For", "headers.go", "if t.forwarded && (", "if (", clean),
		without("only our own code says Hedgerow-*", "headers.go", "return t.own && len(name)", "return len(name)", clean),
		without("a believed name is spelled right", "headers.go", "header.Equal(name[:len(own)], own)", "foldsPrefix(name, \"hedgerow-\")", clean),
		without("a response's fields of the connection stay here", "headers.go", "case connection, ambiguous:", "case ambiguous:", "TestCleanResponse"),
		without("a workload does not speak for the mesh", "headers.go", ` || fromWorkload && foldsPrefix(f.Name, "hedgerow-")`, "", "TestInformationalResponsesAreHandedOn"),
		without("trailers are only what a header may be changed to", "headers.go", "if classify(f.Name) == ordinary && ", "if ", "TestCleanTrailer"),
		without("trailers authorize nobody", "headers.go", ` && !folds(f.Name, "authorization")`, "", "TestCleanTrailer"),
		without("nobody is believed by default", "hops.go", "if h.Count == 0 {", "if false {", "TestTrustedHops"),
		without("what came another way is not believed", "hops.go", "\tif ok {\n\t\tfrom = path\n", "\tif from = max(path, from); ok || h.believe(in.remote) {\n", "TestTrustedHops"),
		without("only trusted proxies are believed", "hops.go", "if len(h.Proxies) == 0 {", "if true {", "TestTrustedHops"),
		without("what a client claims is not handed on", "hops.go", "for rest, more := f.Value, true; more && n < h.Count; n++ {", "for rest, more := f.Value, true; more && n < MostHops; n++ {", "TestTrustedHops"),
		without("too few hops are none", "hops.go", "if n < h.Count {", "if false {", "TestTrustedHops"),
		without("a hop is an address", "hops.go", "if !ok {\n\t\t\t\treturn \"\", false\n", "if !ok && n > h.Count {\n\t\t\t\treturn \"\", false\n", "TestTrustedHops"),
		without("an address has no zone", "hops.go", `addr.Zone() == ""`, "true", "TestTrustedHops"),
		without("one scheme is believed", "hops.go", "if fields.Count(name) != 1 {", "if false {", "TestTrustedHops"),
		without("a host that is believed is one", "hops.go", "_, err := CanonicalHost(told); err == nil {", "_, err := CanonicalHost(told); err == nil || true {", "TestTrustedHops"),
		without("a query is ASCII", "serve.go", "if query[i] >= 0x80 {", "if false {", "TestTargetIsTheOneThatWasDecidedAbout"),
	}
}

// engineUpgrades is WebSockets, and that nothing else becomes a tunnel.
func engineUpgrades() []control {
	const parse, accept, whole = "TestParseUpgrade", "TestUpgradeIsAccepted", "TestWebSocketThatIsNotAccepted"
	return []control{
		without("a tunnel is to WebSocket only", "tunnel.go", `!header.Equal(protocol, "websocket") {`, "protocol == \"\" {", parse),
		without("a handshake is over HTTP/1.1", "tunnel.go", "if in.minor == 0 || ", "if ", parse),
		without("a handshake has one Upgrade", "tunnel.go", `in.fields.Count("Upgrade") != 1 || `, "", parse),
		without("a handshake is a GET", "tunnel.go", "case in.method != http.MethodGet:", "case false:", parse),
		without("a handshake has no body", "tunnel.go", "case in.length != 0:", "case false:", parse),
		without("a handshake is of version 13", "tunnel.go", `case version != "13" || `, `case version == "" || `, parse),
		without("a handshake has one key", "tunnel.go", `case in.fields.Count("Sec-WebSocket-Key") != 1:`, "case false:", parse),
		without("a key is 16 bytes", "tunnel.go", "err != nil || len(nonce) != 16 {", "err != nil || len(nonce) == 0 {", parse),
		without("a 101 answers the key", "tunnel.go", "case got != want || ", "case want == \"\" || got == \"\" || ", accept),
		without("a 101 switches to WebSocket", "tunnel.go", `case head.fields.Count("Upgrade") != 1 || !header.Equal(protocol, "websocket"):`, `case protocol == "":`, "TestSwitchingIsTheAnswerToTheHandshake"),
		without("a 101 answers once", "tunnel.go", ` || head.fields.Count("Sec-WebSocket-Accept") != 1:`, ":", "TestSwitchingIsTheAnswerToTheHandshake"),
		without("a 101 was asked for", "tunnel.go", "case !u.wanted():", "case false:", "TestSwitchingIsTheAnswerToTheHandshake"),
		without("a 101 that does not answer opens no tunnel", "tunnel.go", "if err := x.wish.accepted(&x.resp); err != nil {", "if err := x.wish.accepted(&x.resp); false {", whole+"|TestSwitchingWithoutBeingAsked"),
		without("a round trip does not switch", "roundtrip.go", "failed == nil && x.resp.status == http.StatusSwitchingProtocols", "false", "TestRoundTripThatIsSwitched"),
		without("a tunnel in which something moves is not cut", "tunnel.go", "r.t.timer.Reset(r.t.idle)", "", "TestTunnelEndsWhenNothingMoves"),
		without("a tunnel in which nothing moves is cut", "tunnel.go", "t.timer = time.AfterFunc(t.idle, t.cut)", "t.timer = time.AfterFunc(time.Hour, t.cut)", "TestTunnelEndsWhenNothingMoves"),
		without("who half closes is heard on the other side", "tunnel.go", "err == nil && dst.CloseWrite() == nil {", "err == nil {", "TestTunnelHandsOnTheEndOfOneDirection"),
	}
}

// engineBodies is that a body which broke off is not taken for all.
func engineBodies() []control {
	const chunks, fault = "TestHostileChunksBreakOff", "TestMalformedBodyIsTheClientsFault"
	return []control{
		without("a body is no longer than it says", "body.go", "for b.total <= length {", "for {", "TestShortBodyThatIsLonger").orHangs(),
		without("a short body is awaited", "serve.go", "if err := x.gather(); err != nil {", "if err := error(nil); err != nil {", "TestShortBodiesAreAwaited"),
		without("a long body is not awaited", "gather.go", " || x.in.length > gatherBytes {", " {", "TestOtherBodiesAreNotAwaited").orHangs(),
		without("who asks whether to send a body is told", "gather.go", `if _, asks := x.in.fields.Get("Expect"); asks {`, "if false {", "TestExpectContinue").orHangs(),
		without("trailers of a short body are kept", "gather.go", "if len(x.client.bodyTrailers()) == 0 {", "if true {", "TestTrailersOfAShortBody"),
		without("an answer to a broken body is not handed on", "serve.go", "if x.body.clientError() != nil {", "if false {", "TestAnAnswerToABrokenBodyIsNotHandedOn"),
		without("a malformed body is the client's fault", "exchange.go", "case clientErr != nil:", "case false:", fault),
		without("a body that is too long is answered 413", "exchange.go", "case errors.Is(clientErr, errBodyTooLong):", "case false:", "TestBodiesAreLimited"),
		without("an endpoint does not take a part for all", "upstream.go", "to.breakOff()", "_ = to.end(nil)", chunks),
		without("a connection with a part of a body is not kept", "upstream_pool.go", "func (u *h1Upload) breakOff() { _ = u.conn.Close() }", "func (u *h1Upload) breakOff() {}", "TestBodyThatBreaksOffLate").orHangs(),
		without("a body in pieces is bounded", "body.go", "if b.most > 0 && b.total+int64(n) > b.most {", "if false {", "TestBodiesAreLimited"),
		without("what was forgotten is not sent again", "body.go", "if b.total != int64(len(b.kept)) {\n\t\treturn nil, false", "if false {\n\t\treturn nil, false", "TestLongBodyIsReadOnce"),
		without("a body that is forgotten is not replayable", "body.go", "return b.total == int64(len(b.kept))", "return true", "TestLongBodyIsReadOnce"),
		without("a body that is known to be too long is not kept", "body.go", "case length > int64(limit):", "case false:", "TestKnownLongBodyIsNotKept"),
		without("what is kept of a body is bounded", "body.go", "case size > b.limit:", "case false:", "TestLongBodyIsReadOnce"),
		without("a try that was closed reads nothing", "body.go", "if r.closed.Load() {", "if false {", "TestBodyIsReadAgain"),
	}
}

// engineAnswers is that each request has one response, which looks whole only if
// it is.
func engineAnswers() []control {
	const one = "TestOneResponsePerRequest"
	return []control{
		without("a 204 tells no length", "serve.go", " && head.status != http.StatusNoContent || ", " || ", "TestLengthOfAnAnswerWithoutABody"),
		without("a response that breaks off looks broken", "client_h1.go", "c.final = false\n\t\tc.abort()", "", "TestTruncatedResponsesLookTruncated|TestResponseUntilCloseLooksTruncated").orHangs(),
		without("a response that breaks off looks broken over HTTP/2", "client_link.go", "stream.Reset(http2.ErrCodeInternal)", "_ = stream.End(nil)", "TestTruncatedResponsesLookTruncated"),
		without("an error of reading a response is no end", "serve.go", "return &readError{err}", "break", "TestTruncatedResponsesLookTruncated"),
		without("a connection that is broken off is reset", "client_h1.go", "_ = c.raw.SetLinger(0) // or", "// or", "TestResponseUntilCloseLooksTruncated"),
		without("a HEAD, a 204 and a 304 are sent no body", "client_h1.go", "case c.head || head.status == http.StatusNoContent || head.status == http.StatusNotModified:", "case false:", one),
		without("HTTP/1.0 gets no informational response", "upstream.go", "if x.in.http1 && x.in.minor == 0 {", "if false {", "TestHTTP10"),
		without("HTTP/1.0 gets no chunks", "client_h1.go", "framing, c.final = h1.UntilClose, true", "", "TestHTTP10"),
		without("an informational response is cleaned", "upstream.go", "head.fields = cleanResponse(x.respKept[:0], x.resp.fields, x.local() || x.leaves())", "head.fields = x.resp.fields", "TestInformationalResponsesAreHandedOn"),
		without("a client that cannot ask again is told to close", "client_h1.go", `w.Field("Connection", "close")`, `w.Field("X-Close", "close")`, "TestHTTP10"),
		without("behind a body that nobody reads is no request", "client_h1.go", "if c.x.uploaded == nil && !c.r.Ended() || c.leave", "if c.leave", "TestHostileBytesAreUnseen"),
		without("behind a body that was not read is no request", "client_h1.go", "\tif !c.r.Ended() {\n\t\tc.final = true\n\t}", "", "TestRestOfABodyIsNoRequest"),
	}
}

// enginePool is when a connection to an endpoint may carry another request.
func enginePool() []control {
	const condition = "if c.broken || !sent || c.cut.Load() || !c.resp.KeepAlive || !c.r.Ended() || c.r.Buffered() > 0 {"
	return []control{
		without("bytes that nobody asked for are no response to the next request", "upstream_pool.go", condition, "if c.broken || !sent || c.cut.Load() || !c.resp.KeepAlive || !c.r.Ended() {", "TestConnectionsThatAreNotKept"),
		without("a connection that the other side closes is not kept", "upstream_pool.go", condition, "if c.broken || !sent || c.cut.Load() || !c.r.Ended() || c.r.Buffered() > 0 {", "TestConnectionsThatAreNotKept"),
		without("a connection with a body that was not read is not kept", "upstream_pool.go", condition, "if c.broken || !sent || c.cut.Load() || !c.resp.KeepAlive || c.r.Buffered() > 0 {", "TestConnectionsThatAreNotKept"),
		without("a connection with a body that was not sent is not kept", "upstream_pool.go", condition, "if c.broken || !sent && false || c.cut.Load() || !c.resp.KeepAlive || !c.r.Ended() || c.r.Buffered() > 0 {", "TestConnectionsThatAreNotKept"),
		without("a connection that was interrupted is not kept", "upstream_pool.go", condition, "if c.broken || !sent || !c.resp.KeepAlive || !c.r.Ended() || c.r.Buffered() > 0 {", "TestConnectionsThatAreNotKept"),
		without("a connection that failed is not kept", "upstream_pool.go", condition, "if !sent || c.cut.Load() || !c.resp.KeepAlive || !c.r.Ended() || c.r.Buffered() > 0 {", "TestConnectionsThatAreNotKept"),
		without("a connection that waited long is looked at", "upstream_pool.go", "waited < restless || waited < p.idle && c.alive()", "waited < p.idle", "TestFreshTryTakesNoConnectionThatWaited"),
		without("a connection that died while it waited is not the client's business", "upstream_pool.go", "if c.used && !c.cut.Load() {", "if false {", "TestStalePooledConnections"),
		without("a connection that was never used is not stale", "upstream_pool.go", "if c.used && !c.cut.Load() {", "if !c.cut.Load() {", "TestOnlyAUsedConnectionIsStale"),
		without("a connection that was interrupted is not stale", "upstream_pool.go", "if c.used && !c.cut.Load() {", "if c.used {", "TestOnlyAUsedConnectionIsStale"),
		without("what may have been processed is not sent again", "upstream.go", "(stale.unprocessed || x.idempotent())", "true", "TestStalePooledConnections"),
		without("a fresh try takes no connection that waited", "upstream_pool.go", "!fresh && !c.over.Load() && (waited < restless || waited < p.idle && c.alive())", "waited < restless || waited < p.idle && c.alive()", "TestFreshTryTakesNoConnectionThatWaited"),
		without("an endpoint that leaves is disconnected", "upstream_pool.go", "\tfor _, c := range waiting {\n\t\tp.discard(c)\n\t}\n", "\t_ = waiting\n", "TestEndpointThatLeavesWhileIdleIsDisconnected"),
		without("connections that wait are bounded", "upstream_pool.go", "keep := !p.closed && len(p.waiting) < p.most", "keep := !p.closed", "TestConnectionsThatWaitAreBounded"),
		without("a pool that is closed keeps nothing", "upstream_pool.go", "keep := !p.closed && len(p.waiting) < p.most", "keep := len(p.waiting) < p.most", "TestConnectionsThatAreNotKept"),
	}
}

// engineLinks is how links are made, shared and left.
func engineLinks() []control {
	return []control{
		without("first requests share a dial", "upstream_links.go", "case another && l.dialing == nil:", "case another:", "TestFirstRequestsShareADial").orHangs(),
		without("a busy link gets company", "upstream_links.go", "conn != nil && usable < mostLinks && conn.Streams() >= busyLink", "false", "TestBusyLinksGetCompany"),
		without("not before it is busy", "upstream_links.go", "&& conn.Streams() >= busyLink", "", "TestBusyLinksGetCompany"),
		without("there are only so many", "upstream_links.go", "conn != nil && usable < mostLinks &&", "conn != nil &&", "TestBusyLinksGetCompany"),
		without("the emptiest link is used", "upstream_links.go", "if conn == nil || c.Streams() < conn.Streams() {", "if conn == nil {", "TestBusyLinksGetCompany"),
		without("a link that goes away is not used", "upstream_links.go", "if !c.Available() {", "if false {", "TestLinkThatGoesAwayIsReplaced").orHangs(),
		without("links on their way out are bounded", "upstream_links.go", "conn == nil && usable+leaving < 2*mostLinks", "conn == nil", "TestLinksOnTheirWayOutAreBounded").orHangs(),
		without("links that ended are not counted", "upstream_links.go", "if c.Err() == nil {\n\t\t\t\tleaving++", "if true {\n\t\t\t\tleaving++", "TestLinksThatEndedAreNotCounted"),
		without("links that ended are not kept", "linkset.go", "\t\tforget(c)\n", "", "TestIdleLinksAreForgotten"),
		without("a link that ends while it is made is not kept", "upstream_links.go", "case c.Err() == nil: // or forget has been here before", "default:", "TestLinkThatEndsAtOnce"),
		without("a dial that fails is told", "upstream_links.go", "\t\td.err = err\n", "", "TestDialThatFailsIsToldToAll").orHangs(),
		without("who leaves does not wait", "upstream_links.go", "case <-ctx.Done():", "case <-make(chan int):", "TestWhoLeavesDoesNotEndTheDial").orHangs(),
		without("a link made too late is closed", "upstream_links.go", "case l.closed:\n\t\td.err", "case false:\n\t\td.err", "TestLinksCloseWhileOneIsMade"),
		without("closed links make no other", "upstream_links.go", "case l.closed:\n\t\t\tl.mu.Unlock()", "case false:\n\t\t\tl.mu.Unlock()", "TestLinksCloseWhileOneIsMade"),
		without("a stream that was refused is sent again", "upstream_link.go", "if errors.As(err, &failed) && failed.Replayable() {", "if errors.As(err, &failed) && failed == nil {", "TestRefusedStreamsAreStale"),
		without("one that was not is not", "upstream_link.go", "if errors.As(err, &failed) && failed.Replayable() {", "if errors.As(err, &failed) {", "TestRefusedStreamsAreStale"),
		without("writes are gathered", "meshconn.go", "if !g.on {", "if true {", "TestGatheredWritesLeaveTogether"),
		without("not without bound", "meshconn.go", "if len(*g.buf) < gatheredBytes {", "if true {", "TestGatheredWritesLeaveTogether"),
		without("to close a link waits for nobody", "meshconn.go", "if c.linked {\n\t\treturn c.under.Close()", "if false {\n\t\treturn c.under.Close()", "TestLinkedMeshConnClosesAtOnce"),
		without("what was held back precedes the end", "meshconn.go", "errors.Join(c.under.release(), c.Conn.CloseWrite())", "c.Conn.CloseWrite()", "TestMeshConnGathersUntilItsEnd"),
		without("long writes leave without Flush", "meshconn.go", "if sent := c.under.release(); err == nil {", "if sent := error(nil); err == nil {", "TestMeshConnSendsLongWritesAtOnce").orHangs(),
		without("a stream that is reset is noticed", "client_link.go", "stream.OnAbort(c.aborted)", "stream.OnAbort(nil)", "TestStreamThatIsResetIsNoticed").orHangs(),
	}
}

// engineClients is how clients come and go.
func engineClients() []control {
	const slow = "TestSlowHeaderIsAnswered408"
	return []control{
		without("a client that still sends reads the answer", "client_h1.go", "\tc.linger()\n", "", "TestRefusalIsReadToItsEnd"),
		without("a header that comes too slowly is answered 408", "client_h1.go", "t.deadlines.SetReadDeadline(now.Add(t.head))", "t.deadlines.SetReadDeadline(time.Time{})", slow),
		without("sending on buys no time", "client_h1.go", "if !first && t.set == t.now && t.now != phaseIdle && !t.begun {", "if false {", slow),
		without("each header has its time", "client_h1.go", "&& t.now != phaseIdle && !t.begun {", "&& t.now != phaseIdle {", "TestEachHeaderHasItsTime"),
		without("a connection without requests is closed", "client_h1.go", "t.deadlines.SetReadDeadline(now.Add(min(t.idle, restlessFor)))", "t.deadlines.SetReadDeadline(time.Time{})", "TestIdleConnectionIsClosed"),
		without("a client that leaves is noticed", "client_h1.go", "c.x.watch.cut(errClientGone)", "", "TestClientThatLeavesIsNoticed").orHangs(),
		without("a drain does not wait for silence", "listener.go", "if c.idle.Load() {", "if false {", "TestDrainDoesNotWaitForSilence"),
		without("Run waits for the links", "engine_listen.go", "\te.await(bounded.Done())\n", "", "TestRunEndsWithItsLinks"),
		without("broken HTTP/2 is counted", "listener.go", "if errors.As(c.Err(), &broken) && !broken.Remote {", "if false {", "TestBrokenHTTP2IsCounted"),
		without("a quiet connection is closed in time", "client_h1.go", "\tif err != nil {\n\t\tc.hangUp()\n\t}\n\treturn err == nil\n", "\treturn true\n", "TestQuietConnections"),
		without("a drain cuts what outlives it", "listener.go", "\t\t\tc.cutOff()\n", "", "TestDrainCutsWhatOutlivesIt").orHangs(),
		without("a drain lets requests under way finish", "listener.go", "if c.idle.Load() {", "if true {", "TestDrainLetsAnUploadFinish"),
		without("a round trip frees its body", "roundtrip.go", "\t\t_ = c.r.Body.Close() // what", "\t\t// what", "TestRoundTripOfAnEarlyAnswer"),
	}
}

// engineLimits is that everything is bounded.
func engineLimits() []control {
	const memory = "TestMemoryPressure"
	return []control{
		without("connections of a listener are bounded", "listener.go", "slots: make(chan struct{}, e.opt.Limits.Connections)", "slots: make(chan struct{}, 100)", "TestConnectionsAreLimited"),
		without("without memory requests are shed", "overload.go", "return o.pressure.Load() >= shedAt || ", "return ", memory).
			and("\tif o.pressure.Load() >= shedAt {\n\t\treturn false\n\t}\n", ""),
		without("the kernel holds little of an answer", "listener.go", "\tboundUnsent(raw)\n", "", "TestUnsentBytesAreBounded"),
		without("garbage is no pressure", "overload.go", "if o.closing() && now.Sub(since)", "if false && now.Sub(since)", "TestGarbageIsNoPressure"),
		without("what is alone is let in", "overload.go", "taken > room && taken != cost", "taken > room", "TestRoom"),
		without("a request takes room", "overload.go", "\tx.cost = cost\n", "", "TestRoom"),
		without("and gives it back", "serve.go", "\ts.e.overload.taken.Add(-x.cost)\n", "", "TestRoom"),
		without("a large header takes more", "overload.go", "n += 2 * int64(", "n += 0 * int64(", "TestRoom"),
		without("a short body takes more", "overload.go", "n += 3 * length", "n += 0 * length", "TestRoom"),
		without("a body that is kept takes more", "overload.go", "n += streamedBytes + length", "n += streamedBytes", "TestRoom"),
		without("without room no header is read", "listener.go", "\tbounds.Refuse = s.turnAway\n", "", "TestRoom"),
		without("a kept body is no larger than it is", "body.go", "min(max(size, 2*cap(b.kept)), b.limit)", "max(size, 2*cap(b.kept))", "TestKeptBodyIsNoLargerThanItIs"),
		without("with little memory connections are not kept", "overload.go", "return o.pressure.Load() >= closeAt", "return false", memory),
		without("memory is measured", "overload.go", "o.pressure.Store(int32(min(100*used()/uint64(max(limit, 1)), 1000)))", "o.pressure.Store(0)", "TestMemoryIsMeasured").
			and("; taken > room && taken != cost {", "; taken > room && false {").
			and("room > 0 && taken > 0 && taken+exchangeBytes > room", "false && room > 0 && taken > 0"),
		without("the route's timeout ends an exchange", "serve.go", "whole = rule.Timeout", "whole = 0", "TestTimeouts").orHangs(),
		without("silence ends an exchange without timeout", "watch.go", "deadline, until := now+idle,", "deadline, until := now+time.Hour,", "TestSilenceEndsAnExchangeWithoutTimeout").orHangs(),
		without("a client that sends too slowly is answered 408", "exchange.go", "case errors.Is(cause, errClientSlow), errors.Is(clientErr, os.ErrDeadlineExceeded):", "case cause == os.ErrDeadlineExceeded:", "TestTimeouts").orHangs(),
		without("a try has its own timeout", "upstream.go", "if perTry > 0 {", "if false {", "TestTimeouts").orHangs(),
	}
}

// engineRetries is what is sent twice.
func engineRetries() []control {
	const conditions, again = "TestRetryConditions", "TestWhatIsTriedAgain"
	return []control{
		without("what is not kept is not sent again", "upstream.go", "\tif !x.replayable() {\n\t\treturn false\n\t}", "", again),
		without("a POST is not sent again after 503", "upstream.go", "return x.idempotent() && (p.OnGatewayError", "return (p.OnGatewayError", conditions),
		without("a 503 is tried again only if that is asked for", "upstream.go", "p.OnGatewayError && gateway", "gateway", conditions),
		without("a POST is not sent again after a reset", "upstream.go", "return p.OnReset && x.idempotent()", "return p.OnReset", "TestResetIsNotRetriedForPost"),
		without("a POST is not sent again after a try's time", "upstream.go", "p.OnGatewayError && x.idempotent() && errors.Is", "p.OnGatewayError && errors.Is", again),
		without("the route's time is not tried again", "upstream.go", " && errors.Is(failed.err, errTryTimeout)", "", again),
		without("stale tries are counted", "upstream.go", "if n < mostStale && errors.As", "if n < 9 && errors.As", "TestStaleTriesAreBounded"),
		without("a stale try is begun anew on a fresh connection", "upstream.go", "t.send(x, n > 0)", "t.send(x, false)", "TestStaleTriesAreBounded"),
		without("tries are counted", "upstream_mesh.go", "n >= retry.Attempts || ", "", "TestTriesAreCounted"),
		without("another try is of another endpoint", "upstream_mesh.go", "endpoint, err := Pick(set, x.decision.Subset, x.tried, lot)", "endpoint, err := Pick(set, x.decision.Subset, nil, lot)", "TestRetryConditions|TestRetriesGoElsewhere"),
	}
}
