package main

// enginePaths is that a path has one reading.
func enginePaths() []control {
	const paths = "TestCanonicalPath"
	return []control{
		without("an escaped slash is refused", "path.go", `case c == '\\' || c == '/' && escaped:`, `case c == '\\':`, paths),
		without("a backslash is refused", "path.go", `case c == '\\' || c == '/' && escaped:`, `case c == '/' && escaped:`, paths),
		without("a control character is refused", "path.go", "case c < 0x20 || c == 0x7f:", "case c == 0x7f:", paths),
		without("DEL is refused", "path.go", "case c < 0x20 || c == 0x7f:", "case c < 0x20:", paths),
		without("a query is no part of a path", "path.go", "case !escaped && (c == '?' || c == '#' || c == ' '):", "case !escaped && (c == '#' || c == ' '):", paths),
		without("a fragment is no part of a path", "path.go", "case !escaped && (c == '?' || c == '#' || c == ' '):", "case !escaped && (c == '?' || c == ' '):", paths),
		without("a space is refused", "path.go", "case !escaped && (c == '?' || c == '#' || c == ' '):", "case !escaped && (c == '?' || c == '#'):", paths),
		without("a broken escape is refused", "path.go", "if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {", "if i+2 >= len(raw) {", paths),
		without("a cut escape is refused", "path.go", "if i+2 >= len(raw) || !isHex", "if !isHex", paths),
		without("what is no UTF-8 is refused", "path.go", "if !utf8.Valid(plain) {", "if false && !utf8.Valid(plain) {", paths),
		without("an escape of an escape is refused", "path.go", "if out[i] == '%' && out[i+1] == '2' && out[i+2] == '5' && isHex(out[i+3]) && isHex(out[i+4]) {", "if false {", paths),
		without("a dot segment has no parameters", "path.go", "(dots || len(name) == 0):", "len(name) == 0:", paths),
		without("an empty segment has no parameters", "path.go", "(dots || len(name) == 0):", "dots:", paths),
		without("dot-dot removes the segment before it", "path.go", "out = out[:max(n-1, 0)]", "out = out[:len(out)+0*n]", paths),
		without("empty segments vanish", "path.go", "case len(name) == 0 || dots:", "case dots:", paths),
		without("single dots vanish", "path.go", "case len(name) == 0 || dots:", "case len(name) == 0:", paths),
		without("what looks canonical has no dot segments", "path.go", "if after == '/' && (c == '/' || c == '.') || ", "if after == '/' && c == '/' || ", paths),
		without("what looks canonical has no empty segments", "path.go", "if after == '/' && (c == '/' || c == '.') || ", "if after == '/' && c == '.' || ", paths),
		without("escapes have upper-case digits", "path.go", "case '/', '-', '.', '_', '~',", "case '/', '%', '-', '.', '_', '~',", paths),
		without("a path begins with a slash", "path.go", "if raw[0] != '/' {", "if false {", paths),
		without("parameters end where the segment does", "path.go", "if c == ';' || c == '%' && ", "if c == ';' || false && ", "TestWithoutParameters"),
		without("parameters that would change the route are refused", "decide.go", `if c.other != "" && r.DecodedPath == "" && won != t.lookup(index, face, r, c.other) {`, "if false {", "TestPathParametersThatWouldChangeTheRouteAre400"),
	}
}

// engineHosts is that a host has one reading.
func engineHosts() []control {
	const hosts = "TestCanonicalHost"
	return []control{
		without("a port is a number", "host.go", "if s[i] < '0' || s[i] > '9' || i > 4 {", "if i > 4 {", hosts),
		without("a port has at most five digits", "host.go", "if s[i] < '0' || s[i] > '9' || i > 4 {", "if s[i] < '0' || s[i] > '9' {", hosts),
		without("a port is at most 65535", "host.go", "return n <= 65535", "return true", hosts),
		without("a port of a name is looked at", "host.go", "if !validPort(hostport[i+1:]) {", "if false {", hosts),
		without("a port of an address is looked at", "host.go", `rest != "" && (!isPort || !validPort(port))`, `rest != "" && (!isPort || port == "")`, hosts),
		without("behind an address is a port or nothing", "host.go", `rest != "" && (!isPort || !validPort(port))`, "isPort && !validPort(port)", hosts),
		without("a host is not empty", "host.go", `if host == "" || len(host) > maxHostBytes {`, "if len(host) > maxHostBytes {", hosts).
			and("\tif label == 0 {\n\t\treturn \"\", badHost(hostport, \"has an empty label\")\n\t}\n\tif upper", "\tif upper"),
		without("a host is at most 253 bytes", "host.go", `if host == "" || len(host) > maxHostBytes {`, `if host == "" {`, hosts),
		without("a label is at most 63 bytes", "host.go", "if label++; label > maxLabelBytes {", "if label++; false {", hosts),
		without("a label is not empty", "host.go", "\t\t\tif label == 0 {", "\t\t\tif false {", hosts),
		without("the last label is not empty", "host.go", "\tif label == 0 {\n\t\treturn \"\", badHost(hostport, \"has an empty label\")\n\t}\n\tif upper", "\tif upper", hosts),
		without("a host has no other characters", "host.go", `return "", badHost(hostport, "has a character that no host name has")`, "", hosts),
		without("a host is in lower case", "host.go", "if upper {", "if false {", hosts).and("upper = true", "_ = upper"),
		without("a final dot means nothing", "host.go", `host = strings.TrimSuffix(host, ".")`, "", hosts),
		without("an address has no zone", "host.go", ` || addr.Zone() != ""`, "", hosts),
		without("an address in brackets is IPv6", "host.go", "!addr.Is6() || ", "", hosts),
		without("a bracket is closed", "host.go", "if !ok || err != nil || ", "if err != nil || ", hosts).and("inside, rest, ok :=", "inside, rest, _ :="),
	}
}

// enginePolicies is that policies fail closed, and cannot be walked around.
func enginePolicies() []control {
	const closed, order, spellings = "TestPoliciesFailClosed", "TestPolicyOrder", "TestHostilePaths"
	return []control{
		without("a policy that nobody can read closes every service", "policy.go", "for service := range cfg.Services {", "for service := range map[string]bool{} {", "TestUnreadablePolicyClosesEveryService"),
		without("a policy for nothing that is known closes every service", "policy.go", `case t != nil && (t.Service != "" || t.Route != "" || t.Gateway != ""):`, "case t != nil:", "TestUnreadablePolicyClosesEveryService|TestPoliciesFailClosed"),
		without("an invalid DENY denies everything", "policy.go", "\t\tif p.invalid {\n", "\t\tif false {\n", closed),
		without("an invalid policy is not in force in part", "policy.go", "return &policy{name: source.Name, invalid: true}, fmt.Errorf(", "return &policy{name: source.Name}, fmt.Errorf(", closed),
		without("a policy that does not validate is invalid", "policy.go", "\t\tout.invalid = true\n", "", closed),
		without("a policy of an unknown action denies", "policy.go", "\t\tcase mesh.Allow:\n", "\t\tcase mesh.Allow, \"DENNY\":\n", closed),
		without("where somebody is allowed, others are not", "policy.go", "return Authorization{Decision: mesh.Deny, Reason: ReasonNoAllowMatched, ", "return Authorization{Decision: mesh.Allow, Reason: ReasonNoAllowMatched, ", order),
		without("a DENY comes before an ALLOW", "policy.go", "if p.matches(c, c.path, true) || ", "if ", order),
		without("a DENY holds without the path's parameters", "policy.go", ` || c.other != "" && p.matches(c, c.other, true) {`, " {", spellings),
		without("an ALLOW holds without the path's parameters too", "policy.go", "if p.matches(c, c.path, false) && (c.other == \"\" || p.matches(c, c.other, false)) {\n\t\t\treturn Authorization", "if p.matches(c, c.path, false) {\n\t\t\treturn Authorization", "TestPolicyRules|TestPolicyOrder|"+spellings),
		without("a DENY ignores a final slash", "policy_match.go", "if ignoreSlash {", "if false {", spellings),
		without("an ALLOW minds a final slash", "policy_match.go", "if ignoreSlash {", "if true {", "TestPolicyRules"),
		without("not these identities", "policy_match.go", "if matchesAny(f.notIdentities, c.Peer) {", "if false {", "TestPolicyRules"),
		without("only these identities", "policy_match.go", "if len(f.identities) > 0 && !matchesAny(f.identities, c.Peer) {", "if false {", "TestPolicyRules"),
		without("only on these nodes", "policy_match.go", "if len(f.nodes) > 0 && !f.onNode(c.Peer) {", "if false {", "TestPolicyRules"),
		without("a node is one of our trust domain", "policy_match.go", "if peer.TrustDomain() != f.trustDomain {", "if false {", "TestPolicyRules"),
		without("only these methods", "policy_match.go", "if len(t.methods) > 0 && !slices.Contains(t.methods, method) {", "if false {", "TestPolicyRules"),
		without("only these paths", "policy_match.go", "if len(t.paths) > 0 && !matchesPath(t.paths, path, deny) {", "if false {", "TestPolicyRules"),
		without("not these paths", "policy_match.go", "if matchesPath(t.notPaths, path, !deny) {", "if false {", "TestPolicyRules"),
		without("what is denied is refused", "decide.go", "if d.Authorization.Decision != mesh.Deny {", "if d.Authorization.Decision != mesh.Audit {", "TestHostilePaths"),
		without("without policies the mesh's default decides", "policy.go", "\tif allow {\n\t\treturn Authorization{Decision: mesh.Allow", "\tif true {\n\t\treturn Authorization{Decision: mesh.Allow", order),
	}
}

// enginePeers is who is called, and who may call.
func enginePeers() []control {
	const refusals = "TestRefusals"
	return []control{
		without("only addresses of dialCidrs are dialled", "upstream_peers.go", "if !ps.allowed(key.node, addr.Addr()) {", "if false {", refusals),
		without("an endpoint proves its identity", "upstream_peers.go", "want, err := mesh.ServiceID(ps.trustDomain, key.service, key.node)", `want, err := mesh.ServiceID(ps.trustDomain, "evil", key.node)`, "TestAnEndpointMustProveItsIdentity"),
		without("a connection is of one service", "upstream_peers.go", "serverName := identity.ServerName(key.service, key.node, ps.mesh)", `serverName := identity.ServerName("real", "n4", ps.mesh)`, refusals),
		without("who knows no name here is refused", "listener.go", "return nil, identity.ErrUnknownServerName", "for _, s := range in.sources {\n\t\treturn s, nil\n\t}\n\treturn nil, identity.ErrUnknownServerName", "TestPeerMustNameAServiceThatIsHere"),
		without("a handshake that failed is no connection", "listener.go", "\tif err != nil {\n\t\tl.broken(raw, err)\n\t\treturn false\n\t}\n\tstate :=", "\tif false {\n\t\tl.broken(raw, err)\n\t\treturn false\n\t}\n\tstate :=", "TestInboundRefusesWhoIsNoPeer"),
		without("Hedgerow-* is believed of the bridge only", "serve.go", "own: service == bridgeService", `own: service != ""`, "TestInboundBelievesPeersOnlyWhatIsTheirs"),
		without("X-Forwarded-* is believed of gateways only", "serve.go", "trust{forwarded: gateway, ", "trust{forwarded: true || gateway, ", "TestInboundBelievesPeersOnlyWhatIsTheirs"),
	}
}

// engineHostilePaths is the same through real proxies.
func engineHostilePaths() []control {
	const through, fuzz = "TestHostilePathsThroughTheMesh", "FuzzCanonicalPath"
	return []control{
		without("an escaped slash is refused", "path.go", `case c == '\\' || c == '/' && escaped:`, `case c == '\\':`, through),
		without("what is no UTF-8 is refused", "path.go", "if !utf8.Valid(plain) {", "if false && !utf8.Valid(plain) {", through),
		without("an escape of an escape is refused", "path.go", "if out[i] == '%' && out[i+1] == '2' && out[i+2] == '5' && isHex(out[i+3]) && isHex(out[i+4]) {", "if false {", through),
		without("a dot segment has no parameters", "path.go", "(dots || len(name) == 0):", "len(name) == 0:", through),
		without("one path is decided about", "serve.go", "path, err := CanonicalPath(rawPath)", "path, err := CanonicalPath(rawPath); path = rawPath", through),
		without("the path that was decided about is the one that is sent", "serve.go", "x.out.target = path + escaped", "x.out.target = rawPath + escaped", through),
		without("parameters do not change the route", "decide.go", `if c.other != "" && r.DecodedPath == "" && won != t.lookup`, `if c.other == "/" && won != t.lookup`, through),
		without("a DENY sees through parameters", "policy.go", `|| c.other != "" && p.matches(c, c.other, true)`, "", through),
		without("a DENY sees through a final slash", "policy.go", "p.matches(c, c.path, true) ||", "p.matches(c, c.path, false) ||", through),
		without("methods have a case", "policy_match.go", "!slices.Contains(t.methods, method)", "!slices.Contains(t.methods, strings.ToUpper(method))", through),
		without("hosts have none", "host.go", "case 'A' <= c && c <= 'Z':\n\t\t\tupper = true", "case 'A' <= c && c <= 'Z':", through),
		without("the method is not overridden", "headers.go", `case folds(name, "x-http-method-override"), folds(name, "x-http-method"), folds(name, "x-method-override"):`, "case false:", through),
		without("an identity header is not believed of everybody", "headers.go", "if !t.trusted(f.Name) || ", "if ", through),
		without("what Connection names stays here", "headers.go", `if header.Equal(f.Name, "Content-Length") || namedIn(named, f.Name) {`, `if header.Equal(f.Name, "Content-Length") || namedIn(named[:0], f.Name) {`, through),
		without("a backslash is refused", "path.go", `case c == '\\' || c == '/' && escaped:`, `case c == '/' && escaped:`, through),
		without("a control character is refused", "path.go", "case c < 0x20 || c == 0x7f:", "case false:", through),
		without("a broken escape is refused", "path.go", "if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {\n\t\t\t\treturn nil", "if i+2 >= len(raw) {\n\t\t\t\treturn nil", through),
		without("an empty segment has no parameters", "path.go", "(dots || len(name) == 0):", "dots:", through),
		without("a final dot of a host is none", "host.go", `host = strings.TrimSuffix(host, ".")`, "", through),
		without("a host has no empty label at its end", "host.go", "\tif label == 0 {\n\t\treturn", "\tif false {\n\t\treturn", through),
		without("a port is a number", "host.go", "if !validPort(hostport[i+1:]) {", "if false {", through),
		without("TRACE is refused", "serve.go", "case in.method == http.MethodTrace:", "case false:", through),
		without("an asterisk is no path", "serve.go", "strings.EqualFold(scheme, \"https\") {\n\t\treturn \"\", false", "strings.EqualFold(scheme, \"https\") {\n\t\treturn \"/\", true", through),
		without("an identity header is found in each spelling", "headers.go", "case c == '_' || c == '.':", "case false:", through),
		without("the workload learns who calls", "serve.go", "l = l.Set(clientCertHeader, x.in.clientCert)", "", through),
		without("the workload learns where it came from", "serve.go", "x.out.fields, remote = s.hops.setForwarded(x.out.fields, &x.in)", "_, remote = s.hops.setForwarded(x.out.fields, &x.in)", through),

		without("fuzz: the path that was decided about is the one that is sent", "serve.go", "x.out.target = path + escaped", "x.out.target = rawPath + escaped", fuzz),
		without("fuzz: one path is decided about", "serve.go", "path, err := CanonicalPath(rawPath)", "path, err := CanonicalPath(rawPath); path = rawPath", fuzz),
		without("fuzz: an escaped slash is refused", "path.go", `case c == '\\' || c == '/' && escaped:`, `case c == '\\':`, fuzz),
		without("fuzz: an escape of an escape is refused", "path.go", "if out[i] == '%' && out[i+1] == '2' && out[i+2] == '5' && isHex(out[i+3]) && isHex(out[i+4]) {", "if false {", fuzz),
		without("fuzz: a dot segment has no parameters", "path.go", "(dots || len(name) == 0):", "len(name) == 0:", fuzz),
		without("fuzz: dots go up", "path.go", `out = out[:max(n-1, 0)] // above the root is the root`, "", fuzz),
		without("fuzz: a final slash stays", "path.go", "case len(name) == 0 || dots:\n\t\t\tif last {", "case len(name) == 0 || dots:\n\t\t\tif false {", fuzz),
		without("fuzz: escaped parameters are parameters", "path.go", "segment[i+1] == '3' && segment[i+2] == 'B' {", "segment[i+1] == '3' && segment[i+2] == 'b' {", fuzz),
		without("fuzz: a DENY sees through parameters", "policy.go", `|| c.other != "" && p.matches(c, c.other, true)`, "", fuzz),
		without("fuzz: not everything is refused", "path.go", "if raw[0] != '/' {", "if raw != \"\" {", fuzz),
	}
}
