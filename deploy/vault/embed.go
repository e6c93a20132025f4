// Package vault has the policies that a mesh needs in its Vault. They are the files of
// this folder, which can be written by hand too; this package only carries them into the
// program, and does not know Vault. What a policy does not name is refused.
package vault

import _ "embed" // the policies

// NodePolicy is the policy hedgerow-node: what every node may, about itself alone.
//
//go:embed hedgerow-node.hcl
var NodePolicy string

// ControlPolicy is the policy hedgerow-control: what a control plane may.
//
//go:embed hedgerow-control.hcl
var ControlPolicy string
