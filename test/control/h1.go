package main

// requests reads every row of the request tables, at once and in pieces.
const requests = "TestHostileRequests"

func h1Framing() []control {
	return []control{
		without("Content-Length and Transfer-Encoding are not both there", "parse.go", "case f.codings > 0 && f.lengths > 0:", "case false:", requests),
		without("there is one Content-Length", "parse.go", "if !ok || f.lengths > 0 {", "if !ok {", requests),
		without("a Content-Length is digits", "parse.go", "if s[i] < '0' || s[i] > '9' {", "if false {", requests),
		without("a Content-Length is not empty", "parse.go", `if s == "" || len(s) > 19 {`, "if len(s) > 19 {", requests),
		without("a Content-Length does not wrap around", "parse.go", `if s == "" || len(s) > 19 {`, `if s == "" {`, requests),
		without("a Content-Length is an int64", "parse.go", "n <= math.MaxInt64", "n <= math.MaxUint64", requests),
		without("only chunked is understood", "parse.go", "case f.unknown:", "case false:", requests),
		without("a coding that is not chunked is noticed", "parse.go", "f.unknown = f.unknown || !f.chunked", "f.unknown = false", requests),
		without("a list of codings is more than one", "parse.go", `if strings.Contains(field.Value, ",") {`, `if strings.Contains(field.Value, ";") {`, requests),
		without("there is one coding", "parse.go", "case f.codings > 1:", "case false:", requests),
		without("HTTP/1.0 has no codings", "parse.go", "case f.codings > 0 && minor == 0:", "case false:", requests),
		without("Content-Length is known in every case", "parse.go", `if header.Equal(field.Name, "Content-Length") {`, `if field.Name == "Content-Length" {`, requests),
		without("Transfer-Encoding is known in every case", "parse.go", `if header.Equal(field.Name, "Transfer-Encoding") {`, `if field.Name == "Transfer-Encoding" {`, requests),
		without("chunked is known in every case", "parse.go", `f.chunked = header.Equal(field.Value, "chunked")`, `f.chunked = field.Value == "chunked"`, requests),
	}
}

func h1Chunks() []control {
	const cut = "TestBrokenBodiesLookBroken"
	return []control{
		without("a chunk has a size", "body.go", "case n == 0:", "case false:", requests),
		without("a size fits an int64", "body.go", "if n++; n > 15 {", "if n++; n > 99 {", requests),
		without("behind a size is an extension or nothing", "body.go", "case len(rest) > 0 && rest[0] != ';':", "case false:", requests),
		without("an extension has no control characters", "body.go", "case !all(rest, isValueByte):", "case false:", requests),
		without("a chunk ends where its size says", "body.go", "if len(line) != 0 {", "if len(line) < 0 {", requests).
			and("case end+1 > most:", "case false:"),
		without("a line between chunks ends with CR LF", "body.go", `case end == 0 || data[end-1] != '\r':`, "case end == 0:", requests),
		without("a line between chunks is not endless", "body.go", "searched = len(data); searched >= most {", "searched = len(data); false {", requests).
			and("case end+1 > most:", "case false:"),
		without("a whole line between chunks is bounded too", "body.go", "case end+1 > most:", "case false:", requests),
		without("a malformed trailer is refused", "body.go", "r.trailers, err = parseFields(r.trailers[:0], section, &f)", "r.trailers, _ = parseFields(r.trailers[:0], section, &f)", requests),
		without("trailers change nothing that was acted upon", "body.go", "if !ForbiddenTrailer(t.Name) {", "if true {", "TestTrailersThatMayNotBe"),
		without("trailers frame nothing", "parse.go", `"Transfer-Encoding", "Content-Length", "Host", `, "", "TestTrailersThatMayNotBe"),
		without("trailers authorize nobody", "parse.go", `"Authorization", "Proxy-Authorization", "Cookie", `, "", "TestTrailersThatMayNotBe"),
		without("a body that breaks off looks broken", "body.go", "return unexpected(err) // a deadline", "return err // a deadline", cut),
		without("a body that breaks off between chunks looks broken", "body.go", "return nil, unexpected(err)", "return nil, err", cut),
		without("a body that breaks off in its trailers looks broken", "body.go", "return unexpected(err)\n\t}\n\t// The views", "return err\n\t}\n\t// The views", cut),
		without("a malformed body has no end", "body.go", "return 0, io.ErrUnexpectedEOF", "return 0, io.EOF", "TestMalformedBodyStaysMalformed"),
		without("behind a malformed chunk nothing is read", "body.go", "r.body = bodyBroken\n\t\t\treturn 0, err", "return 0, err", "TestMalformedBodyStaysMalformed"),
	}
}

func h1Lines() []control {
	return []control{
		without("a line ends with CR LF", "reader.go", `if len(line) == 0 || line[len(line)-1] != '\r' {`, "if len(line) == 0 {", requests),
		without("an empty line ends with CR LF", "reader.go", `if len(line) == 0 || line[len(line)-1] != '\r' {`, `if len(line) > 0 && line[len(line)-1] != '\r' {`, requests),
		without("a field has a name", "parse.go", "case colon <= 0:", "case colon < 0:", requests),
		without("a name is a token", "parse.go", "if !all(name, isTokenByte) {", "if false {", requests),
		without("a value has no control characters", "parse.go", "if !all(value, isValueByte) {", "if false {", requests),
		without("DEL is a control character", "h1.go", `if c == '\t' || c >= 0x20 && c != 0x7f {`, `if c == '\t' || c >= 0x20 {`, requests),
		without("CR is a control character", "h1.go", `if c == '\t' || c >= 0x20 && c != 0x7f {`, `if c == '\t' || c == '\r' || c >= 0x20 && c != 0x7f {`, requests),
		without("NUL is a control character", "h1.go", `if c == '\t' || c >= 0x20 && c != 0x7f {`, `if c == '\t' || c == 0 || c >= 0x20 && c != 0x7f {`, requests),
		without("a bare CR in front is no empty line", "reader.go", `if r.buf[r.at+1] != '\n' {`, "if false {", requests),
		without("one empty line in front is skipped, not two", "reader.go", "r.at += 2\n\treturn r.Fill()", "r.at += 2\n\treturn r.skipCRLF()", requests),
	}
}

func h1Targets() []control {
	const line = "the request line: "
	return []control{
		without("there is one Host", "parse.go", "case f.hosts > 1:", "case false:", requests),
		without("there is a Host", "parse.go", "case f.hosts == 0 && req.Minor == 1:", "case false:", requests),
		without("a Host is nothing but a host", "parse.go", "case f.hosts == 1 && !validHost(f.host):", "case false:", requests),
		without("a Host is not empty", "parse.go", "\treturn s != \"\"\n}", "\treturn true\n}", requests),
		without("Host is known in every case", "parse.go", `if header.Equal(field.Name, "Host") {`, `if field.Name == "Host" {`, requests),
		without("an absolute form names a host", "parse.go", "if !ok || !validHost(authority) {", "if !ok {", requests),
		without("an absolute form is http or https", "parse.go", `if !ok || !header.Equal(scheme, "http") && !header.Equal(scheme, "https") {`, `if !ok || header.Equal(scheme, "-") {`, requests),
		without("the authority overrules Host", "parse.go", "req.Host = authority", "_ = authority", "TestAbsoluteFormOverrulesHost"),
		without(line+"the method is a token", "parse.go", "case !all(method, isTokenByte):", "case false:", requests),
		without(line+"the method is not empty", "parse.go", "if a <= 0 || b <= a {", "if a < 0 || b <= a {", requests),
		without(line+"there are three words", "parse.go", "if a <= 0 || b <= a {", "if a <= 0 {", requests),
		without(line+"the target is not empty", "parse.go", "case len(target) == 0 || !all(target, isTargetByte):", "case !all(target, isTargetByte):", requests),
		without(line+"the target is printable", "parse.go", "case len(target) == 0 || !all(target, isTargetByte):", "case len(target) == 0:", requests),
		without(line+"the target has no spaces", "h1.go", "if c > 0x20 && c != 0x7f && c != '#' {", "if c >= 0x20 && c != 0x7f && c != '#' {", requests),
		without(line+"the target has no DEL", "h1.go", "if c > 0x20 && c != 0x7f && c != '#' {", "if c > 0x20 && c != '#' {", requests),
		without(line+"the target has no fragment", "h1.go", "if c > 0x20 && c != 0x7f && c != '#' {", "if c > 0x20 && c != 0x7f {", requests),
		without(line+"the version is HTTP/1.0 or 1.1", "parse.go", "if v[5] != '1' || v[7] > '1' {", "if false {", requests),
		without(line+"the version is 8 bytes", "parse.go", "if len(v) != 8 || ", "if len(v) < 8 || ", requests),
		without(line+"the version begins with HTTP/", "parse.go", `string(v[:5]) != "HTTP/" || `, "", requests),
		without(line+"the version has a dot", "parse.go", "v[6] != '.' || ", "", requests),
		without(line+"the major version is a digit", "parse.go", "v[5] < '0' || v[5] > '9' || ", "", requests),
		without(line+"the minor version is a digit", "parse.go", "v[7] < '0' || ", "", requests),
	}
}

func h1Sizes() []control {
	return []control{
		without("a target is bounded to the byte", "parse.go", "case len(target) > targetBytes:", "case false:", requests),
		without("a target is bounded as it comes", "reader.go", "case lines == 0 && target > 0 && n > target+64:", "case false:", requests).
			and("if lines == 1 && target > 0 && len(line) > target+64 {", "if false {"),
		without("a header is bounded as it comes", "reader.go", "case n > r.limits.HeadBytes:", "case false:", requests),
		without("fields are counted", "reader.go", "if lines++; lines > r.limits.Fields+1 {", "if lines++; false {", requests),
		without("a large header does not keep its buffer for the next", "reader.go", "} else if r.at > 0 && r.pooled == nil && r.end-r.at <= bufferBytes/2 {", "} else if r.at < 0 {", "TestLargeHeadGivesItsBufferBack"),
		without("a large header does not keep its buffer", "reader.go", "if r.at == r.end && r.pooled == nil {", "if false {", "TestLargeHeadGivesItsBufferBack"),
		without("an idle connection holds no buffer", "reader.go", "r.pooled, r.buf, r.at, r.end, r.kept = nil, nil, 0, 0, 0", "r.at, r.end, r.kept = 0, 0, 0", "TestLargeHeadGivesItsBufferBack"),
		without("what is unread is not given away", "reader.go", "if r.at < r.end {\n\t\treturn\n\t}", "", "TestReleaseKeepsWhatIsUnread"),
	}
}

func h1Connections() []control {
	const persistence = "TestPersistence"
	return []control{
		without("what is read ahead is not the body", "body.go", "\t\tr.kept = r.at // what is read ahead must not lie over it\n", "", "TestCompleteBodyLasts"),
		without("close ends the connection", "parse.go", "return !f.close && (minor == 1 || f.keepAlive)", "return minor == 1 || f.keepAlive", persistence),
		without("HTTP/1.0 closes unless it is asked", "parse.go", "return !f.close && (minor == 1 || f.keepAlive)", "return !f.close", persistence),
		without("a later Connection does not take close back", "parse.go", "f.close = f.close || ", "f.close = ", persistence),
		without("HTTP/1.0 upgrades nothing", "parse.go", "req.Upgrade = f.upgrade && req.Minor == 1", "req.Upgrade = f.upgrade", persistence),
		without("HTTP/1.0 expects no 100", "parse.go", "req.ExpectContinue = f.expect && req.Minor == 1", "req.ExpectContinue = f.expect", persistence),
		without("a request that is cut in its head is none", "reader.go", "if errors.Is(err, io.EOF) && r.at < r.end {", "if false {", "TestRequestIsSplitAnywhere"),
		without("a request that is cut behind an empty line is none", "reader.go", "return unexpected(err)\n\t\t}\n\t}\n\tif r.buf", "return err\n\t\t}\n\t}\n\tif r.buf", "TestCutBehindAnEmptyLine"),
	}
}

func h1Responses() []control {
	const responses, cut = "TestResponses", "TestBrokenBodiesLookBroken"
	return []control{
		without("a 204 has no body", "parse.go", "resp.Status == 204, ", "", responses),
		without("a 304 has no body", "parse.go", "resp.Status == 304, ", "", responses),
		without("a 1xx has no body", "parse.go", "case resp.Status < 200, ", "case ", responses),
		without("the answer to a HEAD has no body", "parse.go", `, method == "HEAD":`, `:`, responses).and("resp.Framing = NoBody", "_, resp.Framing = method, NoBody"),
		without("what lasts until the connection ends is the last", "parse.go", "resp.Framing, resp.KeepAlive = UntilClose, false", "resp.Framing = UntilClose", responses),
		without("the frame of a response has one reading", "parse.go", "framing, length, told, err := f.body(resp.Minor)\n\tif err != nil {", "framing, length, told, err := f.body(resp.Minor)\n\tif false {", responses),
		without("a status line is long enough", "parse.go", "if len(line) < 12 || line[8]", "if line[8]", responses),
		without("a space is before the status", "parse.go", "line[8] != ' ' || ", "", responses),
		without("a status has three digits", "parse.go", " || len(line) > 12 && line[12] != ' '", "", responses),
		without("a status is digits", "parse.go", "if c < '0' || c > '9' {", "if false {", responses),
		without("a status is at least 100", "parse.go", "if status < 100 || status > 599 {", "if status > 599 {", responses),
		without("a status is at most 599", "parse.go", "if status < 100 || status > 599 {", "if status < 100 {", responses),
		without("a response is of HTTP/1", "parse.go", "minor, err := parseVersion(line[:8])\n\tif err != nil {", "minor, err := parseVersion(line[:8])\n\tif false && err != nil {", responses),
		without("a reason phrase has no control characters", "parse.go", "if !all(line[13:], isValueByte) {", "if false {", responses),
		without("only a body without a length may end with the connection", "body.go", "if errors.Is(err, io.EOF) && r.body == bodyClose {", "if errors.Is(err, io.EOF) {", cut),
		without("a reset is no end of a body", "body.go", "if errors.Is(err, io.EOF) && r.body == bodyClose {", "if errors.Is(err, err) && r.body == bodyClose {", "TestResetIsNoEnd"),
	}
}

func h1Writer() []control {
	const writer = "TestWriter"
	field := "c == '\\r' || c == '\\n' || c == 0"
	return []control{
		without("LF in a value is not written", "writer.go", field, `c == '\r' || c == 0`, writer),
		without("CR in a value is not written", "writer.go", field, `c == '\n' || c == 0`, writer),
		without("NUL in a value is not written", "writer.go", field, `c == '\r' || c == '\n'`, writer),
		without("a name that is no token is not written", "writer.go", "if !ValidToken(name) {", "if false {", writer),
		without("a body is not longer than it says", "writer.go", "if w.left -= int64(len(p)); w.left < 0 {", "if w.left -= int64(len(p)); false {", writer),
		without("a body is not shorter than it says", "writer.go", "case w.framing == Length && w.left > 0:", "case false:", writer),
		without("what has no body is sent none", "writer.go", "case NoBody:\n\t\tw.fail(errLong)", "case NoBody:\n\t\tw.write(p)", writer),
		without("nothing to write is not the last chunk", "writer.go", "if len(p) == 0 || w.err != nil {", "if w.err != nil {", writer),
		without("after an error nothing is written", "writer.go", "if w.err != nil || len(w.buf) == 0 {", "if len(w.buf) == 0 {", writer),
		without("after a failed write nothing is written", "writer.go", "if _, err := w.dst.Write(w.buf); err != nil {\n\t\tw.fail(err)", "if _, err := w.dst.Write(w.buf); err != nil {\n\t\t_ = err", "TestWriterThatFailedStaysFailed"),
	}
}
