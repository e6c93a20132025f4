package registry

import (
	"context"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// RepublishOld republishes to a Redis that was found behind.
func RepublishOld(ctx context.Context, c *Client, head mesh.Head, all mesh.Records) (Outcome, error) {
	return c.republish(ctx, head, all, false)
}

// Document is what the sidecar of node would write now, were its certificate by's.
func Document(t *testing.T, node string, by Signer, instances ...mesh.Instance) string {
	t.Helper()
	now := time.Now()
	d := document{Node: node, Role: mesh.RoleSidecar, Seq: now.UnixMilli(), NotAfter: now.Add(documentLife), Instances: instances}
	return string(signed(t, &d, by))
}

// signed seals a document of the mesh "test".
func signed(t testing.TB, d *document, by Signer) []byte {
	t.Helper()
	cert, err := by.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := d.seal("test", cert)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// KnowNoFunctions has c take Redis for one before functions.
func KnowNoFunctions(c *Client) { c.scripts.Store(true) }
