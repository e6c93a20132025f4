package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// issuer signs tokens. Making RSA keys is slow, so that tests share them.
type issuer struct {
	ec, otherEC *ecdsa.PrivateKey
	rsa         *rsa.PrivateKey
	ed          ed25519.PrivateKey
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	var i issuer
	var err error
	i.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	i.otherEC, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	i.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	_, i.ed, err = ed25519.GenerateKey(rand.Reader)
	must(err)
	return &i
}

// set returns the public keys as a document.
func set(t testing.TB, keys ...jose.JSONWebKey) []byte {
	t.Helper()
	raw, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (i *issuer) set(t testing.TB) *KeySet {
	t.Helper()
	keys, err := ParseKeySet(set(t,
		jose.JSONWebKey{Key: i.ec.Public(), KeyID: "ec", Use: "sig"},
		jose.JSONWebKey{Key: i.rsa.Public(), KeyID: "rsa", Algorithm: "RS256"},
		jose.JSONWebKey{Key: i.rsa.Public(), KeyID: "rsa-unnamed"},
		jose.JSONWebKey{Key: i.ed.Public(), KeyID: "ed"},
	))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// sign returns a token of exactly this header and these claims.
func sign(t testing.TB, alg string, private any, header, claims string) string {
	t.Helper()
	input := b64(header) + "." + b64(claims)
	if secret, is := private.([]byte); is {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(input))
		return input + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	sum := sha256.Sum256([]byte(input))
	var signature []byte
	var err error
	switch k := private.(type) {
	case *ecdsa.PrivateKey:
		r, s, e := ecdsa.Sign(rand.Reader, k, sum[:])
		signature, err = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), e
	case *rsa.PrivateKey:
		if alg == "PS256" {
			signature, err = rsa.SignPSS(rand.Reader, k, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		} else {
			signature, err = rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:])
		}
	case ed25519.PrivateKey:
		signature = ed25519.Sign(k, []byte(input))
	}
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// now is when the tests are.
var now = time.Unix(1_800_000_000, 0)

const good = `{"iss":"https://id.test","aud":"shop","sub":"alice","exp":1800000300,"nbf":1799999990}`

func claims(changes ...string) string {
	out := good
	for i := 0; i+1 < len(changes); i += 2 {
		out = strings.Replace(out, changes[i], changes[i+1], 1)
	}
	return out
}

// tokens makes the tokens of the tables.
type tokens struct {
	*issuer
	t    *testing.T
	trap string // where nobody may ask for keys
}

// tokenRow is a token and why it is rejected; "" is accepted.
type tokenRow struct {
	name  string
	rules Rules
	token string
	want  string
}

// shop is what the tokens of the tables have to say.
func shop(algorithms ...string) Rules {
	return Rules{Issuer: "https://id.test", Audiences: []string{"shop", "shop-admin"}, Algorithms: algorithms}
}

const esHeader = `{"alg":"ES256","kid":"ec"}`

func (i *tokens) es(header, body string) string { return sign(i.t, "ES256", i.ec, header, body) }

// goodTokens are accepted.
func (i *tokens) goodTokens() []tokenRow {
	return []tokenRow{
		{"ES256", shop(), i.es(esHeader, good), ""},
		{"RS256 by a key that says so", shop(), sign(i.t, "RS256", i.rsa, `{"alg":"RS256","kid":"rsa"}`, good), ""},
		{"RS256 by a key that says nothing", shop(), sign(i.t, "RS256", i.rsa, `{"alg":"RS256","kid":"rsa-unnamed"}`, good), ""},
		{"EdDSA", shop(), sign(i.t, "EdDSA", i.ed, `{"alg":"EdDSA","kid":"ed"}`, good), ""},
		{"one of several audiences", shop(), i.es(esHeader, claims(`"shop"`, `["x","shop-admin"]`)), ""},
		{"any audience, if none is asked for", Rules{Issuer: "https://id.test"}, i.es(esHeader, claims(`"aud":"shop",`, "")), ""},
		{"unknown claims and header fields", shop(), i.es(`{"alg":"ES256","kid":"ec","typ":"at+jwt","x":{"y":[1]}}`, claims(`"sub"`, `"x":{"y":[1,"2",null]},"sub"`)), ""},
		{"expired within the skew", shop(), i.es(esHeader, claims("1800000300", "1799999941")), ""},
		{"not yet valid within the skew", shop(), i.es(esHeader, claims("1799999990", "1800000059")), ""},
		{"an expiry with a fraction", shop(), i.es(esHeader, claims("1800000300", "1800000300.5")), ""},
	}
}

// algorithmTokens lie about how they are signed.
func (i *tokens) algorithmTokens() []tokenRow {
	_, _, s := cutToken(i.es(esHeader, good))
	der, err := x509.MarshalPKIXPublicKey(i.rsa.Public())
	if err != nil {
		i.t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	rsaJWK := set(i.t, jose.JSONWebKey{Key: i.rsa.Public()})
	return []tokenRow{
		{"alg none, no signature", shop(), b64(`{"alg":"none"}`) + "." + b64(good) + ".", ReasonMalformed},
		{"alg none, with a signature", shop(), b64(`{"alg":"none","kid":"ec"}`) + "." + b64(good) + "." + s, ReasonAlgorithm},
		{"alg None", shop(), b64(`{"alg":"None","kid":"ec"}`) + "." + b64(good) + "." + s, ReasonAlgorithm},
		{"alg nOnE, asked for by a foolish operator", shop("nOnE", "none"), b64(`{"alg":"none","kid":"ec"}`) + "." + b64(good) + "." + s, ReasonAlgorithm},
		{"alg empty", shop(), i.es(`{"alg":"","kid":"ec"}`, good), ReasonAlgorithm},
		{"alg absent", shop(), i.es(`{"kid":"ec"}`, good), ReasonMalformed},
		{"alg is a list", shop(), i.es(`{"alg":["ES256"],"kid":"ec"}`, good), ReasonMalformed},
		{"HS256 with the RSA public key's PEM as its secret", shop(), sign(i.t, "HS256", public, `{"alg":"HS256","kid":"rsa"}`, good), ReasonAlgorithm},
		{"HS256 with the RSA public key's DER as its secret", shop(), sign(i.t, "HS256", der, `{"alg":"HS256","kid":"rsa"}`, good), ReasonAlgorithm},
		{"HS256 with the JWKS as its secret", shop(), sign(i.t, "HS256", rsaJWK, `{"alg":"HS256","kid":"rsa"}`, good), ReasonAlgorithm},
		{"HS256, asked for by a foolish operator", shop("HS256", "RS256"), sign(i.t, "HS256", public, `{"alg":"HS256","kid":"rsa"}`, good), ReasonAlgorithm},
		{"RS256 by a key for ES256", shop(), sign(i.t, "RS256", i.rsa, `{"alg":"RS256","kid":"ec"}`, good), ReasonKeyUnknown},
		{"ES256 with the id of an RSA key", shop(), i.es(`{"alg":"ES256","kid":"rsa"}`, good), ReasonKeyUnknown},
		{"PS256 by a key that says RS256", shop("RS256", "PS256"), sign(i.t, "PS256", i.rsa, `{"alg":"PS256","kid":"rsa"}`, good), ReasonKeyUnknown},
		{"PS256 by a key that says nothing, not asked for", shop(), sign(i.t, "PS256", i.rsa, `{"alg":"PS256","kid":"rsa-unnamed"}`, good), ReasonKeyUnknown},
		{"PS256 by a key that says nothing, asked for", shop("PS256"), sign(i.t, "PS256", i.rsa, `{"alg":"PS256","kid":"rsa-unnamed"}`, good), ""},
		{"RS256, where only ES256 is asked for", shop("ES256"), sign(i.t, "RS256", i.rsa, `{"alg":"RS256","kid":"rsa"}`, good), ReasonAlgorithm},
	}
}

// keyTokens lie about by whom.
func (i *tokens) keyTokens() []tokenRow {
	attacker, err := json.Marshal(jose.JSONWebKey{Key: i.otherEC.Public(), KeyID: "ec"})
	if err != nil {
		i.t.Fatal(err)
	}
	return []tokenRow{
		{"kid of nobody", shop(), i.es(`{"alg":"ES256","kid":"nope"}`, good), ReasonKeyUnknown},
		{"kid is a path", shop(), i.es(`{"alg":"ES256","kid":"../../../../dev/null"}`, good), ReasonKeyUnknown},
		{"kid is SQL", shop(), i.es(`{"alg":"ES256","kid":"ec' OR '1'='1"}`, good), ReasonKeyUnknown},
		{"kid is a URL", shop(), i.es(`{"alg":"ES256","kid":"`+i.trap+`"}`, good), ReasonKeyUnknown},
		{"kid with a NUL", shop(), i.es(`{"alg":"ES256","kid":"ec\u0000"}`, good), ReasonKeyUnknown},
		{"kid in other letters", shop(), i.es(`{"alg":"ES256","kid":"EC"}`, good), ReasonKeyUnknown},
		{"kid is a number", shop(), i.es(`{"alg":"ES256","kid":7}`, good), ReasonMalformed},
		{"kid is empty", shop(), i.es(`{"alg":"ES256","kid":""}`, good), ReasonMalformed},
		{"no kid, one key of the algorithm", shop(), i.es(`{"alg":"ES256"}`, good), ""},
		{"no kid, two keys of the algorithm", shop(), sign(i.t, "RS256", i.rsa, `{"alg":"RS256"}`, good), ReasonKeyUnknown},
		{"signed by another key", shop(), sign(i.t, "ES256", i.otherEC, esHeader, good), ReasonSignature},
		{"its own key in jwk", shop(), sign(i.t, "ES256", i.otherEC, `{"alg":"ES256","kid":"ec","jwk":`+string(attacker)+`}`, good), ReasonSignature},
		{"its own key at jku", shop(), sign(i.t, "ES256", i.otherEC, `{"alg":"ES256","kid":"ec","jku":"`+i.trap+`/jwks"}`, good), ReasonSignature},
		{"its own key at x5u", shop(), sign(i.t, "ES256", i.otherEC, `{"alg":"ES256","kid":"ec","x5u":"`+i.trap+`/x"}`, good), ReasonSignature},
		{"its own certificate in x5c", shop(), sign(i.t, "ES256", i.otherEC, `{"alg":"ES256","kid":"ec","x5c":["MIIB"]}`, good), ReasonSignature},
		{"a good token that names jku", shop(), i.es(`{"alg":"ES256","kid":"ec","jku":"`+i.trap+`"}`, good), ""},
		{"crit", shop(), i.es(`{"alg":"ES256","kid":"ec","crit":["exp"],"exp":1}`, good), ReasonHeader},
		{"crit b64", shop(), i.es(`{"alg":"ES256","kid":"ec","crit":["b64"],"b64":false}`, good), ReasonHeader},
	}
}

// claimTokens say what does not count.
func (i *tokens) claimTokens() []tokenRow {
	return []tokenRow{
		{"other issuer", shop(), i.es(esHeader, claims("https://id.test", "https://evil.test")), ReasonIssuer},
		{"issuer with a slash more", shop(), i.es(esHeader, claims("https://id.test", "https://id.test/")), ReasonIssuer},
		{"no issuer", shop(), i.es(esHeader, claims(`"iss":"https://id.test",`, "")), ReasonIssuer},
		{"issuer is a list", shop(), i.es(esHeader, claims(`"https://id.test"`, `["https://id.test"]`)), ReasonMalformed},
		{"other audience", shop(), i.es(esHeader, claims(`"shop"`, `"shops"`)), ReasonAudience},
		{"no audience", shop(), i.es(esHeader, claims(`"aud":"shop",`, "")), ReasonAudience},
		{"no audiences", shop(), i.es(esHeader, claims(`"shop"`, `[]`)), ReasonAudience},
		{"audience is an object", shop(), i.es(esHeader, claims(`"shop"`, `{"shop":1}`)), ReasonMalformed},
		{"audiences that are numbers", shop(), i.es(esHeader, claims(`"shop"`, `["shop",1]`)), ReasonMalformed},
		{"expired", shop(), i.es(esHeader, claims("1800000300", "1799999940")), ReasonExpired},
		{"expired long ago", shop(), i.es(esHeader, claims("1800000300", "1")), ReasonExpired},
		{"expires at a negative time", shop(), i.es(esHeader, claims("1800000300", "-1e300")), ReasonExpired},
		{"never expires", shop(), i.es(esHeader, claims(`,"exp":1800000300`, "")), ReasonExpired},
		{"expires at null", shop(), i.es(esHeader, claims("1800000300", "null")), ReasonMalformed},
		{"expires at a text", shop(), i.es(esHeader, claims("1800000300", `"1800000300"`)), ReasonMalformed},
		{"expires at infinity", shop(), i.es(esHeader, claims("1800000300", "1e999")), ReasonMalformed},
		{"not yet valid", shop(), i.es(esHeader, claims("1799999990", "1800000061")), ReasonNotYetValid},
		{"valid from a text on", shop(), i.es(esHeader, claims("1799999990", `"0"`)), ReasonMalformed},
		{"subject is a number", shop(), i.es(esHeader, claims(`"alice"`, "7")), ReasonMalformed},
	}
}

// formTokens can be read in two ways, or in none.
func (i *tokens) formTokens() []tokenRow {
	valid := i.es(esHeader, good)
	h, b, s := cutToken(valid)
	short := s[:len(s)-4]
	return []tokenRow{
		{"a claim twice", shop(), i.es(esHeader, claims(`"sub":"alice"`, `"sub":"alice","sub":"root"`)), ReasonMalformed},
		{"a claim twice, once escaped", shop(), i.es(esHeader, claims(`"sub":"alice"`, `"sub":"alice","\u0073ub":"root"`)), ReasonMalformed},
		{"a claim twice, deep inside", shop(), i.es(esHeader, claims(`"sub":"alice"`, `"sub":"alice","x":[{"a":1,"a":2}]`)), ReasonMalformed},
		{"a header field twice", shop(), i.es(`{"alg":"none","alg":"ES256","kid":"ec"}`, good), ReasonMalformed},
		{"claims nested deep", shop(), i.es(esHeader, claims(`"alice"`, `"alice","x":`+strings.Repeat("[", 40)+strings.Repeat("]", 40))), ReasonMalformed},
		{"claims that are a list", shop(), i.es(esHeader, "["+good+"]"), ReasonMalformed},
		{"two objects", shop(), i.es(esHeader, good+good), ReasonMalformed},
		{"claims that are no JSON", shop(), i.es(esHeader, good[1:]), ReasonMalformed},
		{"NaN", shop(), i.es(esHeader, claims("1800000300", "NaN")), ReasonMalformed},
		{"a byte order mark", shop(), i.es(esHeader, "\ufeff"+good), ReasonMalformed},
		{"not UTF-8", shop(), i.es(esHeader, claims("alice", "al\xffice")), ReasonMalformed},
		{"empty claims", shop(), i.es(esHeader, "{}"), ReasonIssuer},
		{"huge", shop(), i.es(esHeader, claims("alice", strings.Repeat("a", MaxTokenBytes))), ReasonTooLarge},
		{"changed claims", shop(), h + "." + b64(claims("alice", "admin")) + "." + s, ReasonSignature},
		{"cut signature", shop(), h + "." + b + "." + short, ReasonSignature},
		{"no signature", shop(), h + "." + b + ".", ReasonMalformed},
		{"two parts", shop(), h + "." + b, ReasonMalformed},
		{"four parts", shop(), valid + "." + s, ReasonMalformed},
		{"five parts, as of JWE", shop(), valid + "." + s + "." + s, ReasonMalformed},
		{"JSON serialization", shop(), `{"payload":"` + b + `","protected":"` + h + `","signature":"` + s + `"}`, ReasonMalformed},
		{"padded base64", shop(), h + "=." + b + "." + s, ReasonMalformed},
		{"base64 with spare bits", shop(), h + "." + b64(good + "  ")[:len(b64(good+"  "))-1] + "B." + s, ReasonMalformed},
		{"white space", shop(), " " + valid, ReasonMalformed},
		{"empty", shop(), "", ReasonMalformed},
		{"dots", shop(), "..", ReasonMalformed},
	}
}

func cutToken(token string) (header, claims, signature string) {
	p := strings.SplitN(token, ".", 3)
	return p[0], p[1], p[2]
}

// Row by row what RFC 8725 warns of, and what else attackers of tokens try.
func TestTokens(t *testing.T) {
	var asked atomic.Int64
	trap := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer trap.Close()
	i := &tokens{newIssuer(t), t, trap.URL}
	table := slices.Concat(i.goodTokens(), i.algorithmTokens(), i.keyTokens(), i.claimTokens(), i.formTokens())
	for _, r := range table {
		t.Run(r.name, func(t *testing.T) {
			v := NewVerifier(r.rules, Fixed(i.set(t)))
			for round := range 2 { // the second time what is remembered counts
				c, no := v.Verify(r.token, now)
				got := ""
				if no != nil {
					got = no.Reason
				} else if c.Subject != "alice" {
					t.Errorf("round %d: the subject is %q", round, c.Subject)
				}
				if got != r.want {
					t.Errorf("round %d: got %q (%v), want %q", round, got, no, r.want)
				}
			}
		})
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("a token had %d requests made", n)
	}
	t.Logf("%d tokens", len(table))
}

// A token that was verified does not count any longer than it says, and not once its key is
// withdrawn.
func TestRemembered(t *testing.T) {
	i := newIssuer(t)
	ring := Fixed(i.set(t))
	v := NewVerifier(Rules{Issuer: "https://id.test"}, ring)
	token := sign(t, "ES256", i.ec, `{"alg":"ES256","kid":"ec"}`, good)
	check := func(at time.Time, want string) {
		t.Helper()
		_, no := v.Verify(token, at)
		got := ""
		if no != nil {
			got = no.Reason
		}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	check(now, "")
	check(now.Add(359*time.Second), "")
	check(now.Add(360*time.Second), ReasonExpired)
	check(now.Add(-2*time.Minute), ReasonNotYetValid)
	check(now, "")
	if n := testing.AllocsPerRun(100, func() { _, _ = v.Verify(token, now) }); n != 0 {
		t.Errorf("%v allocations for a token that is known", n)
	}
	keys, err := ParseKeySet(set(t, jose.JSONWebKey{Key: i.otherEC.Public(), KeyID: "ec"}))
	if err != nil {
		t.Fatal(err)
	}
	ring.take(i.set(t)) // the same ones
	if c := v.known.get(sha256.Sum256([]byte(token)), ring.Keys()); c == nil {
		t.Error("what was verified is forgotten when the same keys are fetched again")
	}
	ring.take(keys)
	check(now, ReasonSignature)
}

// What is remembered is bounded, in number and in size.
func TestRememberedIsBounded(t *testing.T) {
	i := newIssuer(t)
	v := NewVerifier(Rules{Issuer: "https://id.test"}, Fixed(i.set(t)))
	for n := range 3 * mostRemembered {
		token := sign(t, "ES256", i.ec, `{"alg":"ES256","kid":"ec"}`, claims("alice", fmt.Sprint(n)))
		if _, no := v.Verify(token, now); no != nil {
			t.Fatal(no)
		}
	}
	if n, m := len(v.known.byName), v.known.used.Len(); n != mostRemembered || m != mostRemembered {
		t.Errorf("%d and %d tokens are remembered, want %d", n, m, mostRemembered)
	}
	long := sign(t, "ES256", i.ec, `{"alg":"ES256","kid":"ec"}`, claims("alice", strings.Repeat("a", rememberedLength)))
	if _, no := v.Verify(long, now); no != nil {
		t.Fatal(no)
	}
	if v.known.get(sha256.Sum256([]byte(long)), v.ring.Keys()) != nil {
		t.Error("a long token is remembered")
	}
}

func TestKeySets(t *testing.T) {
	i := newIssuer(t)
	weak, err := x509.ParsePKCS1PrivateKey(weakRSA(t))
	if err != nil {
		t.Fatal(err)
	}
	one := func(k jose.JSONWebKey) string { return string(set(t, k)) }
	for _, r := range []struct {
		name, raw string
		keys      int
	}{
		{"EC", one(jose.JSONWebKey{Key: i.ec.Public(), KeyID: "a"}), 1},
		{"another member", `{"keys":` + one(jose.JSONWebKey{Key: i.ec.Public()})[len(`{"keys":`):len(one(jose.JSONWebKey{Key: i.ec.Public()}))-1] + `,"x":1}`, 1},
		{"a private key", one(jose.JSONWebKey{Key: i.ec}), 0},
		{"a secret", one(jose.JSONWebKey{Key: []byte("secret"), Algorithm: "HS256"}), 0},
		{"for encryption", one(jose.JSONWebKey{Key: i.rsa.Public(), Use: "enc"}), 0},
		{"for other operations", `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"` + base64.RawURLEncoding.EncodeToString(i.ed[32:]) + `","key_ops":["sign"]}]}`, 0},
		{"a short RSA key", one(jose.JSONWebKey{Key: weak.Public()}), 0},
		{"an algorithm of another type", one(jose.JSONWebKey{Key: i.ec.Public(), Algorithm: "RS256"}), 0},
		{"HS256 by a public key", one(jose.JSONWebKey{Key: i.rsa.Public(), Algorithm: "HS256"}), 0},
		{"an unknown type beside a good one", `{"keys":[{"kty":"XYZ"},` + one(jose.JSONWebKey{Key: i.ec.Public()})[len(`{"keys":[`):], 1},
		{"no keys", `{"keys":[]}`, 0},
		{"no set", `[]`, 0},
		{"no JSON", `<html>`, 0},
		{"too many keys", `{"keys":[` + strings.Repeat("{},", mostKeys) + `{}]}`, 0},
		{"too long", `{"keys":[` + strings.Repeat(" ", MaxSetBytes) + `]}`, 0},
	} {
		t.Run(r.name, func(t *testing.T) {
			keys, err := ParseKeySet([]byte(r.raw))
			if (err == nil) != (r.keys > 0) {
				t.Fatalf("got %v", err)
			}
			if err == nil {
				if n, _ := keys.Len(); n != r.keys {
					t.Errorf("%d keys, want %d", n, r.keys)
				}
			}
		})
	}
}

// weakRSA returns a key of 1,024 bits, which Go makes no more.
func weakRSA(t *testing.T) []byte {
	t.Helper()
	block, _ := pem.Decode([]byte(weakPEM))
	if block == nil {
		t.Fatal("no PEM")
	}
	return block.Bytes
}

func TestClaims(t *testing.T) {
	all, err := decodeObject([]byte(`{"sub":"alice","admin":true,"level":7,"ratio":0.5,"groups":["a","b"],"scope":"orders:read  orders:write","scp":"x",
		"text":"x y","address":{"a":1},"mixed":["a",{"b":1}],"odd":["a,b","c"],"bad":"a\r\nx: y","beyond":"\u00e9","space":" a","empty":"","none":null,"one":["a,b"],"nested":[["a"]]}`))
	if err != nil {
		t.Fatal(err)
	}
	c, err := newClaims(all)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		name   string
		has    []string
		hasNot []string
		header string // "" is none
	}{
		{"sub", []string{"alice"}, []string{"Alice", "alic", ""}, "alice"},
		{"admin", []string{"true"}, []string{"1", "false"}, "true"},
		{"level", []string{"7"}, []string{"7.0"}, "7"},
		{"ratio", []string{"0.5"}, nil, "0.5"},
		{"groups", []string{"a", "b"}, []string{"a,b", "c"}, "a,b"},
		{"scope", []string{"orders:read", "orders:write"}, []string{"orders:read  orders:write", ""}, "orders:read  orders:write"},
		{"scp", []string{"x"}, nil, "x"},
		{"text", []string{"x y"}, []string{"x"}, "x y"},
		{"address", nil, []string{"a", "1", ""}, ""},
		{"mixed", nil, []string{"a"}, ""},
		{"nested", nil, []string{"a"}, ""},
		{"odd", []string{"a,b"}, []string{"a", "b"}, ""},
		{"one", []string{"a,b"}, []string{"a"}, "a,b"},
		{"bad", []string{"a\r\nx: y"}, nil, ""},
		{"beyond", []string{"é"}, nil, ""},
		{"space", []string{" a"}, []string{"a"}, ""},
		{"empty", []string{""}, nil, ""},
		{"none", nil, []string{"", "null"}, ""},
		{"absent", nil, []string{""}, ""},
	} {
		for _, value := range r.has {
			if !c.Has(r.name, []string{"zzz", value}) {
				t.Errorf("%s has not %q", r.name, value)
			}
		}
		for _, value := range r.hasNot {
			if c.Has(r.name, []string{value}) {
				t.Errorf("%s has %q", r.name, value)
			}
		}
		if got, ok := c.Header(r.name); got != r.header || ok != (r.header != "") {
			t.Errorf("%s as a header is %q %v, want %q", r.name, got, ok, r.header)
		}
	}
	var nobody *Claims
	if _, ok := nobody.Header("sub"); ok || nobody.Has("sub", []string{""}) || nobody.All() != nil {
		t.Error("nobody has claims")
	}
	if c := Named("billing"); !c.Has("sub", []string{"billing"}) || c.Subject != "billing" {
		t.Errorf("%+v", c)
	}
}

func FuzzVerify(f *testing.F) {
	i := newIssuer(f)
	f.Add(sign(f, "ES256", i.ec, `{"alg":"ES256","kid":"ec"}`, good))
	f.Add("..")
	f.Add(b64(`{"alg":"none"}`) + "." + b64(good) + ".")
	keys := i.set(f)
	valid := sign(f, "ES256", i.ec, `{"alg":"ES256","kid":"ec"}`, good)
	f.Fuzz(func(t *testing.T, token string) {
		v := NewVerifier(Rules{Issuer: "https://id.test"}, Fixed(keys))
		if c, no := v.Verify(token, now); no == nil && token != valid && c.Subject != "alice" {
			t.Errorf("%q is accepted", token)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	i := newIssuer(b)
	token := sign(b, "ES256", i.ec, `{"alg":"ES256","kid":"ec"}`, good)
	v := NewVerifier(Rules{Issuer: "https://id.test"}, Fixed(i.set(b)))
	b.Run("known", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, no := v.Verify(token, now); no != nil {
				b.Fatal(no)
			}
		}
	})
	for alg, token := range map[string]string{
		"ES256": token, "RS256": sign(b, "RS256", i.rsa, `{"alg":"RS256","kid":"rsa"}`, good), "EdDSA": sign(b, "EdDSA", i.ed, `{"alg":"EdDSA","kid":"ed"}`, good),
	} {
		b.Run(alg, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, no := v.verify(token, v.ring.Keys()); no != nil {
					b.Fatal(no)
				}
			}
		})
	}
}

// weakPEM is a key of 1,024 bits that is used nowhere.
const weakPEM = `-----BEGIN RSA PRIVATE KEY-----
MIICXgIBAAKBgQC+nt9v7U8BBWryZoNrVESOARlqw12bDe95HSazPnGkHEzHA7Rf
ciNCadEHXmw8cGQQZZnV4nSbKw7qG/JTIFaLbRy/TETC2I63DGHAzogMEnPimUKE
RBtSC1NvJ2leLsYacpXOB9bEH7KRIlWgQ3A/5gRssk6cQCYg7rg6nuVkwQIDAQAB
AoGAHg30krQq2bFd/FwXamu951nbBQ9KifD3ifQDrw0wY7ymilZWMRpQ3t7KO0wy
6pCZ5k/uol9zHSf70QOZAGw/2LQxiIw3WuQVb1ux1BH5J6/2LQvrvY0QFLVg0mWT
J2XlYdrr1ypk/YKTaEUXpbvh0h6DlyeRoLlmuucAPs5M0QUCQQDdONHzrFnDdBv7
z3LkgmD+lxJLsAKoR8WwQV/5D8zaERt/O5qSWAHKhB0UFzxYpYGomWTRtHgT1gu7
GO2fTBWjAkEA3JZ8pp09K5dvmy7WrVFdQaZur+jV35H/0hOTfpUaSSrU+WetLDT0
7xxMDnGncM+ZV3a7l1kM1ZbO0pMwyn2aSwJBAJBm1Y1ElHdj5BxTxoBopp2oyTWE
l8d2yhEKK3ZtHN+/SP6dToF2Vvz1jfGeVTLcHi2Kq2fDcJoqHxAq7nkL9hcCQQCk
IQiwhBBurefp5GjxXrfv0CFNnAX+qshZDB3TsqdzR35d8GlmmiShAUIKAUDf7Geh
L4QW8bhd+C79eW11TQ2PAkEAiQi1Chw6lsPeIQPb1whdnVN3JUadDmLPOK86/tY2
3qS7FkvpxLCfBYKlJkE5bHnrJB6ifrUI/UYpKa3o+0Z1SA==
-----END RSA PRIVATE KEY-----`
