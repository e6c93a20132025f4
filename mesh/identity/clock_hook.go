//go:build clockhook

package identity

import (
	"os"
	"strings"
	"time"
)

// wallClock is the machine's clock, moved by the duration in the file that
// HEDGEROW_TEST_CLOCK names. It is in no program that is built without the tag clockhook:
// tests need a process with a wrong clock, and nothing else can give it one.
func wallClock() time.Time {
	text, err := os.ReadFile(os.Getenv("HEDGEROW_TEST_CLOCK"))
	if err != nil {
		return time.Now()
	}
	by, err := time.ParseDuration(strings.TrimSpace(string(text)))
	if err != nil {
		return time.Now()
	}
	return time.Now().Add(by)
}
