package mesh

import (
	"net/netip"
	"testing"
)

func TestMetadataHasToBeListedAsSuch(t *testing.T) {
	for _, tt := range []struct {
		block, addr string
		want        bool
	}{
		{"10.0.0.0/8", "10.1.2.3", true},
		{"10.0.0.0/8", "11.1.2.3", false},
		{"0.0.0.0/0", "10.1.2.3", true},
		{"0.0.0.0/0", "169.254.169.254", false},
		{"169.0.0.0/8", "169.254.169.254", false},
		{"169.254.0.0/16", "169.254.169.254", true},
		{"169.254.169.254/32", "169.254.169.254", true},
		{"100.64.0.0/10", "100.64.1.2", true},
		{"100.64.0.0/10", "100.100.100.200", false},
		{"100.100.100.200/32", "100.100.100.200", true},
		{"::/0", "2001:db8::1", true},
		{"::/0", "fe80::1", false},
		{"fe80::/10", "fe80::1", true},
		{"fc00::/7", "fd00:ec2::254", false},
		{"fc00::/7", "fd00:ec3::254", true},
		{"fd00:ec2::/32", "fd00:ec2::254", true},
	} {
		if got := Lists(netip.MustParsePrefix(tt.block), netip.MustParseAddr(tt.addr)); got != tt.want {
			t.Errorf("%s in %s: %t", tt.addr, tt.block, got)
		}
	}
}

func TestServicesOutsideAreWhereProxiesDial(t *testing.T) {
	for _, tt := range []struct {
		address string
		list    []string
		want    bool
	}{
		{"api.example.com", nil, true},
		{"93.184.215.14", nil, true},
		{"127.0.0.1", nil, false},
		{"127.0.0.1", []string{"127.0.0.0/8"}, true},
		{"localhost", nil, false},
		{"vault.localhost", []string{"10.0.0.0/8"}, false},
		{"localhost", []string{"::1/128"}, true},
		{"::1", nil, false},
		{"10.0.0.7", []string{"10.0.0.0/8"}, true},
		{"10.0.0.7", []string{"192.168.0.0/16"}, false},
		{"169.254.169.254", nil, false},
		{"169.254.169.254", []string{"0.0.0.0/0"}, false},
		{"169.254.169.254", []string{"169.254.169.254/32"}, true},
		{"fd00:ec2::254", []string{"::/0"}, false},
	} {
		c := NewConfig()
		c.Put(&Defaults{Meta: Meta{Name: "defaults/mesh"}, DialCidrs: tt.list})
		got := c.CheckReferences(&Service{Meta: Meta{Name: "services/bank"}, External: &External{Address: tt.address, Port: 80}})
		if (len(got) == 0) != tt.want || len(got) > 0 && (got[0].Field != "external.address" || got[0].Hint == "") {
			t.Errorf("%s with %v: %+v", tt.address, tt.list, got)
		}
	}
}
