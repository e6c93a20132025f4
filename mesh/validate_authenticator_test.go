package mesh

import (
	"fmt"
	"strings"
	"testing"
)

func TestAuthenticatorViolations(t *testing.T) {
	jwt := func(fields string) string {
		return `{"targets":[{"gateway":"demo"}],"jwt":{"issuer":"https://id.example",` + fields + `}}`
	}
	at := func(uri string) string { return jwt(`"jwksUri":"` + uri + `"`) }
	const fetched = `"jwksUri":"https://id.example/k"`
	hash := strings.Repeat("ab", 32)
	key := func(fields string) string { return `{"targets":[{"gateway":"demo"}],"apiKey":{` + fields + `}}` }
	keys := `"keys":[{"name":"a","sha256":"` + hash + `"}]`
	ask := func(fields string) string {
		return `{"targets":[{"gateway":"demo"}],"forwardAuth":{"service":"who"` + fields + `}}`
	}
	for _, tt := range []violation{
		{"no kind", "authenticators/a", `{"targets":[{"gateway":"demo"}]}`, "jwt", "jwksUri", false},
		{"two kinds", "authenticators/a", `{"targets":[{"gateway":"demo"}],"apiKey":{` + keys + `},"forwardAuth":{"service":"who"}}`, "jwt", "", false},
		{"no target", "authenticators/a", `{"apiKey":{` + keys + `}}`, "targets", "gateway", false},
		{"a target of two", "authenticators/a", `{"targets":[{"gateway":"demo","route":"a"}],"apiKey":{` + keys + `}}`, "targets[0]", "", false},
		{"a target twice", "authenticators/a", `{"targets":[{"route":"a"},{"route":"a"}],"apiKey":{` + keys + `}}`, "targets[1]", "", false},
		{"a target that is no id", "authenticators/a", `{"targets":[{"route":"A/b"}],"apiKey":{` + keys + `}}`, "targets[0].route", "", false},
		{"no issuer", "authenticators/a", `{"targets":[{"gateway":"demo"}],"jwt":{` + fetched + `}}`, "jwt.issuer", "", false},
		{"no keys", "authenticators/a", jwt(`"audiences":["a"]`), "jwt.jwks", "", false},
		{"two sources of keys", "authenticators/a", jwt(fetched + `,"jwks":"{\"keys\":[{}]}"`), "jwt.jwks", "", false},
		{"keys that are no set", "authenticators/a", jwt(`"jwks":"[]"`), "jwt.jwks", "keys", false},
		{"a set without keys", "authenticators/a", jwt(`"jwks":"{\"keys\":[]}"`), "jwt.jwks", "", false},
		{"an empty audience", "authenticators/a", jwt(fetched + `,"audiences":[""]`), "jwt.audiences[0]", "", false},
		{"no algorithm", "authenticators/a", jwt(fetched + `,"algorithms":["none"]`), "jwt.algorithms[0]", "", false},
		{"a secret", "authenticators/a", jwt(fetched + `,"algorithms":["ES256","HS256"]`), "jwt.algorithms[1]", "key pair", false},
		{"keys in clear text", "authenticators/a", at("http://id.example/k"), "jwt.jwksUri", "https", false},
		{"keys in clear text from a name like localhost", "authenticators/a", at("http://localhost.example/k"), "jwt.jwksUri", "https", false},
		{"keys from a file", "authenticators/a", at("file:///etc/passwd"), "jwt.jwksUri", "", false},
		{"keys of somebody", "authenticators/a", at("https://a:b@id.example/k"), "jwt.jwksUri", "", false},
		{"keys with a fragment", "authenticators/a", at("https://id.example/k#a"), "jwt.jwksUri", "", false},
		{"keys from no host", "authenticators/a", at("https:///k"), "jwt.jwksUri", "", false},
		{"keys from a decimal address", "authenticators/a", at("https://2130706433/k"), "jwt.jwksUri", "", false},
		{"a CA for nobody", "authenticators/a", jwt(`"jwksUri":"http://127.0.0.1/k","jwksCaPem":"x"`), "jwt.jwksCaPem", "", false},
		{"a CA that is none", "authenticators/a", jwt(fetched + `,"jwksCaPem":"x"`), "jwt.jwksCaPem", "", false},
		{"a token in a header of ours", "authenticators/a", jwt(fetched + `,"fromHeaders":[{"name":"x-forwarded-user"}]`), "jwt.fromHeaders[0].name", "", false},
		{"a prefix that no header has", "authenticators/a", jwt(fetched + `,"fromHeaders":[{"name":"a","prefix":"\n"}]`), "jwt.fromHeaders[0].prefix", "", false},
		{"a header for two tokens", "authenticators/a", jwt(fetched + `,"fromHeaders":[{"name":"x-a"},{"name":"X_A"}]`), "jwt.fromHeaders[1].name", "", false},
		{"a claim forwarded as the token", "authenticators/a", jwt(fetched + `,"fromHeaders":[{"name":"x-t"}],"forwardClaims":[{"claim":"sub","header":"X-T"}]`), "jwt.forwardClaims[0].header", "another", false},
		{"a claim forwarded as authorization", "authenticators/a", jwt(fetched + `,"forwardClaims":[{"claim":"sub","header":"Authorization"}]`), "jwt.forwardClaims[0].header", "", false},
		{"a claim forwarded as a header of ours", "authenticators/a", jwt(fetched + `,"forwardClaims":[{"claim":"sub","header":"Hedgerow-Device"}]`), "jwt.forwardClaims[0].header", "", false},
		{"a claim forwarded as Host", "authenticators/a", jwt(fetched + `,"forwardClaims":[{"claim":"sub","header":"host"}]`), "jwt.forwardClaims[0].header", "", false},
		{"a claim forwarded as what the body is", "authenticators/a", jwt(fetched + `,"forwardClaims":[{"claim":"sub","header":"Content-Type"}]`), "jwt.forwardClaims[0].header", "x-user", false},
		{"takes what clients accept", "authenticators/a", ask(`,"responseHeaders":["accept-encoding"]`), "forwardAuth.responseHeaders[0]", "x-user", false},
		{"two claims in one header", "authenticators/a", jwt(fetched + `,"forwardClaims":[{"claim":"a","header":"x-a"},{"claim":"b","header":"x_a"}]`), "jwt.forwardClaims[1].header", "", false},
		{"no claim", "authenticators/a", jwt(fetched + `,"forwardClaims":[{"header":"x-a"}]`), "jwt.forwardClaims[0].claim", "", false},
		{"no API keys", "authenticators/a", key(""), "apiKey.keys", "sha256", false},
		{"a key in clear text", "authenticators/a", key(`"keys":[{"name":"a","sha256":"secret"}]`), "apiKey.keys[0].sha256", "sha256sum", false},
		{"a hash in upper case", "authenticators/a", key(`"keys":[{"name":"a","sha256":"` + strings.ToUpper(hash) + `"}]`), "apiKey.keys[0].sha256", "", false},
		{"a key of nobody", "authenticators/a", key(`"keys":[{"sha256":"` + hash + `"}]`), "apiKey.keys[0].name", "", false},
		{"a key twice", "authenticators/a", key(`"keys":[{"name":"a","sha256":"` + hash + `"},{"name":"b","sha256":"` + hash + `"}]`), "apiKey.keys[1].sha256", "", false},
		{"a key in a header of ours", "authenticators/a", key(`"header":"connection",` + keys), "apiKey.header", "", false},
		{"asks nobody", "authenticators/a", `{"targets":[{"gateway":"demo"}],"forwardAuth":{}}`, "forwardAuth.service", "", false},
		{"asks in front of a service", "authenticators/a", `{"targets":[{"service":"a"}],"forwardAuth":{"service":"who"}}`, "targets[0].service", "gateway", false},
		{"asks, or not", "authenticators/a", `{"optional":true,"targets":[{"gateway":"demo"}],"forwardAuth":{"service":"who"}}`, "optional", "", false},
		{"asks at no path", "authenticators/a", ask(`,"path":"x"`), "forwardAuth.path", "", false},
		{"asks for ever", "authenticators/a", ask(`,"timeout":"60s"`), "forwardAuth.timeout", "", false},
		{"sends what frames a message", "authenticators/a", ask(`,"requestHeaders":["content-length"]`), "forwardAuth.requestHeaders[0]", "", false},
		{"takes what says who a caller is", "authenticators/a", ask(`,"responseHeaders":["x-forwarded-for"]`), "forwardAuth.responseHeaders[0]", "", false},
		{"takes the token", "authenticators/a", ask(`,"responseHeaders":["authorization"]`), "forwardAuth.responseHeaders[0]", "", false},
		{"a policy by a claim without values", "policies/a", `{"target":{"service":"a"},"action":"ALLOW","rules":[{"from":[{"claims":[{"name":"sub"}]}]}]}`, "rules[0].from[0].claims[0].values", "", false},
		{"a policy by no claim", "policies/a", `{"target":{"service":"a"},"action":"ALLOW","rules":[{"from":[{"claims":[{"values":["a"]}]}]}]}`, "rules[0].from[0].claims[0].name", "", false},
	} {
		t.Run(tt.name, tt.check)
	}
	for _, uri := range []string{"https://id.example/k?a=b", "https://10.0.0.7:8443/k", "http://127.0.0.1:8080/k", "http://[::1]/k", "http://localhost/k"} {
		if err := Validate(decode(t, "authenticators/a", at(uri))); err != nil {
			t.Errorf("%s: %v", uri, err)
		}
	}
	many := make([]string, maxAPIKeys+1)
	for i := range many {
		many[i] = fmt.Sprintf(`{"name":"a","sha256":"%064x"}`, i)
	}
	if err := Validate(decode(t, "authenticators/a", key(`"keys":[`+strings.Join(many[1:], ",")+`]`))); err != nil {
		t.Errorf("%d keys: %v", maxAPIKeys, err)
	}
	if err := Validate(decode(t, "authenticators/a", key(`"keys":[`+strings.Join(many, ",")+`]`))); err == nil {
		t.Errorf("%d keys are accepted", len(many))
	}
}

func TestAuthenticatorReferences(t *testing.T) {
	c := NewConfig()
	for name, body := range good {
		c.Put(decode(t, name, body))
	}
	c.Put(decode(t, "services/db", `{"protocol":"TCP"}`))
	c.Put(decode(t, "services/out", `{"external":{"address":"api.example.com","port":443,"tls":{}}}`))
	c.Put(decode(t, "routes/inside", `{"targets":["GATEWAY","MESH"]}`))
	for _, tt := range []struct{ name, object, body, field, hint string }{
		{"unknown service", "authenticators/x", `{"targets":[{"service":"ordrs"}]}`, "targets[0].service", `"orders"`},
		{"unknown route", "authenticators/x", `{"targets":[{"route":"dem"}]}`, "targets[0].route", `"demo"`},
		{"a service of protocol TCP", "authenticators/x", `{"targets":[{"service":"db"}]}`, "targets[0].service", "route"},
		{"an external service", "authenticators/x", `{"targets":[{"service":"out"}]}`, "targets[0].service", "route"},
		{"asks an unknown service", "authenticators/x", `{"targets":[{"gateway":"g"}],"forwardAuth":{"service":"nope"}}`, "forwardAuth.service", ""},
		{"asks a service of protocol TCP", "authenticators/x", `{"targets":[{"gateway":"g"}],"forwardAuth":{"service":"db"}}`, "forwardAuth.service", ""},
		{"asks about a route inside the mesh", "authenticators/x", `{"targets":[{"route":"inside"}],"forwardAuth":{"service":"orders"}}`, "targets[0].route", "of its own"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := c.CheckReferences(decode(t, tt.object, tt.body))
			if len(v) != 1 || v[0].Field != tt.field || !strings.Contains(v[0].Hint, tt.hint) {
				t.Errorf("got %+v, want %s with hint %q", v, tt.field, tt.hint)
			}
		})
	}
	c.Put(decode(t, "authenticators/keys", `{"targets":[{"route":"demo"}],"apiKey":{"header":"x-shop-key","forwardClaims":[{"claim":"sub","header":"x-client"}]}}`))
	c.Put(decode(t, "authenticators/inner", `{"targets":[{"service":"orders"}],"apiKey":{"header":"x-inner"}}`))
	for _, tt := range []struct{ name, body, field string }{
		{"sets what another one reads", `{"targets":[{"route":"demo"}],"jwt":{"forwardClaims":[{"claim":"sub","header":"x_shop.key"}]}}`, "jwt.forwardClaims[0].header"},
		{"adds what another one reads", `{"targets":[{"gateway":"g"}],"forwardAuth":{"service":"orders","responseHeaders":["X-Shop-Key"]}}`, "forwardAuth.responseHeaders[0]"},
		{"reads what another one sets", `{"targets":[{"route":"demo"}],"apiKey":{"header":"x-client"}}`, "apiKey.header"},
		{"reads it from what a gateway sent", `{"targets":[{"service":"orders"}],"apiKey":{"header":"x-client"}}`, ""},
		{"sets what a sidecar reads", `{"targets":[{"gateway":"g"}],"forwardAuth":{"service":"orders","responseHeaders":["x-inner"]}}`, ""},
		{"sets it at the same sidecar", `{"targets":[{"service":"orders"}],"jwt":{"forwardClaims":[{"claim":"sub","header":"x-inner"}]}}`, "jwt.forwardClaims[0].header"},
	} {
		if v := c.CheckReferences(decode(t, "authenticators/x", tt.body)); (len(v) == 0) != (tt.field == "") || len(v) > 0 && v[0].Field != tt.field {
			t.Errorf("%s: %+v, want %q", tt.name, v, tt.field)
		}
	}
	if v := c.CheckReferences(c.Authenticators["keys"]); len(v) != 0 {
		t.Errorf("what is stored already: %+v", v)
	}
	c.Put(decode(t, "authenticators/ask", `{"targets":[{"route":"demo"}],"forwardAuth":{"service":"orders"}}`))
	if v := c.CheckReferences(decode(t, "routes/demo", `{"targets":["GATEWAY","MESH"]}`)); len(v) != 1 || v[0].Field != "targets" {
		t.Errorf("a route that comes into the mesh: %+v", v)
	}
}

// What is not understood keeps its targets, and nothing that would satisfy it.
func TestClosedAuthenticators(t *testing.T) {
	c, errs := DecodeRecords(Head{}, Records{"authenticators/a": []byte(`{"targets":[{"route":"x"}],"newer":1,"apiKey":{"keys":[{"name":"a","sha256":"` + strings.Repeat("ab", 32) + `"}]}}`)})
	a := c.Authenticators["a"]
	if len(errs) != 1 || a == nil || len(a.Targets) != 1 || a.Targets[0].Route != "x" || a.APIKey != nil || Validate(a) == nil {
		t.Errorf("%v %+v", errs, a)
	}
	next, errs := c.Next(Head{}, Records{"authenticators/a": []byte("{")}, Records{"authenticators/a": []byte("{")})
	if len(errs) != 1 || next.Authenticators["a"] != a {
		t.Errorf("%v %+v", errs, next.Authenticators)
	}
}
