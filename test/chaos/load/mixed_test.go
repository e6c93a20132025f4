package load

import (
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/gorilla/websocket"
)

// talker serves WebSockets that echo; cut says of each after which message it ends, and how.
func talker(t *testing.T, cut func(socket, message int64, conn *websocket.Conn) bool) Target {
	t.Helper()
	var sockets atomic.Int64
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		up := websocket.Upgrader{}
		conn, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close() //nolint:errcheck // torn down anyway
		socket := sockets.Add(1)
		for n := int64(1); ; n++ {
			kind, text, err := conn.ReadMessage()
			if err != nil || cut(socket, n, conn) || conn.WriteMessage(kind, text) != nil {
				return
			}
		}
	})
}

func TestMixedLoadIsVerified(t *testing.T) {
	target := good(t)
	run := Start(t.Context(), Plan{Target: target, Rate: 500, Mixed: true})
	until(t, func() bool { return run.Report().Sent >= 120 })
	r := run.Stop()
	if r.Failed != 0 || len(r.Cuts) != 0 || r.Refused != 0 {
		t.Errorf("%+v", r)
	}
	if r.Calls < 19 || r.Messages < 19 || r.Dialled < 1 || r.Answered() != r.Sent-r.Messages || r.Requests() != r.Answered()+r.Dialled {
		t.Errorf("%+v: %d requests, %d answered", r, r.Requests(), r.Answered())
	}
}

// A WebSocket that is cut is told of, and how; what follows goes over a new one.
func TestCutWebSocketsAreCounted(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(*websocket.Conn)
		want string
	}{
		"with an end":  {func(*websocket.Conn) {}, "end"},
		"with a reset": {func(c *websocket.Conn) { _ = c.NetConn().(interface{ SetLinger(int) error }).SetLinger(0) }, "reset"},
		"with goodbyes": {func(c *websocket.Conn) {
			_ = c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseGoingAway, ""))
		}, "close_1001"},
	} {
		t.Run(name, func(t *testing.T) {
			target := talker(t, func(socket, n int64, conn *websocket.Conn) bool {
				if socket == 1 && n == 3 {
					tt.end(conn)
					return true
				}
				return false
			})
			s := sockets{target: target}
			dialled, cuts := 0, map[string]int{}
			s.note = func(asked, refused bool, cut string) {
				if asked && !refused {
					dialled++
				}
				if cut != "" {
					cuts[cut]++
				}
			}
			defer s.close()
			told := 0
			for n := range 5 * standing {
				cut, err := s.send(t.Context(), n)
				if err != nil {
					t.Fatalf("message %d: %v", n, err)
				}
				if cut {
					told++
				}
			}
			if told != 1 || dialled != standing+1 || len(cuts) != 1 || cuts[tt.want] != 1 || s.standing() != standing {
				t.Errorf("dialled %d, cut %v, %d stand", dialled, cuts, s.standing())
			}
		})
	}
}

// Where no new one connects, or one answers with something else, that is a failure.
func TestWebSocketsThatFail(t *testing.T) {
	for name, target := range map[string]Target{
		"refused":           serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }),
		"cut before it ran": talker(t, func(int64, int64, *websocket.Conn) bool { return true }),
		"another message": talker(t, func(_, _ int64, c *websocket.Conn) bool {
			return c.WriteMessage(websocket.TextMessage, []byte("no echo")) != nil
		}),
	} {
		t.Run(name, func(t *testing.T) {
			s := sockets{target: target, note: func(bool, bool, string) {}}
			defer s.close()
			if _, err := s.send(t.Context(), 1); err == nil {
				t.Error("no failure")
			}
		})
	}
}
