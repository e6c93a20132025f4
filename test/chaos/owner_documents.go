package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/test/rig"
)

// documentAttacks are those on what nodes register: each says that shop is where the attacker
// listens.
func documentAttacks() []redisAttack {
	shop := func(o *owner) []byte { return document("shop", o.traps.forged) }
	return []redisAttack{
		{name: "unsigned document", reason: "unsigned", check: "document", write: register(func(o *owner) []byte {
			return envelope(shop(o), nil, nil)
		})},
		{name: "document of the node with another address", reason: "bad_signature", check: "document_signature", write: register(func(o *owner) []byte {
			signature := o.nodes["shop"].sign("shop", document("shop", o.shop.Inbound))
			return envelope(shop(o), o.nodes["shop"].cert.Certificate, signature)
		})},
		{name: "document of another node", reason: "wrong_signer", check: "document_signer", write: register(func(o *owner) []byte {
			return o.nodes["edge7"].document("shop", o.traps.forged)
		})},
		{name: "document by a CA of the attacker", reason: "untrusted", check: "document_chain", write: register(func(o *owner) []byte {
			forged := &signed{&o.mine.ca.Node("shop").Pair}
			return forged.document("shop", o.traps.forged)
		})},
		{name: "document of a service that is not the node's", reason: "entitled", check: "entitled", write: func(ctx context.Context, o *owner) error {
			return o.register(ctx, "edge7", o.nodes["edge7"].document("edge7", o.traps.forged))
		}},
		{name: "replay of a document", reason: "replayed", check: "replayed", write: register(func(o *owner) []byte { return []byte(o.pastDocument) })},
		{name: "oversized document", reason: "oversize", check: "size", write: register(func(o *owner) []byte {
			large := document("shop", o.traps.forged)
			large = append(large[:len(large)-1], `,"padding":"`+strings.Repeat("x", 80<<10)+`"}`...)
			return envelope(large, o.nodes["shop"].cert.Certificate, o.nodes["shop"].sign("shop", large))
		})},
	}
}

// register writes what make returns as the document of shop's sidecar.
func register(make func(*owner) []byte) func(context.Context, *owner) error {
	return func(ctx context.Context, o *owner) error { return o.register(ctx, "shop", make(o)) }
}

// register writes a document, as the sidecar of node would, and tells everybody to look.
func (o *owner) register(ctx context.Context, node string, raw []byte) error {
	if err := o.redis.Set(ctx, key("inst:"+node+"/SIDECAR"), raw, 15*time.Second).Err(); err != nil {
		return err
	}
	stream := fmt.Sprintf("ev:%d", sha256.Sum256([]byte(node))[0]%64)
	return o.redis.XAdd(ctx, &redis.XAddArgs{Stream: key(stream), MaxLen: 100, Values: []any{"node", node}}).Err()
}

// document is what a sidecar says of shop, in the words of the registry, made by somebody who only
// reads Redis.
func document(node, address string) []byte {
	now := time.Now()
	return fmt.Appendf(nil, `{"node":%q,"role":"SIDECAR","seq":%d,"notAfter":%q,"instances":[{"name":"instances/%s-0","service":"shop","node":%q,"address":%q,"health":"HEALTHY"}]}`,
		node, now.UnixMilli(), now.Add(9*time.Minute).UTC().Format(time.RFC3339), node, node, address)
}

// envelope is what is stored of a document.
func envelope(document []byte, certificates [][]byte, signature []byte) []byte {
	raw, err := json.Marshal(map[string]any{"document": json.RawMessage(document), "certificates": certificates, "signature": signature})
	if err != nil {
		panic(err) // it was made here
	}
	return raw
}

// signed signs documents, with the certificate of a node.
type signed struct{ cert *tls.Certificate }

// sign signs a document that is to lie under node's key.
func (s *signed) sign(node string, document []byte) []byte {
	digest := sha256.Sum256(append([]byte("hedgerow instance document 1\n"+rig.Name+"\n"+node+"\nSIDECAR\n"), document...))
	signature, err := s.cert.PrivateKey.(crypto.Signer).Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		panic(err) // a key in memory
	}
	return signature
}

// document is one of node's, signed, which says that shop is at address.
func (s *signed) document(node, address string) []byte {
	raw := document(node, address)
	return envelope(raw, s.cert.Certificate, s.sign(node, raw))
}
