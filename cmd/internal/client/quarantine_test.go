package client

import "testing"

// Whoever cannot write a quarantine is told of the way without one, and who releases a node of
// what it needs to come back.
func TestQuarantineAndRelease(t *testing.T) {
	t.Run("Vault is away", func(t *testing.T) {
		control(t, exchange{method: "POST", uri: "/v1/nodes/edge7:quarantine", body: `{}`, status: 503, answer: `{"title":"Unavailable","status":503,"code":"unavailable","detail":"Vault is sealed"}`})
		hedgerow(t, "", "quarantine", "edge7").want(t, "",
			"hedgerow: quarantine edge7: Vault is sealed (503 unavailable)\nhedgerow: hint: a root key shuts the node out meanwhile: hedgerow root deny edge7\n", 1)
	})
	t.Run("released", func(t *testing.T) {
		control(t, exchange{method: "POST", uri: "/v1/nodes/edge7:release", status: 200, answer: `{"name":"quarantines/edge7","state":"RELEASED","releaseTime":"2026-01-02T03:04:05Z"}`})
		hedgerow(t, "", "release", "edge7").want(t,
			"node edge7: RELEASED\ncertificates from before stay refused: enrol it again, with hedgerow node join edge7 -o FILE\n", "", 0)
	})
	t.Run("no such node to join", func(t *testing.T) {
		control(t, exchange{method: "POST", uri: "/v1/nodes/edge8:join", body: `{}`, status: 404, answer: `{"title":"Not Found","status":404,"code":"not_found","detail":"nodes/edge8: there is no such object"}`})
		hedgerow(t, "", "node", "join", "edge8", "-o", t.TempDir()+"/f").want(t, "",
			"hedgerow: node join edge8: nodes/edge8: there is no such object (404 not_found)\nhedgerow: hint: make nodes/edge8 first, with: hedgerow apply\n", 1)
	})
	t.Run("a certificate without its key", func(t *testing.T) {
		control(t)
		hedgerow(t, "", "get", "routes", "--cert-file", "a.pem").want(t, "", "hedgerow: get routes: --cert-file and --key-file go together\n", 1)
	})
}
