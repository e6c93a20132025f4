package registry_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
)

// Whoever has a user taken away is told that it is gone by a look that began since: one that waits
// for a Vault meanwhile has not heard of it.
func TestALookThatBeganBeforeAnswersNothing(t *testing.T) {
	t.Parallel()
	s, r := plainRedis(t)
	if err := r.Do(t.Context(), "ACL", "SETUSER", "keeper", "on", ">keeper", "~*", "&*", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
	c := open(t, s.Addr)
	asked, answer := make(chan struct{}, 1), make(chan struct{})
	u, err := registry.NewUsers(c.Client, registry.Admin{Username: "keeper", PasswordFile: secretFile(t, "keeper")}, func(context.Context, string) (string, error) {
		asked <- struct{}{}
		<-answer
		return sum("x"), nil
	}, c.reg)
	if err != nil {
		t.Fatal(err)
	}
	u.Want([]string{"edge7"})
	running(t, u.Run)
	<-asked
	u.Want([]string{"edge8"})
	since := time.Now()
	answer <- struct{}{}
	<-asked // by the next look, which waits
	if at := u.State().At; at.IsZero() || at.After(since) {
		t.Errorf("asked at %v, the look of %v answers; the users are %v", since, at, userNames(t, r))
	}
	close(answer)
	eventually(t, "a look that began since", func() bool { return u.State().At.After(since) })
	if names := userNames(t, r); slices.Contains(names, "node-edge7") {
		t.Errorf("it is said to be gone: %v", names)
	}
	u.Want(nil)
	eventually(t, "the last one is gone too", func() bool { return !slices.Contains(userNames(t, r), "node-edge8") })
}
