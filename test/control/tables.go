package main

// tables are all controls. The first of each table is the one of the short form.
func tables() []table {
	const codec, link, engine = "mesh/proxy/h1", "mesh/proxy/link", "mesh/proxy"
	const gateway, acme = "gateway", "gateway/acmecert"
	return []table{
		{"h1 framing", codec, h1Framing()},
		{"h1 chunks", codec, h1Chunks()},
		{"h1 lines", codec, h1Lines()},
		{"h1 targets", codec, h1Targets()},
		{"h1 sizes", codec, h1Sizes()},
		{"h1 connections", codec, h1Connections()},
		{"h1 responses", codec, h1Responses()},
		{"h1 writer", codec, h1Writer()},

		{"link frames", link, linkFrames()},
		{"link messages", link, linkMessages()},
		{"link streams", link, linkStreams()},

		{"requests", engine, engineRequests()},
		{"fields", engine, engineFields()},
		{"upgrades", engine, engineUpgrades()},
		{"bodies", engine, engineBodies()},
		{"answers", engine, engineAnswers()},
		{"pool", engine, enginePool()},
		{"links", engine, engineLinks()},
		{"clients", engine, engineClients()},
		{"limits", engine, engineLimits()},
		{"retries", engine, engineRetries()},
		{"paths", engine, enginePaths()},
		{"hostile paths", engine, engineHostilePaths()},
		{"hosts", engine, engineHosts()},
		{"policies", engine, enginePolicies()},
		{"peers", engine, enginePeers()},
		{"matches", engine, routingMatches()},
		{"filters", engine, routingFilters()},
		{"outside", engine, routingOutside()},
		{"adaptive", engine, routingAdaptive()},
		{"hedging", engine, routingHedging()},
		{"balancing", engine, routingBalancing()},
		{"resilience", engine, routingResilience()},
		{"deadlines", engine, routingDeadlines()},
		{"tcp", engine, routingTCP()},
		{"proofs", engine, engineProofs()},

		{"public certificates", gateway, publicCertificates()},
		{"issued certificates", "mesh/identity", issuedCertificates()},
		{"acme", acme, acmeCertificates()},

		{"callers", engine, trustPolicies()},
		{"kept identities", "mesh/identity", trustKept()},
		{"peers' certificates", "mesh/identity", peersCertificates()},
		{"rotation", "mesh/identity", rotation()},
		{"nodes", "mesh/identity", enrolNodes()},
		{"certified connections", engine, connectionsEnd()},
		{"grace", "mesh/identity", graceOfIdentities()},
		{"routes in grace", engine, graceOfRoutes()},
		{"join tokens", "controlapi/nodes", enrolTokens()},
		{"enrolment", "mesh/enrolment", enrolHosts()},
		{"signing", "mesh/signing", trustSigning()},
		{"digests", "mesh", trustDigests()},
		{"signed registry", "mesh/registry", trustRegistry()},
		{"registrations", "mesh/registry", registrations()},
		{"redis users", "mesh/registry", redisUsers()},
		{"signed writes", "controlapi", trustWrites()},
		{"Vault", "vaultpki", trustVault()},
		{"shared log", "controlapi", sharedWrites()},

		{"api roles", "controlapi", accessRoles()},
		{"api tokens", "controlapi", accessTokens()},
		{"api grants", "controlapi", accessGrants()},
	}
}
