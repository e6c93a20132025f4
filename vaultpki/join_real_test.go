package vaultpki

import (
	"net/http"
	"slices"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// What becomes of join tokens is kept where control planes read it and nodes do not.
func TestRealVaultJoins(t *testing.T) {
	s := newMesh(t)
	admin := s.control.Admin(td)
	if names, err := admin.Nodes(t.Context()); err != nil || len(names) != 0 {
		t.Errorf("nodes of an empty Vault: %q, %v", names, err)
	}
	if joins, err := admin.Joins(t.Context()); err != nil || len(joins) != 0 {
		t.Errorf("joins of an empty Vault: %q, %v", joins, err)
	}
	for _, node := range []string{"edge7", "edge8"} {
		if err := admin.Put(t.Context(), Node{Name: node, Services: []string{"orders"}}); err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"first", "second of " + node} {
			if err := admin.PutJoin(t.Context(), node, text); err != nil {
				t.Fatal(err)
			}
		}
	}
	names, err := admin.Nodes(t.Context())
	if slices.Sort(names); err != nil || !slices.Equal(names, []string{"edge7", "edge8"}) {
		t.Errorf("nodes %q, %v", names, err)
	}
	if err := admin.RemoveJoin(t.Context(), "edge8"); err != nil {
		t.Fatal(err)
	}
	joins, err := admin.Joins(t.Context())
	if err != nil || len(joins) != 1 || joins["edge7"] != "second of edge7" {
		t.Errorf("joins %q, %v", joins, err)
	}
	for _, name := range []string{"", "a/b", "..", "Edge"} {
		if err := admin.PutJoin(t.Context(), name, "x"); mesh.KindOf(err) != mesh.Invalid {
			t.Errorf("%q: %v", name, err)
		}
	}

	inv, err := admin.Invite(t.Context(), "edge7")
	if err != nil {
		t.Fatal(err)
	}
	host := openVault(t, Access{Addresses: []string{s.Address}, CAFile: s.CAFile, TokenFile: "none"})
	secret, err := host.Unwrap(t.Context(), inv.WrapToken, "edge7")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := host.TradeSecretID(t.Context(), inv.RoleID, "guess"); mesh.KindOf(err) != mesh.Unauthentic {
		t.Errorf("a guess: %v", err)
	}
	token, err := host.TradeSecretID(t.Context(), inv.RoleID, secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := host.TradeSecretID(t.Context(), inv.RoleID, secret); mesh.KindOf(err) != mesh.Unauthentic {
		t.Errorf("the secret is good twice: %v", err)
	}
	for _, path := range []string{"kv/data/hedgerow/joins/edge7", "kv/metadata/hedgerow/joins?list=true", "pki_mesh/roles?list=true"} {
		if answer, err := s.RequestAs(t.Context(), token, http.MethodGet, path, nil); err == nil {
			t.Errorf("the node reads %s: %v", path, answer)
		}
	}
}
