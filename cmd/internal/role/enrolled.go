package role

import (
	"crypto/tls"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/enrolment"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
	"github.com/hedgerow-mesh/hedgerow/vaultpki"
)

// fromEnrolment fills in what an enrolment left in the data directory.
func (s *Sidecar) fromEnrolment() error { return fromEnrolment(&s.Base, &s.Vault, &s.Node) }

func (g *Gateway) fromEnrolment() error { return fromEnrolment(&g.Base, &g.Vault, &g.Node) }

func (b *Bridge) fromEnrolment() error { return fromEnrolment(&b.Base, &b.Vault, &b.Node) }

// fromEnrolment fills in, of a host that has enrolled, what the configuration leaves out:
// node, mesh, trust domain, roots, Redis and Vault. Who the host is, is the enrolment's
// affair: a configuration that says something else is refused.
func fromEnrolment(base *Base, vault *Vault, node *string) error {
	r, err := enrolment.Load(base.DataDir)
	if err != nil || r == nil {
		return err
	}
	if vault.named() {
		return nil // a host that has enrolled, and a process that does not go by it
	}
	defaults := defaultBase()
	var errs []error
	for _, same := range []struct {
		key, usual, want string
		is               *string
	}{
		{"node", "", r.Node, node}, {"mesh", defaults.Mesh, r.Mesh, &base.Mesh}, {"trustDomain", defaults.TrustDomain, r.TrustDomain, &base.TrustDomain},
	} {
		if *same.is != same.usual && *same.is != same.want {
			errs = append(errs, fmt.Errorf("%s: it is %q, and the host has enrolled as %q; leave it out", same.key, *same.is, same.want))
		}
		*same.is = same.want
	}
	if base.Trust.RootsFile == "" {
		base.Trust.RootsFile = r.RootsFile()
	}
	if len(base.Redis.Addresses) == 0 {
		base.Redis.Addresses, base.Redis.MasterName = r.Redis.Addresses, r.Redis.MasterName
		if base.Redis.TLS == (registry.TLS{}) {
			base.Redis.TLS = registry.TLS{Enabled: r.Redis.TLS, CAFile: r.RedisCAFile(), ServerName: r.Redis.ServerName}
		}
		if file := r.RedisPasswordFile(); file != "" && base.Redis.Username == "" && base.Redis.PasswordFile == "" {
			base.Redis.Username, base.Redis.PasswordFile = registry.UserName(r.Node), file
			vault.keepsPassword = r
		}
	}
	vault.Addresses, vault.CAFile, vault.enrolled = r.Vault, r.VaultCAFile(), true
	vault.Mount, vault.Role = vaultpki.MountMesh, r.Node
	return errors.Join(errs...)
}

// named reports whether the configuration says which Vault to use.
func (v *Vault) named() bool {
	return v.Address != "" || len(v.Addresses) > 0 || v.AppRole != (AppRole{}) || v.CertFile != "" || v.KeyFile != ""
}

// openIssuer opens what signs the certificates of the process: the Vault of the
// configuration, or the one where the host has enrolled, as its node.
func (p *plane) openIssuer(base *Base, vault *Vault, node string) error {
	if !vault.enrolled {
		client, err := vaultpki.New(vaultpki.Config{Access: vault.Access(), Mount: vault.Mount, Role: vault.Role}, p.log, p.reg)
		p.issuer = client
		return err
	}
	id, err := mesh.NodeID(base.TrustDomain, node)
	if err != nil {
		return err
	}
	if p.own, err = identity.OpenNode(filepath.Join(base.DataDir, enrolment.IdentityDir), id, p.ids); err != nil {
		return err
	}
	vault.node = p.own
	v, err := vaultpki.Open(vault.Access(), node, p.log, p.reg)
	if err != nil {
		return err
	}
	leaves, err := v.Client(vault.Mount, vault.Role)
	if err != nil {
		return err
	}
	itself, err := v.Client(vaultpki.MountNode, node)
	if err != nil {
		return err
	}
	if r := vault.keepsPassword; r != nil {
		if p.password, err = newRedisPassword(v, r, p.log, p.reg); err != nil {
			return err
		}
	}
	p.issuer = leaves
	p.rotors = append(p.rotors, identity.NewRotatorOf(p.own.Renewable(itself), identity.LeafPace(), p.own.Count, p.log.With().Stringer("identity", id).Logger()))
	return nil
}

// nodeCertificate is the certificate of the node: it signs what the process registers, and
// brings the mesh's roots.
type nodeCertificate interface {
	Certificate() (*tls.Certificate, error)
	Bundle() *identity.Bundle
}

// self returns the certificate of the node: that of its enrolment, or one of this process's
// own where there was none.
func (p *plane) self(id mesh.ID) nodeCertificate {
	if p.own != nil {
		p.own.UseClock(p.clock)
		p.own.Heed(p.denies)
		return p.own
	}
	return p.source(id)
}
