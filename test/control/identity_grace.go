package main

// graceOfIdentities is whose certificate does after its end.
func graceOfIdentities() []control {
	const who, time = "TestGrace", "TestGraceExcusesTimeAlone"
	return []control{
		without("for a while", "grace.go", "if !now.After(end) || now.After(end.Add(g.Window)) {", "if !now.After(end) {", who),
		without("of this site", "grace.go", "id != s.id && !g.Near(id)", "id.IsZero()", who),
		without("the own one for a while", "grace.go", "now.After(end) && !now.After(until)", "now.After(end)", who+"|TestGraceShows"),
		without("only what is for it", "tls.go", "if err != nil && lenient {", "if err != nil {", who),
		without("not for everybody", "tls.go", "if lenient {", "if true || lenient {", who),
		without("time alone is excused", "grace.go", "if err != nil || id != s.id", "if id != s.id", time).and("id, err := VerifySVID(certs, b, usage, end)", "id, err := leafID(certs[0])\n\t_, _, _ = b, usage, err"),
		without("counted", "grace.go", "s.metrics.graced.WithLabelValues(s.id.String(), side).Inc()", "_ = side", who),
		without("shown", "source.go", "if until, ok := s.InGrace(); ok {", "if until, ok := s.InGrace(); ok && until.IsZero() {", "TestGraceShows"),
	}
}

// graceOfRoutes is what it does for.
func graceOfRoutes() []control {
	const grace = "TestIdentityGrace"
	return []control{
		without("the routes that are listed", "upstream_mesh.go", "key.grace = state.grace.routes[x.decision.Route]", "key.grace = true", grace),
		without("the same region and zone", "grace.go", "return localityOf(c, at) == here", "return true || localityOf(c, at) == here", grace),
		without("the services of those routes", "serve.go", "if x.in.graced && !s.e.graces(s.face.Service) {", "if false {", "TestGraceIsForTheServicesOfRoutes"),
		without("a place that is known", "grace.go", "if window == 0 || here == \"\" {", "if window == 0 {", grace),
		without("gateways of the same place", "grace.go", "if n.Locality != here { // who", "if false { // who", grace),
	}
}
