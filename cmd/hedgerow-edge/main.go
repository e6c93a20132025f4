// Command hedgerow-edge is the small Hedgerow for VMs and IoT gateways: the
// sidecar and the bridge. It has no control plane, no API and no gateway; for
// these, and for the client verbs, use hedgerow.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/cmd/internal/enroll"
	"github.com/hedgerow-mesh/hedgerow/cmd/internal/role"
)

func main() {
	root := &cobra.Command{
		Use:   "hedgerow-edge",
		Short: "Sidecar and MQTT bridge of the Hedgerow service mesh",
	}
	root.AddCommand(role.SidecarCommand(), role.BridgeCommand(), enroll.Command(), role.VersionCommand())
	os.Exit(role.Main(root, os.Args[1:], os.Stderr))
}
