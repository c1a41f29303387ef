package procconn

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"net/netip"
	"strconv"

	"github.com/ipvsync/ipvsync/encoder"
)

// listed is a line taken apart (ip_vs_conn_seq_show of ip_vs_conn.c).
type listed struct {
	protocol              encoder.Protocol
	client, virtual, dest encoder.Endpoint
	state, origin         string
	expires               uint64
	peName, peData        []byte // parts of the line
}

func (l *listed) parse(line []byte, origin bool) error {
	if len(line) >= maxLine {
		return fmt.Errorf("longer than %d bytes", maxLine)
	}
	words := 9
	if origin {
		words++
	}
	var f [10][]byte
	rest := line
	for i := range words {
		rest = bytes.TrimLeft(rest, " ")
		if len(rest) == 0 {
			return fmt.Errorf("%d columns, want %d at least", i, words)
		}
		if n := bytes.IndexByte(rest, ' '); n >= 0 {
			f[i], rest = rest[:n], rest[n:]
		} else {
			f[i], rest = rest, nil
		}
	}
	var err error
	if l.protocol, err = protocol(string(f[0])); err != nil {
		return err
	}
	for i, e := range [...]struct {
		name string
		to   *encoder.Endpoint
	}{{"client", &l.client}, {"virtual", &l.virtual}, {"destination", &l.dest}} {
		if *e.to, err = endpoint(f[1+2*i], f[2+2*i]); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	l.state = string(f[7])
	if origin {
		l.origin = string(f[8])
	}
	if l.expires, err = strconv.ParseUint(string(f[words-1]), 10, 32); err != nil {
		return fmt.Errorf("expiry %q: want seconds", f[words-1])
	}
	if !origin && len(rest) > 1 {
		l.peName, l.peData, _ = bytes.Cut(rest[1:], []byte(" "))
	}
	return nil
}

// meant says whether a line behind engine data is a line of the listing, perhaps a
// broken one, and no more of the data: it begins with a protocol, or has two
// endpoints where the columns are.
func meant(line []byte) bool {
	if Headless(line) {
		return true
	}
	f := bytes.Fields(line[:min(len(line), maxLine)])
	endpoints := 0
	for i := 1; i+1 < min(len(f), 7); i += 2 {
		if _, err := endpoint(f[i], f[i+1]); err == nil {
			endpoints++
		}
	}
	return endpoints >= 2
}

// Headless says whether what begins with head, eight bytes or more, seems to be a
// listing without its first line, which names the columns.
func Headless(head []byte) bool {
	name, _, ok := bytes.Cut(head, []byte(" "))
	_, err := protocol(string(name))
	return ok && err == nil
}

// protocol reads the names of ip_vs_proto_name, ip_vs_proto.c.
func protocol(s string) (encoder.Protocol, error) {
	switch s {
	case "TCP":
		return encoder.TCP, nil
	case "UDP":
		return encoder.UDP, nil
	case "SCTP":
		return encoder.SCTP, nil
	case "IP":
		return 0, nil
	case "ICMP":
		return 1, nil
	case "ICMPv6":
		return 58, nil
	}
	if len(s) > 3 && s[:3] == "IP_" {
		if n, err := strconv.ParseUint(s[3:], 10, 8); err == nil {
			return encoder.Protocol(n), nil
		}
	}
	return 0, fmt.Errorf("protocol %q is unknown", s)
}

// endpoint reads 0A580001 or 2001:0db8:…, and a port in hexadecimal.
func endpoint(addr, port []byte) (encoder.Endpoint, error) {
	p, err := strconv.ParseUint(string(port), 16, 16)
	if err != nil {
		return encoder.Endpoint{}, fmt.Errorf("port %q: want four hexadecimal digits", port)
	}
	if bytes.IndexByte(addr, ':') >= 0 {
		a, err := netip.ParseAddr(string(addr))
		if err != nil || !a.Is6() || a.Zone() != "" {
			return encoder.Endpoint{}, fmt.Errorf("address %q: want an IPv6 address", addr)
		}
		return encoder.EndpointFrom(netip.AddrPortFrom(a, uint16(p))), nil
	}
	var b [4]byte
	if len(addr) != 8 {
		return encoder.Endpoint{}, fmt.Errorf("address %q: want eight hexadecimal digits, or an IPv6 address", addr)
	}
	if _, err := hex.Decode(b[:], addr); err != nil {
		return encoder.Endpoint{}, fmt.Errorf("address %q: want eight hexadecimal digits", addr)
	}
	return encoder.EndpointFrom(netip.AddrPortFrom(netip.AddrFrom4(b), uint16(p))), nil
}

// template says whether the line shows a template; see the package comment.
func (l *listed) template() bool {
	switch {
	case l.protocol == 0, len(l.peName) > 0, l.state == "ASSURED":
		return true
	case l.state != "NONE":
		return false
	}
	return l.client.Port == 0 || l.protocol != encoder.TCP && l.protocol != encoder.SCTP
}

// entry makes a record of the line.
func (l *listed) entry(e *Entry) (err error) {
	options := e.Options[:0]
	*e = Entry{Origin: l.origin}
	c := &e.Conn
	c.Protocol, c.Client, c.Virtual, c.Dest = l.protocol, l.client, l.virtual, l.dest
	if l.client.Family != l.virtual.Family || l.client.Family != l.dest.Family {
		// A destination of the other family, by tunnel: no record can carry it.
		return fmt.Errorf("client %v and destination %v are of different families, which a record cannot carry", l.client, l.dest)
	}
	switch {
	case l.template():
		c.Flags |= encoder.FlagTemplate | encoder.FlagInactive
	case l.client.Port == 0:
		c.Flags |= encoder.FlagNoCport
	}
	if l.protocol == 0 {
		c.Fwmark = binary.BigEndian.Uint32(l.virtual.Addr[:4])
	}
	switch {
	case l.state == "ERR!" && (l.protocol == encoder.ESP || l.protocol == encoder.AH): // has no names
	default:
		if c.State, err = encoder.ParseState(c.Protocol, c.Flags, l.state); err != nil {
			return err
		}
	}
	established := l.protocol == encoder.TCP && c.State == encoder.TCPEstablished ||
		l.protocol == encoder.SCTP && c.State == encoder.SCTPEstablished
	if !established {
		c.Flags |= encoder.FlagInactive
	}
	// Shown rounded down.
	c.Timeout = uint32(min(l.expires+1, math.MaxUint32))
	if len(l.peName) > 0 {
		c.Options, err = options.AppendPE(string(l.peName), l.peData)
	}
	return err
}
