package role

import (
	"errors"
	"fmt"

	"github.com/hedgerow-mesh/hedgerow/mesh/enrolment"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/vaultpki"
)

// Vault is where certificates come from.
type Vault struct {
	VaultLogin `yaml:",inline"`
	Mount      string `yaml:"mount" help:"mount of the PKI engine"`
	Role       string `yaml:"role" help:"PKI role that signs this node's certificates"`

	enrolled bool // all of it comes from the enrolment
	// keepsPassword is the enrolment whose password in Redis is kept as Vault has it; may be nil.
	keepsPassword *enrolment.Record
}

// VaultLogin says which Vault to use and as whom.
type VaultLogin struct {
	Address   string   `yaml:"address" help:"https://host:port of Vault (http only on loopback)"`
	Addresses []string `yaml:"addresses" help:"the same, of each of its nodes; one that does not serve is left for the next"`
	CAFile    string   `yaml:"caFile" help:"PEM file with the CA of Vault"`
	AppRole   AppRole  `yaml:"appRole"`
	CertFile  string   `yaml:"certFile" help:"PEM certificate of the node, to log in with in place of appRole; read at each login"`
	KeyFile   string   `yaml:"keyFile" help:"PEM private key of certFile"`

	node *identity.Node // of a host that has enrolled, to log in with in place of these
}

// AppRole is how the role logs in to Vault.
type AppRole struct {
	RoleIDFile   string `yaml:"roleIdFile" help:"file with the AppRole's role_id"`
	SecretIDFile string `yaml:"secretIdFile" help:"file with the AppRole's secret_id"`
}

// Access returns what vaultpki makes of it.
func (v *VaultLogin) Access() vaultpki.Access {
	addresses := v.Addresses
	if v.Address != "" {
		addresses = append([]string{v.Address}, addresses...)
	}
	certificate := vaultpki.Certificate{CertFile: v.CertFile, KeyFile: v.KeyFile}
	if v.node != nil {
		certificate.Current = v.node.Certificate
	}
	return vaultpki.Access{
		Addresses: addresses, CAFile: v.CAFile,
		AppRole:     vaultpki.AppRole{RoleIDFile: v.AppRole.RoleIDFile, SecretIDFile: v.AppRole.SecretIDFile},
		Certificate: certificate,
	}
}

// Validate reports everything that is wrong with it, by the names of the keys.
func (v *VaultLogin) Validate() error {
	access := v.Access()
	err := access.Validate()
	all, is := err.(interface{ Unwrap() []error })
	if !is {
		return err
	}
	var errs []error
	for _, err := range all.Unwrap() {
		errs = append(errs, fmt.Errorf("vault.%w", err))
	}
	return errors.Join(errs...)
}

func defaultVault() Vault { return Vault{Mount: "pki_mesh"} }

func (c *checks) vault(v *Vault) {
	if v.enrolled {
		return
	}
	if err := v.Validate(); err != nil {
		*c = append(*c, err)
	}
	c.set("vault.role", v.Role)
}
