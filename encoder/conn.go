package encoder

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Family is the address family of an Endpoint, and so of a record.
type Family uint8

// The families. The zero value means that no address has been set.
const (
	FamilyNone Family = 0
	IPv4       Family = 4
	IPv6       Family = 6
)

func (f Family) String() string {
	switch f {
	case FamilyNone:
		return "none"
	case IPv4:
		return "ipv4"
	case IPv6:
		return "ipv6"
	}
	return "family " + strconv.Itoa(int(f))
}

// Endpoint is an address and a port, without pointers, so that tables of them
// cost the garbage collector nothing. It may be compared with ==.
//
// An IPv4 address occupies the first four bytes of Addr, in network order, and
// the rest is zero. An IPv4-mapped IPv6 address is an IPv6 address here, as it
// is on the wire.
type Endpoint struct {
	Addr   [16]byte // network byte order
	Port   uint16   // host byte order
	Family Family
}

// EndpointFrom converts ap. A zone is dropped: the wire has no room for it.
// An invalid address gives FamilyNone, which no record can carry.
func EndpointFrom(ap netip.AddrPort) Endpoint {
	e := Endpoint{Port: ap.Port()}
	switch a := ap.Addr(); {
	case a.Is4():
		b := a.As4()
		copy(e.Addr[:], b[:])
		e.Family = IPv4
	case a.Is6():
		e.Addr = a.As16()
		e.Family = IPv6
	}
	return e
}

// AddrPort converts e; FamilyNone gives an invalid address.
func (e Endpoint) AddrPort() netip.AddrPort {
	switch e.Family {
	case IPv4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(e.Addr[:4])), e.Port)
	case IPv6:
		return netip.AddrPortFrom(netip.AddrFrom16(e.Addr), e.Port)
	}
	return netip.AddrPortFrom(netip.Addr{}, e.Port)
}

// String gives 192.0.2.1:80, [2001:db8::1]:80 or none:80.
func (e Endpoint) String() string {
	if e.Family != IPv4 && e.Family != IPv6 {
		return "none:" + strconv.Itoa(int(e.Port))
	}
	return e.AddrPort().String()
}

// Protocol is the transport protocol of a connection, an IP protocol number.
type Protocol uint8

// The protocols that Linux 6.1's IPVS knows.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	ESP  Protocol = 50
	AH   Protocol = 51
	SCTP Protocol = 132
)

// String gives tcp, udp, sctp, esp, ah, or the number in decimal.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	case ESP:
		return "esp"
	case AH:
		return "ah"
	}
	return strconv.Itoa(int(p))
}

// ParseProtocol is the inverse of String.
func ParseProtocol(s string) (Protocol, error) {
	for _, p := range [...]Protocol{TCP, UDP, SCTP, ESP, AH} {
		if strings.EqualFold(s, p.String()) {
			return p, nil
		}
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil {
		return 0, fmt.Errorf("protocol %q: want tcp, udp, sctp, esp, ah or a number from 0 to 255", s)
	}
	return Protocol(n), nil
}

// Seq is how the sequence numbers of one direction are shifted: struct
// ip_vs_seq of include/net/ip_vs.h. Application helpers such as FTP's, which
// change the length of what they forward, need it.
type Seq struct {
	Init          uint32 // add the delta from this sequence number on
	Delta         uint32 // delta of the sequence numbers
	PreviousDelta uint32 // delta before Init
}

// Conn is one connection as a record carries it. The zero value holds no
// address and cannot be encoded. A Conn is a plain value with one owner at a
// time; copies share the bytes of Options.
type Conn struct {
	Client  Endpoint // who connects
	Virtual Endpoint // the virtual service it connects to
	Dest    Endpoint // the real server chosen for it

	Protocol Protocol
	State    State // its meaning depends on Protocol and on FlagTemplate
	Flags    Flags // as on the wire; see Flags.Backup for what a backup keeps
	Fwmark   uint32
	Timeout  uint32 // seconds; 0 means the default of the state

	// Options in wire form; empty for nearly every connection. Decoding
	// overwrites them in place (append to Options[:0]).
	Options Options
}

// Family is the address family of the connection: its client's.
func (c *Conn) Family() Family { return c.Client.Family }

// Template says whether the record is a persistence template.
func (c *Conn) Template() bool { return c.Flags&FlagTemplate != 0 }

// StateName is the state's name as /proc/net/ip_vs_conn shows it, or its
// number in decimal where the kernel has no name.
func (c *Conn) StateName() string { return StateName(c.Protocol, c.Flags, c.State) }

// String gives one line, for logs and tests.
func (c *Conn) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s > %s > %s %s %ds", c.Protocol, c.Client, c.Virtual, c.Dest, c.StateName(), c.Timeout)
	if c.Flags != 0 {
		fmt.Fprintf(&b, " %s", c.Flags)
	}
	if c.Fwmark != 0 {
		fmt.Fprintf(&b, " fwmark %d", c.Fwmark)
	}
	if in, out, ok := c.Options.Seq(); ok {
		fmt.Fprintf(&b, " seq in %v out %v", in, out)
	}
	if name, data, ok := c.Options.PE(); ok {
		fmt.Fprintf(&b, " pe %q %q", name, data) // quoted: it comes from the network
	}
	return b.String()
}

// Equal says whether both describe the same record, options included, byte by
// byte and in the same order.
func (c *Conn) Equal(o *Conn) bool {
	return c.Client == o.Client && c.Virtual == o.Virtual && c.Dest == o.Dest &&
		c.Protocol == o.Protocol && c.State == o.State && c.Flags == o.Flags &&
		c.Fwmark == o.Fwmark && c.Timeout == o.Timeout &&
		string(c.Options) == string(o.Options)
}
