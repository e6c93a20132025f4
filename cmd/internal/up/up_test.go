package up

import (
	"io"
	"strings"
	"testing"
)

func TestEveryAddressMustBeOnLoopback(t *testing.T) {
	cmd := Command()
	cmd.SetArgs([]string{"--control", "banana", "--mqtt", "0.0.0.0:1883", "--data", t.TempDir()})
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	err := cmd.ExecuteContext(t.Context())
	for _, want := range []string{`--control: "banana"`, "--mqtt: 0.0.0.0:1883 is not on loopback"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %s: %v", want, err)
		}
	}
}
