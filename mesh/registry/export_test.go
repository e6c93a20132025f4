package registry

import (
	"context"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// RepublishOld republishes to a Redis that was found behind.
func RepublishOld(ctx context.Context, c *Client, head mesh.Head, all mesh.Records) (Outcome, error) {
	return c.republish(ctx, head, all, false)
}
