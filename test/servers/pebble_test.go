package servers_test

import (
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

func TestPebbleStartsAgain(t *testing.T) {
	p := servers.Pebble(t, servers.PebbleConfig{TLSPort: 1, HTTPPort: 1, Life: time.Hour})
	directory, roots := p.Directory, p.Roots()
	p.Restart()
	if p.Directory != directory {
		t.Errorf("the directory was %s and is %s", directory, p.Directory)
	}
	if p.Roots().Equal(roots) {
		t.Error("the CA is that of before")
	}
}
