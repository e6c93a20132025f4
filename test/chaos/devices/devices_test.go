package devices

import (
	"sync"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// Each library publishes on across a restart of its broker, and says of what is acknowledged.
func TestLibraries(t *testing.T) {
	for i, l := range Libraries() {
		t.Run(l.Name, func(t *testing.T) {
			t.Parallel()
			broker := servers.Mosquitto(t, servers.MosquittoPersistence())
			var mu sync.Mutex
			acked := map[string]bool{}
			count := func() int { mu.Lock(); defer mu.Unlock(); return len(acked) }
			stop, err := l.Start(t.Context(), Fleet{Broker: broker.Addr, First: 10 * i, Count: 2, Acked: func(device, n int) {
				mu.Lock()
				defer mu.Unlock()
				if acked[Text(device, n)] || device < 10*i || device > 10*i+1 {
					t.Errorf("device %d, message %d", device, n)
				}
				acked[Text(device, n)] = true
			}})
			if err != nil {
				t.Fatal(err)
			}
			until(t, func() bool { return count() > 50 })
			broker.Restart()
			before := count()
			until(t, func() bool { return count() > before+50 })
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

func until(t *testing.T, is func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !is(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("it took too long")
		}
	}
}

func TestParse(t *testing.T) {
	for _, size := range []string{"", " xxx"} {
		if device, n, err := Parse(Text(7, 12) + size); device != 7 || n != 12 || err != nil {
			t.Errorf("%d, %d, %v", device, n, err)
		}
	}
	if _, _, err := Parse("x"); err == nil {
		t.Error("nonsense is taken")
	}
}
