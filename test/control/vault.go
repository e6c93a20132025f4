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
	}
}
