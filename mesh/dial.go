package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// guardedBlocks are link-local addresses, and the others at which clouds serve metadata: who
// may ask there gets credentials.
func guardedBlocks() [4]netip.Prefix {
	return [...]netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{169, 254}), 16),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfe, 0x80}), 10),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x00, 0x0e, 0xc2}), 32), // fd00:ec2::254
		netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 100, 100, 200}), 32),
	}
}

// Lists reports whether a block of a dial list lets addr be dialled. Link-local and metadata
// addresses have to be listed as such: no block that is wider than theirs has them.
func Lists(block netip.Prefix, addr netip.Addr) bool {
	if !block.Contains(addr) {
		return false
	}
	for _, g := range guardedBlocks() {
		if g.Contains(addr) {
			return block.Bits() >= g.Bits()
		}
	}
	return true
}

// checkDialled refuses an address of a service outside the mesh that no proxy would dial: one of
// this machine, of private networks, or link-local, unless Defaults.DialCidrs lists it. What a
// name leads to is asked when it is dialled.
func (c *Config) checkDialled(field, address string, v *Violations) {
	addrs := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	if address != "localhost" && !strings.HasSuffix(address, ".localhost") {
		addr, err := netip.ParseAddr(address)
		if err != nil || !addr.IsLoopback() && !addr.IsPrivate() && !addr.IsLinkLocalUnicast() {
			return
		}
		addrs = []netip.Addr{addr}
	}
	listed := slices.ContainsFunc(c.Defaults.DialCidrs, func(cidr string) bool {
		block, err := netip.ParsePrefix(cidr)
		return err == nil && slices.ContainsFunc(addrs, func(a netip.Addr) bool { return Lists(block, a) })
	})
	if !listed {
		v.Add(field, fmt.Sprintf("add a block with it to dialCidrs of defaults/mesh, as narrow as %q, if that is where it is", addrs[0].String()+"/"+fmt.Sprint(addrs[0].BitLen())),
			"no proxy dials %s: it is not public, and defaults.dialCidrs does not list it", address)
	}
}
