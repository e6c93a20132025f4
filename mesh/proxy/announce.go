package proxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	proxyproto "github.com/pires/go-proxyproto"
)

// Announcer says that every connection begins with a header of the PROXY protocol,
// version 1 or 2 (HAProxy's proxy-protocol.txt), in which a load balancer that does not
// look into connections tells who made it.
type Announcer struct {
	// From are the blocks that the load balancers connect from. Connections from
	// elsewhere are closed: whoever may write the header chooses the client.
	From []netip.Prefix
}

const (
	// shortestAnnouncement is "PROXY UNKNOWN" and CRLF, longestLine the longest of
	// version 1.
	shortestAnnouncement = 15
	longestLine          = 107
	// mostAnnouncement bounds one of version 2, most of which is what nobody asks for (TLVs).
	mostAnnouncement = 4 << 10
)

// errAnnouncer is of a peer that may not say for whom it speaks.
var errAnnouncer = errors.New("this peer may not send a PROXY header")

// client reads the header of conn, which peer made, and returns the address of the
// client. That is peer's own if the header says nothing of another: of health checks.
func (p *Announcer) client(conn *net.TCPConn, peer string, within time.Duration) (string, error) {
	if !among(p.From, peer) {
		return "", errAnnouncer
	}
	if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		return "", err
	}
	raw, err := readAnnouncement(conn)
	if err != nil {
		return "", fmt.Errorf("read the PROXY header: %w", err)
	}
	header, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(raw)))
	if err != nil {
		return "", fmt.Errorf("read the PROXY header: %w", err)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return "", err
	}
	if source, _, ok := header.TCPAddrs(); ok && !header.Command.IsLocal() {
		addr, _ := netip.AddrFromSlice(source.IP)
		return addr.Unmap().String(), nil
	}
	return peer, nil
}

// readAnnouncement reads the bytes of one header and nothing of what follows, which is
// TLS's or HTTP's.
func readAnnouncement(r io.Reader) ([]byte, error) {
	header := make([]byte, shortestAnnouncement, 64)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(header, proxyproto.SIGV2) {
		for header[len(header)-1] != '\n' && len(header) < longestLine {
			header = append(header, 0)
			if _, err := io.ReadFull(r, header[len(header)-1:]); err != nil {
				return nil, err
			}
		}
		return header, nil
	}
	header = append(header, 0)
	if _, err := io.ReadFull(r, header[len(header)-1:]); err != nil {
		return nil, err
	}
	rest := int(binary.BigEndian.Uint16(header[len(header)-2:]))
	if rest > mostAnnouncement {
		return nil, fmt.Errorf("it has %d bytes, at most %d are read", rest, mostAnnouncement)
	}
	header = append(header, make([]byte, rest)...)
	_, err := io.ReadFull(r, header[len(header)-rest:])
	return header, err
}

// among reports whether an address is in one of the blocks.
func among(blocks []netip.Prefix, address string) bool {
	addr, err := netip.ParseAddr(address)
	return err == nil && contains(blocks, addr.WithZone("").Unmap()) // as prefixes are
}
