package proxy

import (
	"net/netip"
	"slices"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// dialList says where instances may be dialled: in Defaults.DialCidrs, and, for
// a node that has them, in Node.DialCidrs too. Whatever the registry says, a
// proxy connects nowhere else: not to a cloud's metadata address, not to Vault.
type dialList struct {
	mesh  []netip.Prefix
	nodes map[string][]netip.Prefix
}

func newDialList(c *mesh.Config) dialList {
	d := dialList{mesh: prefixes(c.Defaults.DialCidrs), nodes: map[string][]netip.Prefix{}}
	for id, n := range c.Nodes {
		if len(n.DialCidrs) > 0 {
			d.nodes[id] = prefixes(n.DialCidrs)
		}
	}
	return d
}

// prefixes parses blocks that were validated with their object. One that does
// not parse all the same allows nothing.
func prefixes(cidrs []string) []netip.Prefix {
	var out []netip.Prefix
	for _, c := range cidrs {
		if p, err := netip.ParsePrefix(c); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// allows reports whether an instance of node may be dialled at addr.
func (d dialList) allows(node string, addr netip.Addr) bool {
	addr = addr.Unmap()
	narrow, narrowed := d.nodes[node]
	return lists(d.mesh, addr) && (!narrowed || lists(narrow, addr))
}

// lists reports whether addr may be dialled by a dial list.
func lists(list []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return mesh.Lists(p, addr) })
}

func contains(list []netip.Prefix, addr netip.Addr) bool {
	for _, p := range list {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
