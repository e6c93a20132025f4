package controlapi

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
	"github.com/hedgerow-mesh/hedgerow/test/signers"
)

// fakeAuthority signs unless it is told not to.
type fakeAuthority struct {
	*signing.Authority
	mu  sync.Mutex
	err error
}

func (a *fakeAuthority) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
}

func (a *fakeAuthority) Sign(ctx context.Context, head mesh.Head) (mesh.Head, error) {
	a.mu.Lock()
	err := a.err
	a.mu.Unlock()
	if err != nil {
		return head, err
	}
	return a.Authority.Sign(ctx, head)
}

const aService = `{"protocol":"HTTP"}`

func TestWhatIsStoredAndPublishedIsSigned(t *testing.T) {
	keys := signers.New("test")
	a := newAPI(t, func(o *Options) { o.Authority = keys.Authority() })
	if got := a.do("PUT", "/v1/services/orders", aService); got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	head, _, err := a.log.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.Verifier().Head(head, time.Now()); err != nil {
		t.Errorf("in the log: %v", err)
	}
	if published := a.publisher.published[0].Head; published.Signature != head.Signature {
		t.Errorf("published %+v, logged %+v", published, head)
	}
}

// A write that cannot be signed stores nothing, and says what to do.
func TestAWriteThatCannotBeSignedStoresNothing(t *testing.T) {
	keys := signers.New("test")
	other, err := signing.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	a := newAPI(t, func(o *Options) {
		o.Authority = &signing.Authority{Verifier: keys.Verifier(), Signer: other}
	})
	got := a.do("PUT", "/v1/services/orders", aService)
	if got.status != http.StatusServiceUnavailable || !strings.Contains(got.body, "hedgerow root delegate") {
		t.Errorf("%d %s", got.status, got.body)
	}
	if head, records, _ := a.log.Load(t.Context()); head.Revision != 0 || len(records) != 0 {
		t.Errorf("stored %+v", head)
	}
}

// The newest head is signed again by and by, and a failure to do so shows.
func TestTheNewestHeadIsSignedAgain(t *testing.T) {
	keys := signers.New("test")
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	authority := &fakeAuthority{Authority: keys.Authority()}
	a := newAPI(t, func(o *Options) { o.Authority, o.Now = authority, clock })
	a.do("PUT", "/v1/services/orders", aService)
	w := a.server.writer
	first, records, _ := a.server.Source(t.Context())
	w.refresh(t.Context())
	if head, _, _ := a.server.Source(t.Context()); head != first {
		t.Error("it was signed again at once")
	}
	mu.Lock()
	now = now.Add(signEvery)
	mu.Unlock()
	authority.fail(mesh.Errorf("vaultpki.Sign", "", mesh.Unavailable, "sealed"))
	w.refresh(t.Context())
	if got := a.do("GET", "/readyz", ""); got.status != http.StatusServiceUnavailable || !strings.Contains(got.body, "sealed") {
		t.Errorf("not signed: %d %s", got.status, got.body)
	}
	authority.fail(nil)
	w.refresh(t.Context())
	if got := a.do("GET", "/readyz", ""); got.status != http.StatusOK {
		t.Errorf("signed again: %d %s", got.status, got.body)
	}
	head, again, _ := a.server.Source(t.Context())
	if head.Revision != first.Revision || head.Digest != first.Digest || !head.Time.After(first.Time) || len(again) != len(records) {
		t.Errorf("signed %+v, then %+v", first, head)
	}
	if err := keys.Verifier().Head(head, now); err != nil {
		t.Error(err)
	}
	if got := a.do("PUT", "/v1/services/billing", aService); got.status != http.StatusOK {
		t.Errorf("a write after it: %d %s", got.status, got.body)
	}
}

// When the roots begin another epoch, a revision of it is made without anybody writing.
func TestAnotherEpochIsARevision(t *testing.T) {
	keys := signers.New("test")
	authority := keys.Authority()
	a := newAPI(t, func(o *Options) { o.Authority = authority })
	a.do("PUT", "/v1/services/orders", aService)
	set, err := signing.BumpEpoch(keys.Root, keys.Roots(), keys.Set, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := authority.Verifier.Learn(set); err != nil {
		t.Fatal(err)
	}
	a.server.writer.refresh(t.Context())
	head, records, _ := a.server.Source(t.Context())
	if head.Epoch != 2 || head.Revision != 2 || len(records) != 1 {
		t.Errorf("%+v", head)
	}
	if logged, _, _ := a.log.Load(t.Context()); logged != head {
		t.Errorf("logged %+v", logged)
	}
	if err := authority.Verifier.Head(head, time.Now()); err != nil {
		t.Error(err)
	}
	if got := a.do("PUT", "/v1/services/billing", aService); got.status != http.StatusOK {
		t.Errorf("a write after it: %d %s", got.status, got.body)
	}
}
