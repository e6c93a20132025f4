package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// Command returns `hedgerow workload`, which runs one of the demo's workloads
// by itself, to try separate roles on real machines.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "workload",
		Short: "Run one of the demo's workloads, to stand behind a sidecar of your own",
	}
	var address, version string
	orders := &cobra.Command{
		Use:   "orders",
		Short: "GET /orders/{id}",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd, address, Orders(version))
		},
	}
	orders.Flags().StringVar(&version, "version", "v1", "what it says its version is")
	telemetry := &cobra.Command{
		Use:   "telemetry",
		Short: "POST and GET /v1/devices/{device}/telemetry",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd, address, Telemetry())
		},
	}
	for _, c := range []*cobra.Command{orders, telemetry} {
		c.Flags().StringVar(&address, "address", "127.0.0.1:9001", "host:port to listen at")
		cmd.AddCommand(c)
	}
	return cmd
}

func run(cmd *cobra.Command, address string, h http.Handler) error {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("workload: %w", err)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s workload at http://%s\n", cmd.Name(), ln.Addr()) //nolint:errcheck // informative
	return Serve(cmd.Context(), ln, h)
}

// Serve serves h at ln until ctx ends, then lets requests in flight finish for
// up to five seconds.
func Serve(ctx context.Context, ln net.Listener, h http.Handler) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: h, Protocols: protocols, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Hour}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := srv.Shutdown(end)
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
