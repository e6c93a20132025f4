// Package k8s stands in for the Kubernetes provider of go-discover. It does
// not speak to any cluster. Invariant: every look-up fails.
package k8s

import (
	"log"

	"github.com/hashicorp/go-discover"
)

// Provider finds nothing.
type Provider struct{}

var _ discover.Provider = (*Provider)(nil)

// Addrs fails with discover.ErrAbsent.
func (*Provider) Addrs(map[string]string, *log.Logger) ([]string, error) {
	return nil, discover.ErrAbsent
}

// Help says that there is nothing to configure.
func (*Provider) Help() string { return "not part of the test Vault" }
