package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"

	"github.com/hedgerow-mesh/hedgerow/controlapi/nodes"
	"github.com/hedgerow-mesh/hedgerow/mesh"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
	"github.com/hedgerow-mesh/hedgerow/vaultpki"
)

// vaultNodes has Vault allow nodes what they may be.
type vaultNodes struct{ admin *vaultpki.Admin }

var (
	_ nodes.Trust = vaultNodes{}
	_ nodes.Store = vaultNodes{}
)

// Put implements nodes.Trust.
func (n vaultNodes) Put(ctx context.Context, g nodes.Grant) error {
	node := vaultpki.Node{Name: g.Node, Since: g.Since}
	for _, text := range g.IDs {
		id, err := mesh.ParseID(text)
		if err != nil {
			return err
		}
		if service, _, ok := id.Service(); ok {
			node.Services = append(node.Services, service)
		} else if gateway, ok := id.Gateway(); ok {
			node.Gateways = append(node.Gateways, gateway)
		}
	}
	return n.admin.Put(ctx, node)
}

// Withdraw implements nodes.Trust.
func (n vaultNodes) Withdraw(ctx context.Context, node string) error {
	return n.admin.Withdraw(ctx, node)
}

// Nodes implements nodes.Trust.
func (n vaultNodes) Nodes(ctx context.Context) ([]string, error) { return n.admin.Nodes(ctx) }

// Invite implements nodes.Trust. What was made before is void by it.
func (n vaultNodes) Invite(ctx context.Context, node, _ string) (nodes.Invitation, error) {
	inv, err := n.admin.Invite(ctx, node)
	if err != nil {
		return nodes.Invitation{}, err
	}
	return nodes.Invitation{Token: inv.WrapToken, Accessor: inv.Accessor, RoleID: inv.RoleID, Expires: inv.Expires}, nil
}

// Unused implements nodes.Trust.
func (n vaultNodes) Unused(ctx context.Context, accessor string) (bool, error) {
	return n.admin.Pending(ctx, accessor)
}

// Joins implements nodes.Store.
func (n vaultNodes) Joins(ctx context.Context) ([]nodes.Join, error) {
	texts, err := n.admin.Joins(ctx)
	if err != nil {
		return nil, err
	}
	var out []nodes.Join
	for node, text := range texts {
		var j nodes.Join
		if err := json.Unmarshal([]byte(text), &j); err != nil || j.Node != node {
			return nil, mesh.Errorf("control.Joins", "nodes/"+node, mesh.Internal, "what Vault keeps of its join token is not readable: %w", err)
		}
		out = append(out, j)
	}
	return out, nil
}

// SaveJoin implements nodes.Store.
func (n vaultNodes) SaveJoin(ctx context.Context, j nodes.Join) error {
	text, err := json.Marshal(j)
	if err != nil {
		return mesh.Errorf("control.SaveJoin", "nodes/"+j.Node, mesh.Internal, "%w", err)
	}
	return n.admin.PutJoin(ctx, j.Node, string(text))
}

// DeleteJoin implements nodes.Store.
func (n vaultNodes) DeleteJoin(ctx context.Context, node string) error {
	return n.admin.RemoveJoin(ctx, node)
}

// joinFile is what hosts need to join, beside the token.
func joinFile(cfg *Config, rootsFile string) (*hedgerowv1.JoinFile, error) {
	f := &hedgerowv1.JoinFile{
		Mesh: cfg.Mesh, TrustDomain: cfg.TrustDomain,
		Vault: &hedgerowv1.JoinFile_Vault{Addresses: cfg.Vault.Access().Addresses},
		Redis: &hedgerowv1.JoinFile_Redis{
			Addresses: cfg.Redis.Addresses, MasterName: cfg.Redis.MasterName, ServerName: cfg.Redis.TLS.ServerName,
			PasswordInVault: cfg.Redis.Admin.Passwords == inVault,
			Tls:             cfg.Redis.TLS.Enabled || cfg.Redis.TLS.CAFile != "" || cfg.Redis.TLS.CertFile != "" || cfg.Redis.TLS.ServerName != "",
		},
		ControlPlane: &hedgerowv1.JoinFile_ControlPlane{Url: cfg.URL},
	}
	if cfg.URL == "" {
		scheme := "http://"
		if cfg.TLS.CertFile != "" {
			scheme = "https://"
		}
		host, port, err := net.SplitHostPort(cfg.Address)
		if err != nil {
			return nil, fmt.Errorf("address: %w", err)
		}
		f.ControlPlane.Url = scheme + net.JoinHostPort(host, port)
	}
	for _, file := range []struct {
		name string
		into *string
	}{
		{rootsFile, &f.ConfigurationRoots}, {cfg.Vault.CAFile, &f.Vault.CaPem},
		{cfg.Redis.TLS.CAFile, &f.Redis.CaPem}, {cfg.CAFile, &f.ControlPlane.CaPem},
	} {
		if file.name == "" {
			continue
		}
		text, err := os.ReadFile(file.name)
		if err != nil {
			return nil, fmt.Errorf("control: what joining nodes are given: %w", err)
		}
		*file.into = string(text)
	}
	return f, nil
}
