// Command hedgerow is the whole of Hedgerow in one binary: the control plane,
// gateway, sidecar and bridge as roles of their own or, with `up`, all together
// on loopback, and the verbs of the command line. It only assembles commands.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/cmd/internal/client"
	"github.com/hedgerow-mesh/hedgerow/cmd/internal/control"
	"github.com/hedgerow-mesh/hedgerow/cmd/internal/demo"
	"github.com/hedgerow-mesh/hedgerow/cmd/internal/enroll"
	"github.com/hedgerow-mesh/hedgerow/cmd/internal/role"
	"github.com/hedgerow-mesh/hedgerow/cmd/internal/root"
	"github.com/hedgerow-mesh/hedgerow/cmd/internal/up"
	"github.com/hedgerow-mesh/hedgerow/cmd/internal/vault"
)

func main() {
	hedgerow := &cobra.Command{
		Use:   "hedgerow",
		Short: "A service mesh for VMs and IoT gateways",
		Long: `Hedgerow is a service mesh for places without an orchestrator: VMs and IoT
gateways. Start with "hedgerow up --demo": the whole mesh in one process, on
loopback, with something to try.`,
	}
	groups := []*cobra.Group{{ID: "roles", Title: "Run:"}, {ID: "verbs", Title: "Use:"}}
	hedgerow.AddGroup(groups...)
	for _, c := range []*cobra.Command{
		up.Command(), control.Command(), role.GatewayCommand(), role.SidecarCommand(), role.BridgeCommand(), demo.Command(),
	} {
		c.GroupID = "roles"
		hedgerow.AddCommand(c)
	}
	for _, c := range append(client.New(os.Stdout, os.Stderr, role.Version()), root.Command(), vault.Command(), enroll.Command(), control.AuditCommand(os.Stdout)) {
		c.GroupID = "verbs"
		hedgerow.AddCommand(c)
	}
	os.Exit(role.Main(hedgerow, os.Args[1:], os.Stderr))
}
