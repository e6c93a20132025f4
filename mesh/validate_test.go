package mesh

import (
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
)

// good is one valid object of each kind, as a user would write it.
var good = map[string]string{
	"services/orders":      `{"subsets":[{"name":"v1","labels":{"version":"v1"}}]}`,
	"routes/demo":          `{"targets":["GATEWAY"],"hostnames":["demo.localhost","*.example"],"rules":[{"matches":[{"path":{"prefix":"/orders"},"methods":["GET"],"headers":[{"name":"x-canary","exact":"1"}]},{"path":{"template":"/u/{id}/{rest=**}"}},{"path":{"exact":"/a/"}}],"backends":[{"service":"orders","subset":"v1"}],"filters":[{"requestHeaders":{"set":{"x-a":"1"}}}],"timeout":"0s","retry":{"attempts":1,"on":["RESET"],"backoff":{"base":"0.025s","max":"1s"}}}]}`,
	"policies/read":        `{"target":{"service":"orders"},"action":"ALLOW","rules":[{"from":[{"identities":["/gateway/demo","/svc/orders","spiffe://hedgerow.local/svc/*/n/*"]}],"to":[{"methods":["GET"],"paths":["/orders/{id}","/o/**","/**"]}]}]}`,
	"authenticators/shop":  `{"targets":[{"gateway":"demo"},{"route":"demo"},{"service":"orders"}],"jwt":{"issuer":"https://id.example","audiences":["shop"],"algorithms":["ES256","EdDSA"],"jwksUri":"https://id.example/jwks.json","fromHeaders":[{"name":"authorization","prefix":"Bearer "}],"forwardClaims":[{"claim":"sub","header":"x-user"}]}}`,
	"topicRules/telemetry": `{"filter":"devices/{device}/telemetry","device":"{device}","ack":"DELIVERED","to":{"service":"orders","path":"/v1/devices/{device}/telemetry","headers":{"content-type":"application/json"}}}`,
	"nodes/edge7":          `{"roles":["SIDECAR"],"services":["orders"],"gateways":["demo"],"dialCidrs":["10.3.0.7/32"]}`,
	"defaults/mesh":        `{"dialCidrs":["127.0.0.0/8"]}`,
}

func decode(t *testing.T, name, body string) Object {
	t.Helper()
	o, err := DecodeObject(name, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	Normalize(o)
	return o
}

func TestGoodObjectsAreAccepted(t *testing.T) {
	for name, body := range good {
		if err := Validate(decode(t, name, body)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// violation is an object that is refused for field first; hint is a part.
type violation struct {
	name, object, body string
	field, hint        string
	unsupported        bool
}

func (tt *violation) check(t *testing.T) {
	err := Validate(decode(t, tt.object, tt.body))
	var ve *ValidationError
	if !errors.As(err, &ve) || KindOf(err) != Invalid {
		t.Fatalf("Validate = %v, want a violation of %s", err, tt.field)
	}
	got := ve.Violations[0]
	if got.Field != tt.field || !strings.Contains(got.Hint, tt.hint) || got.Unsupported != tt.unsupported {
		t.Errorf("got %+v, want field %q, hint %q, unsupported %v", got, tt.field, tt.hint, tt.unsupported)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("%q is not one line", err)
	}
}

func TestViolations(t *testing.T) {
	policy := func(s string) string {
		return `{"target":{"service":"orders"},"action":"ALLOW","rules":[` + s + `]}`
	}
	topic := func(filter, path string) string {
		return `{"filter":"` + filter + `","ack":"DELIVERED","to":{"service":"orders","path":"` + path + `"}}`
	}
	for _, tt := range []violation{
		{"unknown enum with a suggestion", "services/a", `{"protocol":"HTTTP"}`, "protocol", `did you mean "HTTP"?`, false},
		{"connections of requests", "services/a", `{"circuitBreaker":{"maxConnections":3}}`, "circuitBreaker.maxConnections", "maxRequests", false},
		{"a service outside of no place", "services/a", `{"external":{"port":443}}`, "external.address", "api.example.com", false},
		{"a service outside at no port", "services/a", `{"external":{"address":"a.example"}}`, "external.port", "443", false},
		{"a service outside at too high a port", "services/a", `{"external":{"address":"a.example","port":65536}}`, "external.port", "443", false},
		{"a service outside by URL", "services/a", `{"external":{"address":"https://a.example","port":443}}`, "external.address", "", false},
		{"a service outside by any name", "services/a", `{"external":{"address":"*.example","port":443}}`, "external.address", "one host", false},
		{"a service outside inside", "services/a", `{"external":{"address":"orders.mesh","port":80}}`, "external.address", "register", false},
		{"a service outside at half an address", "services/a", `{"external":{"address":"10.0.0","port":80}}`, "external.address", "10.0.0.7", false},
		{"a service outside at a zone", "services/a", `{"external":{"address":"fe80::1%eth0","port":80}}`, "external.address", "", false},
		{"a service outside at nobody's address", "services/a", `{"external":{"address":"0.0.0.0","port":80}}`, "external.address", "", false},
		{"a service outside of subsets", "services/a", `{"external":{"address":"a.example","port":80},"subsets":[{"name":"v","labels":{"a":"b"}}]}`, "subsets", "another service", false},
		{"a service outside by policy", "services/a", `{"external":{"address":"a.example","port":80},"loadBalancing":{"policy":"RANDOM"}}`, "loadBalancing", "route", false},
		{"a service outside that is checked", "services/a", `{"external":{"address":"a.example","port":80},"health":{"path":"/"}}`, "health", "", false},
		{"a service outside that is ejected", "services/a", `{"external":{"address":"a.example","port":80},"outlierDetection":{"interval":"1s"}}`, "outlierDetection", "", false},
		{"a service outside with CAs that are none", "services/a", `{"external":{"address":"a.example","port":80,"tls":{"caPem":"nope"}}}`, "external.tls.caPem", "BEGIN CERTIFICATE", false},
		{"a service outside with a key", "services/a", `{"external":{"address":"a.example","port":80,"tls":{"caPem":"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"}}}`, "external.tls.caPem", "certificates only", false},
		{"a service outside by another name", "services/a", `{"external":{"address":"a.example","port":80,"tls":{"serverName":"A_B"}}}`, "external.tls.serverName", "", false},
		{"a limit by latency of connections", "services/a", `{"protocol":"TCP","adaptiveConcurrency":{}}`, "adaptiveConcurrency", "maxConnections", false},
		{"a limit by latency that ends before it begins", "services/a", `{"adaptiveConcurrency":{"minConcurrency":9,"maxConcurrency":8}}`, "adaptiveConcurrency.minConcurrency", "", false},
		{"latency measured all the time", "services/a", `{"adaptiveConcurrency":{"measureEvery":"0.1s"}}`, "adaptiveConcurrency.measureEvery", "", false},
		{"hedging without a retry", "routes/a", `{"targets":["GATEWAY"],"hostnames":["a.test"],"rules":[{"backends":[{"service":"a"}],"retry":{"hedgeAfter":"0.1s"}}]}`, "rules[0].retry.attempts", "e.g. 1", false},
		{"hashing nothing", "services/a", `{"loadBalancing":{"policy":"MAGLEV"}}`, "loadBalancing.hash", "x-user", false},
		{"a hash that nobody looks at", "services/a", `{"loadBalancing":{"policy":"RANDOM","hash":{"header":"a"}}}`, "loadBalancing.hash", "RING_HASH", false},
		{"two things to hash", "services/a", `{"loadBalancing":{"policy":"RING_HASH","hash":{"header":"a","cookie":"b"}}}`, "loadBalancing.hash", "", false},
		{"locality that is no place", "nodes/a", `{"roles":["SIDECAR"],"locality":"EU/1"}`, "locality", "eu/site-3", false},
		{"a health check of no path", "services/a", `{"health":{"path":"h"}}`, "health.path", `"/h"`, false},
		{"a health check all the time", "services/a", `{"health":{"interval":"0.001s"}}`, "health.interval", "", false},
		{"subset without labels", "services/a", `{"subsets":[{"name":"v1"}]}`, "subsets[0].labels", "version", false},
		{"subset twice", "services/a", `{"subsets":[{"name":"v","labels":{"a":"b"}},{"name":"v","labels":{"a":"c"}}]}`, "subsets[1].name", "", false},
		{"policy with two targets", "policies/a", `{"target":{"service":"a","route":"b"},"action":"DENY","rules":[{}]}`, "target", "", false},
		{"policy without rules", "policies/a", `{"target":{"service":"a"},"action":"DENY"}`, "rules", "[{}]", false},
		{"a condition without end", "policies/a", policy(`{"when":"` + strings.Repeat("a", 4097) + `"}`), "rules[0].when", "", false},
		{"a block that is none", "policies/a", policy(`{"from":[{"ipBlocks":["10.0.0.0/33"]}]}`), "rules[0].from[0].ipBlocks[0]", "10.3.0.0/16", false},
		{"a block with bits behind the prefix", "policies/a", policy(`{"from":[{"ipBlocks":["10.0.0.1/8"]}]}`), "rules[0].from[0].ipBlocks[0]", "10.0.0.0/8", false},
		{"a device that no bridge sends", "policies/a", policy(`{"from":[{"devices":["d1,d2"]}]}`), "rules[0].from[0].devices[0]", "d1", false},
		{"a device with a star inside", "policies/a", policy(`{"from":[{"devices":["line-*"]}]}`), "rules[0].from[0].devices[0]", "any", false},
		{"empty from would mean anyone", "policies/a", policy(`{"from":[{}]}`), "rules[0].from[0]", "leave from out", false},
		{"empty to would mean everything", "policies/a", policy(`{"to":[{}]}`), "rules[0].to[0]", "leave to out", false},
		{"identity that is no pattern", "policies/a", policy(`{"from":[{"identities":["orders"]}]}`), "rules[0].from[0].identities[0]", "/svc/orders", false},
		{"stars inside a policy path", "policies/a", policy(`{"to":[{"paths":["/a/**/b"]}]}`), "rules[0].to[0].paths[0]", "", false},
		{"star glued to a segment", "policies/a", policy(`{"to":[{"paths":["/a*"]}]}`), "rules[0].to[0].paths[0]", "", false},
		{"acknowledged at no known time", "topicRules/a", `{"filter":"a","ack":"LATER","to":{"service":"a","path":"/"}}`, "ack", "", false},
		{"hash that is not last", "topicRules/a", topic("a/#/b", "/"), "filter", "", false},
		{"plus glued to a level", "topicRules/a", topic("a/b+", "/"), "filter", "", false},
		{"broker's own topics", "topicRules/a", topic("$SYS/a", "/"), "filter", "", false},
		{"path capture that the filter lacks", "topicRules/a", topic("a/{b}", "/{c}"), "to.path", "", false},
		{"path with a query", "topicRules/a", topic("a/{b}", "/x?d={b}"), "to.path", "", false},
		{"device that the filter lacks", "topicRules/a", `{"filter":"a/{b}","device":"{c}","ack":"DELIVERED","to":{"service":"a","path":"/"}}`, "device", "", false},
		{"unknown role", "nodes/a", `{"roles":["SIDECARS"]}`, "roles[0]", "SIDECAR", false},
		{"address instead of a block", "nodes/a", `{"roles":["SIDECAR"],"dialCidrs":["10.0.0.1"]}`, "dialCidrs[0]", "/32", false},
		{"block with host bits", "defaults/mesh", `{"dialCidrs":["10.0.0.1/8"]}`, "dialCidrs[0]", "10.0.0.0/8", false},
		{"grace for everything", "defaults/mesh", `{"identityGrace":{"window":"1s"}}`, "identityGrace.routes", "", false},
		{"grace of more than a week", "defaults/mesh", `{"identityGrace":{"window":"604801s","routes":["shop"]}}`, "identityGrace.window", "", false},
		{"grace into the past", "defaults/mesh", `{"identityGrace":{"window":"-1s","routes":["shop"]}}`, "identityGrace.window", "", false},
		{"grace for what is no route", "defaults/mesh", `{"identityGrace":{"window":"1s","routes":["shop","a b"]}}`, "identityGrace.routes[1]", "", false},
	} {
		t.Run(tt.name, tt.check)
	}
}

func TestViolationsOfRoutes(t *testing.T) {
	rule := func(s string) string {
		return `{"targets":["GATEWAY"],"hostnames":["a.example"],"rules":[{"backends":[{"service":"orders"}],` + s + `}]}`
	}
	for _, tt := range []violation{
		{"route without target", "routes/a", `{"hostnames":["a"],"rules":[{"backends":[{"service":"orders"}]}]}`, "targets", "GATEWAY", false},
		{"hostname with port", "routes/a", `{"targets":["GATEWAY"],"hostnames":["a:80"],"rules":[{"backends":[{"service":"orders"}]}]}`, "hostnames[0]", "no port", false},
		{"hostname with inner wildcard", "routes/a", `{"targets":["GATEWAY"],"hostnames":["a.*.b"],"rules":[{"backends":[{"service":"orders"}]}]}`, "hostnames[0]", "", false},
		{"mesh hostname outside .mesh", "routes/a", `{"targets":["MESH"],"hostnames":["a.example"],"rules":[{"backends":[{"service":"orders"}]}]}`, "hostnames[0]", "orders.mesh", false},
		{"rule without backend", "routes/a", `{"targets":["GATEWAY"],"hostnames":["a"],"rules":[{}]}`, "rules[0].backends", "", false},
		{"two path kinds", "routes/a", rule(`"matches":[{"path":{"exact":"/a","prefix":"/b"}}]`), "rules[0].matches[0].path", "", false},
		{"relative prefix", "routes/a", rule(`"matches":[{"path":{"prefix":"orders"}}]`), "rules[0].matches[0].path.prefix", `"/orders"`, false},
		{"template with half a capture", "routes/a", rule(`"matches":[{"path":{"template":"/a/{id"}}]`), "rules[0].matches[0].path.template", "", false},
		{"template with a capture inside a segment", "routes/a", rule(`"matches":[{"path":{"template":"/a/x{id}"}}]`), "rules[0].matches[0].path.template", "", false},
		{"template with a rest that is not last", "routes/a", rule(`"matches":[{"path":{"template":"/{r=**}/a"}}]`), "rules[0].matches[0].path.template", "", false},
		{"template capture twice", "routes/a", rule(`"matches":[{"path":{"template":"/{a}/{a}"}}]`), "rules[0].matches[0].path.template", "", false},
		{"path that normalisation would change", "routes/a", rule(`"matches":[{"path":{"exact":"/a/../b"}}]`), "rules[0].matches[0].path.exact", "", false},
		{"path with an escape", "routes/a", rule(`"matches":[{"path":{"exact":"/a%2fb"}}]`), "rules[0].matches[0].path.exact", "", false},
		{"regex that does not compile", "routes/a", rule(`"matches":[{"path":{"regex":"/(a"}}]`), "rules[0].matches[0].path.regex", "RE2", false},
		{"regex that costs too much", "routes/a", rule(`"matches":[{"headers":[{"name":"a","regex":"((a{50}){50}){2}"}]}]`), "rules[0].matches[0].headers[0].regex", "RE2", false},
		{"regex that is too long", "routes/a", rule(`"matches":[{"queryParams":[{"name":"a","regex":"` + strings.Repeat("a|", 513) + `"}]}]`), "rules[0].matches[0].queryParams[0].regex", "RE2", false},
		{"two values at once", "routes/a", rule(`"matches":[{"headers":[{"name":"a","exact":"b","prefix":"c"}]}]`), "rules[0].matches[0].headers[0]", "", false},
		{"lower-case method", "routes/a", rule(`"matches":[{"methods":["get"]}]`), "rules[0].matches[0].methods[0]", `"GET"`, false},
		{"two filters in one", "routes/a", rule(`"filters":[{"fault":{"abort":503},"compress":{}}]`), "rules[0].filters[0]", "", false},
		{"a filter twice", "routes/a", rule(`"filters":[{"compress":{}},{"compress":{}}]`), "rules[0].filters[1].compress", "", false},
		{"a redirect with a backend", "routes/a", rule(`"filters":[{"redirect":{"scheme":"https"}}]`), "rules[0].backends", "leave it out", false},
		{"a prefix replaced that nothing matches", "routes/a", rule(`"matches":[{"path":{"exact":"/a"}}],"filters":[{"rewrite":{"replacePathPrefix":"/b"}}]`), "rules[0].filters", "prefix", false},
		{"a rewrite of nothing", "routes/a", rule(`"filters":[{"rewrite":{}}]`), "rules[0].filters[0].rewrite", "", false},
		{"a rewrite to two paths", "routes/a", rule(`"filters":[{"rewrite":{"replacePath":"/a","replacePathPrefix":"/b"}}]`), "rules[0].filters[0].rewrite", "", false},
		{"a fault that is no error", "routes/a", rule(`"filters":[{"fault":{"abort":200}}]`), "rules[0].filters[0].fault.abort", "", false},
		{"more than all", "routes/a", rule(`"filters":[{"fault":{"abort":503,"percent":101}}]`), "rules[0].filters[0].fault.percent", "", false},
		{"a rate of nothing", "routes/a", rule(`"filters":[{"rateLimit":{"per":"1s"}}]`), "rules[0].filters[0].rateLimit.requests", "", false},
		{"a rate without a time", "routes/a", rule(`"filters":[{"rateLimit":{"requests":1}}]`), "rules[0].filters[0].rateLimit.per", "1s", false},
		{"more than a limit of the whole mesh may be", "routes/a", rule(`"filters":[{"rateLimit":{"requests":4000000000,"per":"1s","scope":"MESH"}}]`), "rules[0].filters[0].rateLimit.requests", "", false},
		{"any origin with credentials", "routes/a", rule(`"filters":[{"cors":{"allowOrigins":["*"],"allowCredentials":true}}]`), "rules[0].filters[0].cors.allowOrigins", "name the origins", false},
		{"a burst of more than a year", "routes/a", rule(`"filters":[{"rateLimit":{"requests":1,"per":"86400s","burst":150000}}]`), "rules[0].filters[0].rateLimit.burst", "", false},
		{"an origin with a path", "routes/a", rule(`"filters":[{"cors":{"allowOrigins":["https://a.example/"]}}]`), "rules[0].filters[0].cors.allowOrigins[0]", "https://shop.example", false},
		{"an unknown compression", "routes/a", rule(`"filters":[{"compress":{"algorithms":["brotli"]}}]`), "rules[0].filters[0].compress.algorithms[0]", "", false},
		{"a response that is none", "routes/a", rule(`"filters":[{"respond":{"status":101}}]`), "rules[0].filters[0].respond.status", "404", false},
		{"filter that sets an identity header", "routes/a", rule(`"filters":[{"requestHeaders":{"set":{"X_Forwarded-Client-Cert":"x"}}}]`), `rules[0].filters[0].requestHeaders.set["X_Forwarded-Client-Cert"]`, "", false},
		{"filter that splits a header", "routes/a", rule(`"filters":[{"requestHeaders":{"set":{"x-a":"1\r\nx-b: 2"}}}]`), `rules[0].filters[0].requestHeaders.set["x-a"]`, "", false},
		{"many retries", "routes/a", rule(`"retry":{"attempts":11,"on":["RESET"]}`), "rules[0].retry.attempts", "", false},
		{"retry on nothing", "routes/a", rule(`"retry":{"attempts":1}`), "rules[0].retry.on", "CONNECT_FAILURE", false},
		{"negative timeout", "routes/a", rule(`"timeout":"-1s"`), "rules[0].timeout", "", false},
		{"a budget of more than all", "routes/a", rule(`"retry":{"budgetPercent":200}`), "rules[0].retry.budgetPercent", "", false},
		{"affinity to nothing", "routes/a", rule(`"affinity":{}`), "rules[0].affinity", "x-user", false},
	} {
		t.Run(tt.name, tt.check)
	}
}

func TestEveryViolationIsReported(t *testing.T) {
	err := Validate(decode(t, "routes/a", `{"targets":["MESHH"],"hostnames":["A"],"rules":[{"timeout":"-1s"}]}`))
	var ve *ValidationError
	if !errors.As(err, &ve) || len(ve.Violations) != 4 {
		t.Errorf("Validate = %v, want 4 violations", err)
	}
}

func TestDecodeObjectRefuses(t *testing.T) {
	for name, tt := range map[string]struct{ object, body string }{
		"an unknown field":         {"services/a", `{"protocoll":"HTTP"}`},
		"an unknown nested field":  {"services/a", `{"subsets":[{"nam":"v1"}]}`},
		"bytes behind the object":  {"services/a", `{} {}`},
		"another object's name":    {"services/a", `{"name":"services/b"}`},
		"an unknown collection":    {"servces/a", `{}`},
		"an id that is none":       {"services/A", `{}`},
		"a second defaults object": {"defaults/other", `{}`},
		"instances":                {"instances/a", `{}`},
		"not JSON":                 {"services/a", `{`},
		"an array":                 {"services/a", `[]`},
		"too much":                 {"services/a", `{"labels":{"a":"` + strings.Repeat("x", MaxObjectBytes) + `"}}`},
	} {
		if o, err := DecodeObject(tt.object, []byte(tt.body)); err == nil {
			t.Errorf("%s: decoded to %+v", name, o)
		}
	}
}

func TestNormalizeStoresDefaults(t *testing.T) {
	r := decode(t, "routes/a", `{"rules":[{"backends":[{"service":"a"},{"service":"b","weight":0}]}]}`).(*Route)
	if b := r.Rules[0].Backends; *b[0].Weight != 1 || *b[1].Weight != 0 {
		t.Errorf("weights %d and %d, want 1 for an absent one and 0 kept", *b[0].Weight, *b[1].Weight)
	}
	d := decode(t, "defaults/mesh", `{}`).(*Defaults)
	if d.Authorization != Deny {
		t.Errorf("authorization %q by default, want DENY", d.Authorization)
	}
}

func TestCheckReferences(t *testing.T) {
	c := NewConfig()
	for name, body := range good {
		c.Put(decode(t, name, body))
	}
	c.Put(decode(t, "nodes/gw", `{"roles":["GATEWAY"],"gateways":["demo"]}`))
	if broken := c.CheckAll(); len(broken) != 0 {
		t.Fatalf("the good objects break %v", broken)
	}
	for _, tt := range []struct{ name, object, body, field, hint string }{
		{"unknown service", "routes/x", `{"rules":[{"backends":[{"service":"ordrs"}]}]}`, "rules[0].backends[0].service", `did you mean "orders"?`},
		{"unknown subset", "routes/x", `{"rules":[{"backends":[{"service":"orders","subset":"v2"}]}]}`, "rules[0].backends[0].subset", `"v1"`},
		{"policy of an unknown route", "policies/x", `{"target":{"route":"dem"}}`, "target.route", `"demo"`},
		{"topic to an unknown service", "topicRules/x", `{"to":{"service":"nope"}}`, "to.service", ""},
		{"policy of an unknown node", "policies/x", `{"rules":[{"from":[{"nodes":["edge8"]}]}]}`, "rules[0].from[0].nodes[0]", `"edge7"`},
		{"policy of a gateway's node", "policies/x", `{"rules":[{"from":[{"nodes":["edge7","gw"]}]}]}`, "rules[0].from[0].nodes[1]", "/gateway/demo"},
		{"grace for an unknown route", "defaults/mesh", `{"identityGrace":{"window":"60s","routes":["demo","dem"]}}`, "identityGrace.routes[1]", `"demo"`},
		{"node of an unknown service", "nodes/x", `{"services":["orders","nope"]}`, "services[1]", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := c.CheckReferences(decode(t, tt.object, tt.body))
			if len(v) != 1 || v[0].Field != tt.field || !strings.Contains(v[0].Hint, tt.hint) {
				t.Errorf("got %+v, want %s with hint %q", v, tt.field, tt.hint)
			}
		})
	}
	refs := c.ReferencesTo("services/orders")
	want := []string{
		"authenticators/shop targets[2].service", "nodes/edge7 services[0]", "policies/read target.service",
		"routes/demo rules[0].backends[0].service", "topicRules/telemetry to.service",
	}
	if strings.Join(refs, ";") != strings.Join(want, ";") {
		t.Errorf("ReferencesTo = %v, want %v", refs, want)
	}
	if refs := c.ReferencesTo("routes/demo"); len(refs) != 1 || refs[0] != "authenticators/shop targets[1].route" {
		t.Errorf("ReferencesTo the route = %v", refs)
	}
}

func TestDigestCoversEveryRecord(t *testing.T) {
	a := Records{"services/a": []byte("{}"), "services/b": []byte("{}")}
	base := a.Digest()
	for name, other := range map[string]Records{
		"a record less":      {"services/a": []byte("{}")},
		"a changed byte":     {"services/a": []byte("{ }"), "services/b": []byte("{}")},
		"a renamed record":   {"services/a": []byte("{}"), "services/c": []byte("{}")},
		"names run together": {"services/aservices/b": []byte("{}{}")},
	} {
		if other.Digest() == base {
			t.Errorf("%s has the same digest", name)
		}
	}
	// The name that reads as one record and the beginning of the next.
	sum := sha256.Sum256(a["services/a"])
	merged := Records{"services/a\x00" + string(sum[:]) + "services/b": a["services/b"]}
	if got := merged.Digest(); got != "" {
		t.Errorf("two records in one have the digest %s, and as two %s", got, base)
	}
	b := Records{"services/b": []byte("{}")}
	b.Apply(Change{Puts: Records{"services/a": []byte("{}")}, Deletes: []string{"services/x"}})
	if b.Digest() != base {
		t.Error("the same records in another order of arrival have another digest")
	}
}

func TestDecodeRecordsSkipsAndReportsBadOnes(t *testing.T) {
	c, errs := DecodeRecords(Head{Revision: 3}, Records{
		"services/orders": []byte(`{"protocol":"HTTP"}`),
		"services/bad":    []byte(`{"protocol":"SMTP"}`),
		"tokens/x":        []byte(`{}`),
	})
	if len(errs) != 2 || c.Services["orders"] == nil || c.Services["bad"] != nil {
		t.Errorf("config %v, errors %v", c.Services, errs)
	}
}

func TestDecodeRecordsKeepsBadPoliciesClosed(t *testing.T) {
	for name, tt := range map[string]struct {
		record string
		target string
		action string
	}{
		"an unknown field":                            {`{"target":{"service":"a"},"action":"DENY","rules":[{"form":[]}]}`, "a", Deny},
		"a claim without values":                      {`{"target":{"service":"a"},"action":"ALLOW","rules":[{"from":[{"claims":[{"name":"a"}]}]}]}`, "a", Allow},
		"a field of the wrong kind behind the target": {`{"target":{"service":"a"},"action":"DENY","rules":7}`, "a", Deny},
		"not JSON": {`{"target":`, "", ""},
	} {
		c, errs := DecodeRecords(Head{}, Records{"policies/p": []byte(tt.record)})
		p := c.Policies["p"]
		if len(errs) != 1 || p == nil || len(p.Rules) != 0 || p.Action != tt.action {
			t.Errorf("%s: policy %+v, errors %v", name, p, errs)
			continue
		}
		if p.Target == nil && tt.target != "" || p.Target != nil && p.Target.Service != tt.target {
			t.Errorf("%s: target %+v, want %q", name, p.Target, tt.target)
		}
	}
}

func FuzzDecodeObject(f *testing.F) {
	for name, body := range good {
		f.Add(name, body)
	}
	f.Fuzz(func(t *testing.T, name, body string) {
		o, err := DecodeObject(name, []byte(body))
		if err != nil {
			return
		}
		Normalize(o)
		if err := Validate(o); err == nil {
			c := NewConfig()
			c.Put(o)
			c.CheckAll()
		}
	})
}
