package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
	"github.com/hedgerow-mesh/hedgerow/test/rig"
	"github.com/hedgerow-mesh/hedgerow/test/signers"
)

// attacks are those of who owns Redis: first on the configuration, then on what nodes register.
func attacks() []redisAttack {
	return append([]redisAttack{
		{name: "unsigned head", reason: "unsigned", check: "head", write: forge(func(_ *owner, h mesh.Head) (mesh.Head, error) { return h, nil })},
		{name: "signature of another head", reason: "bad_signature", check: "head", write: forge(borrow)},
		{name: "key of the attacker", reason: "unknown_key", check: "head", write: forge(func(o *owner, h mesh.Head) (mesh.Head, error) {
			return sign(o.mine.key, h)
		})},
		{name: "keys of the attacker", reason: "bad_keys", check: "keys", write: ownKeys},
		{name: "unsigned change", reason: "unsigned", check: "head", write: change(func(_ *owner, h mesh.Head) (mesh.Head, error) { return h, nil })},
		{name: "omission", reason: "digest", check: "digest", write: omit},
		{name: "omission from a change", reason: "digest", check: "digest", write: omitChange},
		{name: "objects whose names were swapped", reason: "digest", check: "digest", write: swap},
		{name: "rollback", reason: "older", check: "older", write: rollBack},
		{name: "rollback while the callee begins anew", reason: "older", check: "older", write: rollBack, restart: true},
		{name: "fork", reason: "fork", check: "fork", write: fork},
		{name: "replay of the keys from before a key was revoked", reason: "older_keys", check: "serial", write: replayKeys},
		{name: "revoked key", reason: "revoked_key", check: "head", write: forge(func(o *owner, h mesh.Head) (mesh.Head, error) { return sign(o.stolen, h) })},
		{name: "oversized object", reason: "malformed", check: "size", write: oversize},
	}, documentAttacks()...)
}

// opened is what is true, without the policy that closes.
func (o *owner) opened() mesh.Records {
	records := maps.Clone(o.now.records)
	delete(records, closing)
	return records
}

// head is the one that is true.
func (o *owner) head() (h mesh.Head, err error) {
	err = json.Unmarshal([]byte(o.now.head), &h)
	return h, err
}

// next is a head for records, after the one that is true, that nobody has signed.
func (o *owner) next(records mesh.Records) (mesh.Head, error) {
	h, err := o.head()
	return mesh.Head{Epoch: h.Epoch, Revision: h.Revision + 1, Digest: records.Digest(), Time: time.Now().UTC()}, err
}

// sign signs as somebody who has the key.
func sign(key *signing.Key, h mesh.Head) (mesh.Head, error) {
	return signing.SignHead(context.Background(), key, rig.Name, h)
}

// borrow gives a head the signature of the one that is true.
func borrow(o *owner, h mesh.Head) (mesh.Head, error) {
	is, err := o.head()
	h.KeyID, h.Signature = is.KeyID, is.Signature
	return h, err
}

// put makes records with head what Redis holds, with the true keys.
func (o *owner) put(ctx context.Context, records mesh.Records, head mesh.Head, keys string) error {
	raw, err := json.Marshal(head)
	if err != nil {
		return err
	}
	return o.hold(ctx, held{head: string(raw), keys: keys, records: records})
}

// forge writes a configuration of the attacker's whose head authenticate has made look right.
func forge(authenticate func(*owner, mesh.Head) (mesh.Head, error)) func(context.Context, *owner) error {
	return func(ctx context.Context, o *owner) error {
		records := o.opened()
		head, err := o.next(records)
		if err != nil {
			return err
		}
		if head, err = authenticate(o, head); err != nil {
			return err
		}
		return o.put(ctx, records, head, o.now.keys)
	}
}

// ownKeys delegates to a key of the attacker's, by a root of the attacker's.
func ownKeys(ctx context.Context, o *owner) error {
	mine := o.mine.signers
	records := o.opened()
	head, err := o.next(records)
	if err != nil {
		return err
	}
	return o.put(ctx, records, mine.Sign(head), string(mine.Set))
}

// change writes the attacker's configuration as an entry of the stream of changes.
func change(authenticate func(*owner, mesh.Head) (mesh.Head, error)) func(context.Context, *owner) error {
	return func(ctx context.Context, o *owner) error {
		head, err := o.next(o.opened())
		if err != nil {
			return err
		}
		if head, err = authenticate(o, head); err != nil {
			return err
		}
		return o.addChange(ctx, head)
	}
}

// addChange adds an entry by which the policy that closes is deleted.
func (o *owner) addChange(ctx context.Context, head mesh.Head) error {
	raw, err := json.Marshal(head)
	if err != nil {
		return err
	}
	err = o.redis.XAdd(ctx, &redis.XAddArgs{
		Stream: key("changes"), ID: fmt.Sprintf("%d-0", head.Revision),
		Values: []any{"head", raw, "del:" + closing, ""},
	}).Err()
	if redis.HasErrorPrefix(err, "The ID specified in XADD") { // it is there from the time before
		return nil
	}
	return err
}

// signedNext is the head of the revision that comes after what is true, which the control
// plane has signed, and its records. It closes one more path.
func (o *owner) signedNext() (mesh.Head, mesh.Records, error) {
	records := maps.Clone(o.now.records)
	records["policies/shop-more"] = []byte(strings.NewReplacer("shop-admin", "shop-more", "/admin", "/more").Replace(string(records[closing])))
	head, err := o.next(records)
	if err != nil {
		return head, nil, err
	}
	head, err = sign(o.signer, head)
	return head, records, err
}

// omit stands between the control plane and its mesh: a policy is left out of what it publishes.
func omit(ctx context.Context, o *owner) error {
	head, records, err := o.signedNext()
	if err != nil {
		return err
	}
	delete(records, closing)
	return o.put(ctx, records, head, o.now.keys)
}

// omitChange does the same to the stream of changes.
func omitChange(ctx context.Context, o *owner) error {
	head, _, err := o.signedNext()
	if err != nil {
		return err
	}
	return o.addChange(ctx, head)
}

// swap gives two nodes each other's objects, in what the control plane publishes, with the names
// that they have inside: then edge7, which the attacker has, may be shop.
func swap(ctx context.Context, o *owner) error {
	head, records, err := o.signedNext()
	if err != nil {
		return err
	}
	renamed := strings.NewReplacer("nodes/shop", "nodes/edge7", "nodes/edge7", "nodes/shop")
	records["nodes/shop"], records["nodes/edge7"] = []byte(renamed.Replace(string(records["nodes/edge7"]))), []byte(renamed.Replace(string(records["nodes/shop"])))
	if err := o.put(ctx, records, head, o.now.keys); err != nil {
		return err
	}
	return o.register(ctx, "edge7", o.nodes["edge7"].document("edge7", o.traps.forged))
}

// rollBack makes everything what it was, as it was signed.
func rollBack(ctx context.Context, o *owner) error { return o.hold(ctx, o.past) }

// fork signs another history of the revision that was applied, as only the control plane can.
func fork(ctx context.Context, o *owner) error {
	records := o.opened()
	head, err := o.head()
	if err != nil {
		return err
	}
	head.Digest = records.Digest()
	if head, err = sign(o.signer, head); err != nil {
		return err
	}
	return o.put(ctx, records, head, o.now.keys)
}

// replayKeys brings back what the roots said before they revoked the key that the attacker has.
func replayKeys(ctx context.Context, o *owner) error {
	records := o.opened()
	head, err := o.next(records)
	if err != nil {
		return err
	}
	if head, err = sign(o.stolen, head); err != nil {
		return err
	}
	return o.put(ctx, records, head, o.keysBefore)
}

// oversize has an object beside the others that is greater than any that is read. It is signed, as if
// nothing but its size were wrong.
func oversize(ctx context.Context, o *owner) error {
	records := o.opened()
	records["services/large"] = []byte(`{"labels":{"padding":"` + strings.Repeat("x", 3<<20) + `"}}`)
	head, err := o.next(records)
	if err != nil {
		return err
	}
	if head, err = sign(o.signer, head); err != nil {
		return err
	}
	return o.put(ctx, records, head, o.now.keys)
}

// mine is everything that an attacker can make by himself: keys, roots, and a certificate authority.
type mine struct {
	key     *signing.Key
	signers *signers.Signers
	ca      *signers.Nodes
}

// serials is how often the attacker's root has delegated: more often than the mesh's.
const serials = 16

func newMine() (mine, error) {
	key, err := signing.NewKey()
	m := mine{key: key, signers: signers.New(rig.Name), ca: signers.NewNodes()}
	for i := 0; i < serials && err == nil; i++ {
		m.signers.Set, err = signing.Delegate(m.signers.Root, m.signers.Roots(), m.signers.Set, m.signers.Signer.Public(), time.Hour, time.Now())
	}
	return m, err
}
