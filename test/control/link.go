package main

func linkFrames() []control {
	const hostile = "TestHostileClients"
	return []control{
		without("a header block is not interrupted", "frames.go", "if r.block.id != 0 && (h.kind", "if false && (h.kind", hostile),
		without("the first frame is SETTINGS", "frames.go", "if !r.greeted && h.kind != http2.FrameSettings {", "if false {", "TestFirstBytes"),
		without("no more DATA than the stream's window", "stream_receive.go", "case s.recvWindow < 0 && total > 0:", "case false:", hostile),
		without("a header block ends, by its frames", "frames.go", "if b.frames > blockFrames || ", "if ", hostile),
		without("a window is at most 2^31-1", "flow.go", "over := c.window > maxWindow", "over := false", hostile),
		without("SETTINGS are not taken back", "flow.go", "if s.window += by; s.window > maxWindow {", "if s.window += by; false {", hostile),
	}
}

func linkMessages() []control {
	const heads = "TestRequestHeads"
	return []control{
		without("pseudo fields come first", "block.go", "if len(b.fields) > 0 || b.hasHost {", "if false {", heads),
		without("pseudo fields are known and come once", "block.go", "if bit == 0 || b.pseudo&bit != 0 {", "if false {", heads),
		without("names are in lower case", "block.go", "if n.lower != spelling {", "if false {", heads+"|TestReceivedHead"),
		without("no connection-specific fields", "block.go", "case forbidden, notAName:", "case notAName:", heads),
		without("TE is trailers", "block.go", `if value != "trailers" {`, "if false {", heads),
		without("values have no control characters", "block.go", "if !validValue(f.Value) {", "if false {", heads),
		without("one Content-Length, of digits", "block.go", "if !ok || b.length >= 0 {", "if !ok && false {", heads),
		without("DATA is as long as Content-Length says", "stream_receive.go", "case s.length >= 0 && s.received > s.length:", "case false:", "TestResponses|TestHostileClients"),
		without("a field list is bounded", "block.go", "if b.size > b.maxBytes {", "if false {", "TestHostileClients"),
	}
}

func linkStreams() []control {
	return []control{
		without("fields do not keep each other out of the table", "encode.go", "if e.seen[at] == half || e.seen[at+1] == half {", "if e.seen[at] == half {", "TestEncoderRemembersNeighbours"),
		without("and not while a stream is handled", "conn.go", "\tc.streams.await()\n", "", "TestEndedIsAfterTheHandlers"),
		without("the owner is told at the end", "conn.go", "\t<-c.read\n\tc.streams.await()", "\tc.streams.await()", "TestEndedIsTheEnd"),
		without("what is refused is decoded for the table", "frames.go", "r.block.kind = unwanted", "r.block.kind = request", "TestRefuse"),
		without("who sends to refused streams is not cut", "frames.go", "if s == nil && total >= smallCredit {", "if false {", "TestDataOfRefusedStreams"),
		without("a slot is free when its handler ends", "table.go", "if t.slots >= slots {", "if false {", "TestRapidReset"),
		without("a reset from here is no reason to send again", "link.go", "return e.Remote && (", "return (", "TestReplayable"),
		without("only what was not processed is sent again", "link.go", "(e.unprocessed || e.Code == http2.ErrCodeRefusedStream)", "(true)", "TestReplayable"),
		without("DATA in turns", "write.go", "n := int(min(int64(len(s.pending)), maxFrameBytes, s.window, c.window))", "n := int(min(int64(len(s.pending)), s.window, c.window))", "TestTurns|TestFairness").orHangs(),
		without("credit for what its owner took", "stream.go", "s.credit += len(s.view.b)", "", "TestCredit").orHangs(),
		without("a slow owner holds up little", "flow.go", "case s.keptUp && now.Sub(s.since) >= growAfter:", "case now.Sub(s.since) >= growAfter:", "TestWindowGrows"),
		without("a burst is no keeping up", "flow.go", "case pause >= growAfter:", "case pause >= growAfter && s.since.IsZero():", "TestWindowGrows"),
		without("secrets enter no table", "encode.go", "if n.kind == secret || n.kind == cookie {", "if false {", "TestEncoder"),
		without("a server opens streams only where it may", "conn.go", "case !c.client && !c.peerReverse:", "case false:", "TestReverse"),
	}
}
