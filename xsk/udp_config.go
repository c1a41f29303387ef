package xsk

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Sizes. The first two are the header bytes of a UDP datagram, as far as the MTU
// counts them.
const (
	Overhead4 = 20 + 8 // IPv4 without options, UDP
	Overhead6 = 40 + 8 // IPv6 without extensions, UDP

	maxDatagram = 65535 // what the length field of IPv4 can say, headers included
	maxBatch    = 1024  // UIO_MAXIOV: more the kernel cuts, __sys_sendmmsg

	// MaxBuffer is the largest socket buffer, in bytes: the kernel counts them in an
	// int (sock_setsockopt takes up to INT_MAX/2, and doubles it).
	MaxBuffer = 1<<31 - 1

	defaultBatch = 88 // two full trains of messages that fill an MTU of 1500
	defaultTTL   = 1
)

// UDPConfig describes a sender or a receiver over plain UDP sockets. The same
// value may serve for both. The zero value of a field is its default.
type UDPConfig struct {
	// Interface is the name of the network interface. Required.
	Interface string

	// Group is the multicast group, IPv4 or IPv6. The zero value means none.
	Group netip.Addr

	// Port is the UDP port, 1…65535: destination port of the group, and the
	// port to receive on. Not used by a sender that has Peers only.
	Port int

	// Peers are unicast destinations that get every message too, or that
	// alone get it if there is no Group. Sender only. They are routed as
	// usual, not necessarily by Interface, with the system's default TTL.
	Peers []netip.AddrPort

	// TTL of multicast packets, IPv6 hop limit, 1…255. Default 1: they stay
	// in the network of the interface. Sender only.
	TTL int

	// Loop makes multicast packets reach receivers on this host too. Sender only.
	Loop bool

	// Local is the source address, one of Interface. By default it is the
	// first IPv4 address of Interface, and for IPv6 the one the kernel
	// chooses for the destination. For a receiver without Group it tells
	// the family only (default IPv4).
	Local netip.Addr

	// Unicast makes a receiver accept messages sent to any address of this
	// host too, as long as they arrive by Interface. Implied without Group.
	//
	// Of several receivers on one host and port, all get each multicast
	// message, but only one, the last opened, each unicast message.
	Unicast bool

	// MaxPayload is the most bytes of a message, without headers. Default:
	// what fits the MTU. A receiver drops longer ones, and counts them.
	MaxPayload int

	// Batch is the number of a sender's frames, and the most messages that
	// Flush hands over, or Receive returns, at once, 1…1024. Default 88.
	Batch int

	// GSO is about sending trains: messages of one size, committed one after
	// another, that go through the kernel as one packet of up to 64 KiB,
	// and are cut into ordinary datagrams last thing, by the interface or
	// just before it (UDP_SEGMENT, Linux 4.18). A destination that refuses
	// trains gets its messages one by one, whatever the setting.
	GSO Offload

	// GRO is about receiving trains: what the kernel has put together again,
	// or never cut, comes in one piece and is split here (UDP_GRO, Linux
	// 5.0). It takes up to 64 buffers of 64 KiB, of which only what messages
	// have filled takes memory.
	GRO Offload

	// OwnThread is for a goroutine that is locked to its thread
	// (runtime.LockOSThread), as one that is bound to a processor must be: Receive
	// then waits in a system call. Otherwise it waits in Go's poller, which for
	// messages that come one by one takes half of the CPU time. Receiver only.
	OwnThread bool

	// Lost is told each message that was committed and that no destination
	// will get: given up by Flush, or still queued at Close. It is called
	// from within those two; the message is lent for the call. Sender only.
	Lost func(message []byte)

	// SndBuf and RcvBuf are the sizes of the socket buffers in bytes, up to
	// MaxBuffer, as the kernel counts them: with overhead, a message of 1400
	// bytes takes about 2300. Default: the system's. Above net.core.wmem_max and
	// rmem_max they need CAP_NET_ADMIN; Info tells what was got.
	SndBuf, RcvBuf int
}

// Offload is a setting for something that not every kernel can do.
type Offload uint8

const (
	OffloadAuto Offload = iota // where the kernel can
	OffloadOn                  // required: opening fails without, with ErrUnsupported
	OffloadOff                 // never
)

func (o Offload) String() string {
	switch o {
	case OffloadAuto:
		return "auto"
	case OffloadOn:
		return "on"
	case OffloadOff:
		return "off"
	}
	return fmt.Sprintf("Offload(%d)", uint8(o))
}

// UDPInfo tells what was chosen and what was got.
type UDPInfo struct {
	Interface  string
	Index      int              // of the interface
	MTU        int              // of the interface, in bytes
	MaxPayload int              // bytes
	Batch      int              // frames
	Local      []netip.AddrPort // local address of each socket
	Dests      []netip.AddrPort // destinations: the group first, then the peers; of a sender
	SndBuf     int              // bytes, of each socket
	RcvBuf     int              // bytes, of each socket
	GSO        []bool           // whether trains are sent, by destination; false also after its path refused one
	GRO        bool             // whether trains are received
}

const (
	opOpenTx = "open UDP sender"
	opOpenRx = "open UDP receiver"
)

// check does what needs no look at the system, and fills in the defaults.
func (c *UDPConfig) check(sender bool) error {
	c.Group, c.Local = c.Group.Unmap(), c.Local.Unmap()
	if c.Batch == 0 {
		c.Batch = defaultBatch
	}
	if c.TTL == 0 {
		c.TTL = defaultTTL
	}
	switch {
	case c.Group.IsValid() && !c.Group.IsMulticast():
		return badField("Group", "%s is not multicast: want an address in 224.0.0.0/4 or ff00::/8", c.Group)
	case c.Group.Zone() != "":
		return badField("Group", "%s has a zone: leave it out, the interface is named apart", c.Group)
	case (c.Group.IsValid() || !sender) && (c.Port < 1 || c.Port > 65535):
		return badField("Port", "%d: want 1 to 65535", c.Port)
	case c.TTL < 1 || c.TTL > 255:
		return badField("TTL", "%d: want 1 to 255", c.TTL)
	case c.Batch < 1 || c.Batch > maxBatch:
		return badField("Batch", "%d: want 1 to %d", c.Batch, maxBatch)
	case c.MaxPayload < 0 || c.MaxPayload > maxDatagram-8:
		return badField("MaxPayload", "%d: want 0 to %d", c.MaxPayload, maxDatagram-8)
	case c.GSO > OffloadOff:
		return badField("GSO", "%s: want OffloadAuto, OffloadOn or OffloadOff", c.GSO)
	case c.GRO > OffloadOff:
		return badField("GRO", "%s: want OffloadAuto, OffloadOn or OffloadOff", c.GRO)
	case c.SndBuf < 0 || c.SndBuf > MaxBuffer:
		return badField("SndBuf", "%d: want 0 to %d bytes", c.SndBuf, MaxBuffer)
	case c.RcvBuf < 0 || c.RcvBuf > MaxBuffer:
		return badField("RcvBuf", "%d: want 0 to %d bytes", c.RcvBuf, MaxBuffer)
	case c.Local.IsValid() && c.Group.IsValid() && c.Local.Is4() != c.Group.Is4():
		return badField("Local", "%s and Group %s are of different families", c.Local, c.Group)
	case sender && !c.Group.IsValid() && len(c.Peers) == 0:
		return badField("Group", "is not set, nor are Peers: nobody to send to")
	}
	if !sender {
		return nil
	}
	c.Peers = slices.Clone(c.Peers)
	for i, p := range c.Peers {
		p = netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
		switch {
		case !p.IsValid() || p.Addr().IsUnspecified():
			return badField("Peers", "number %d has no address", i)
		case p.Port() == 0:
			return badField("Peers", "%s: port 0, want 1 to 65535", p)
		case p.Addr().IsMulticast():
			return badField("Peers", "%s: want a unicast address, not multicast", p)
		case slices.Contains(c.Peers[:i], p):
			return badField("Peers", "%s is there twice", p)
		}
		c.Peers[i] = p
	}
	return nil
}

// dests lists the destinations of a sender, the group first.
func (c *UDPConfig) dests() []netip.AddrPort {
	var all []netip.AddrPort
	if c.Group.IsValid() {
		all = append(all, netip.AddrPortFrom(c.Group, uint16(c.Port)))
	}
	return append(all, c.Peers...)
}

// checkMTU compares MaxPayload with the interface, or derives it.
func (c *UDPConfig) checkMTU(ifi *net.Interface) error {
	mtu := min(ifi.MTU, maxDatagram)
	for _, d := range c.dests() {
		family, overhead := "IPv4 header 20 + UDP 8", Overhead4
		if d.Addr().Is6() {
			family, overhead = "IPv6 header 40 + UDP 8", Overhead6
		}
		fits := mtu - overhead
		if fits < 1 || c.MaxPayload > fits {
			return fmt.Errorf("%w: %d bytes need an MTU of %d (%s), the interface has %d: lower it to %d or raise the MTU",
				ErrMTU, c.MaxPayload, c.MaxPayload+overhead, family, ifi.MTU, max(fits, 0))
		}
	}
	if c.MaxPayload == 0 {
		c.MaxPayload = mtu - Overhead4
		if slices.ContainsFunc(c.dests(), func(d netip.AddrPort) bool { return d.Addr().Is6() }) {
			c.MaxPayload = mtu - Overhead6
		}
	}
	return nil
}

// source returns the address to bind a sender's socket for dest to, or the zero
// value to let the kernel choose one.
func (c *UDPConfig) source(ifi *net.Interface, dest netip.Addr) (netip.Addr, error) {
	addrs, err := addresses(ifi)
	if err != nil {
		return netip.Addr{}, err
	}
	if c.Local.IsValid() {
		if !slices.Contains(addrs, c.Local.WithZone("")) {
			return netip.Addr{}, badField("Local", "%s is not an address of the interface, which has %s",
				c.Local, list(addrs))
		}
		if c.Local.Is4() == dest.Is4() {
			return c.Local, nil
		}
	}
	for _, a := range addrs {
		switch {
		case a.Is4() != dest.Is4():
		case a.Is4():
			return a, nil
		default:
			// RFC 6724 knows better which one fits the destination's scope.
			return netip.Addr{}, nil
		}
	}
	family := "IPv4"
	if dest.Is6() {
		family = "IPv6"
	}
	return netip.Addr{}, fmt.Errorf("%w of the family of %s: add an %s address, it has %s",
		ErrNoAddress, dest, family, list(addrs))
}

func list(addrs []netip.Addr) string {
	if len(addrs) == 0 {
		return "none"
	}
	s := make([]string, len(addrs))
	for i, a := range addrs {
		s[i] = a.String()
	}
	return strings.Join(s, ", ")
}

// explain puts the sentinel around the error of one step of opening a socket.
func explain(step string, err error) error {
	errno, ok := err.(unix.Errno)
	if !ok {
		return fmt.Errorf("%s: %w", step, err)
	}
	switch {
	case errno == unix.EACCES && strings.HasPrefix(step, "bind"):
		return fmt.Errorf("%w: %s: ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE (%w)", ErrPermission, step, errno)
	case errno == unix.EPERM && strings.HasPrefix(step, "SO_BINDTODEVICE"):
		return fmt.Errorf("%w: %s needs CAP_NET_RAW before Linux 5.7 (%w)", ErrPermission, step, errno)
	case errno == unix.EADDRINUSE:
		return fmt.Errorf("%w: %s: a program has the port without SO_REUSEADDR: stop it (see ss -ulpn) or use another port (%w)", ErrInUse, step, errno)
	case errno == unix.ENOBUFS && strings.Contains(step, "ADD_MEMBERSHIP"):
		return fmt.Errorf("%s: too many groups for one socket: raise net.ipv4.igmp_max_memberships (%w)", step, errno)
	case errno == unix.EAFNOSUPPORT:
		return fmt.Errorf("%w: %s: this host has no IPv6 (%w)", ErrNoAddress, step, errno)
	}
	return fmt.Errorf("%s: %w", step, classify(errno))
}
