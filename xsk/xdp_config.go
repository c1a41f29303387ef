package xsk

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// XDPConfig describes a sender or a receiver over AF_XDP. The same value may
// serve for both. The zero value of a field is its default. Fields that
// UDPConfig has too mean the same.
type XDPConfig struct {
	// Interface is the name of the network interface. Required.
	Interface string

	// Group is the multicast group, IPv4 or IPv6. The zero value means none.
	Group netip.Addr

	// Port is the UDP port of the group, and the port to receive on. A
	// receiver takes all ports up to LastPort, if that is set.
	Port, LastPort int

	// Peers are unicast destinations that get every message too, or that
	// alone get it if there is no Group. Sender only. They must be reached
	// by Interface; routes and neighbours are those of the kernel and are
	// followed as they change. Nothing is sent to a peer that the network
	// does not know: what it misses is given up, and counted. Opening waits
	// some 1.2 seconds at most for peers to be found.
	Peers []netip.AddrPort

	// TTL of multicast packets, IPv6 hop limit, 1…255. Default 1. Unicast
	// packets have 64. DSCP is the class of service, 0…63. Sender only.
	TTL, DSCP int

	// VLAN is the id of an 802.1Q tag, 1…4094; 0 means none. A sender writes
	// it; a receiver takes only packets whose outer tag it is, and with 0
	// those with any tag or none. The device must not strip tags
	// (ethtool -K IF rxvlan off): nothing below sees a stripped one.
	VLAN int

	// Local is the source address, one of Interface. See UDPConfig.
	Local netip.Addr

	// Unicast makes a receiver take messages to the addresses of Interface, and
	// of lo, too; an address that comes later counts within a second, with a program
	// of the receiver's own. Implied without Group. AnyLocal takes messages to
	// any unicast address, those to be forwarded included.
	Unicast, AnyLocal bool

	// MaxPayload is the most bytes of a message, without headers. Default:
	// what fits the MTU and the frame. A receiver drops longer ones, and
	// counts them.
	MaxPayload int

	// Batch is the most messages that a receiver returns at once, 1…1024.
	// Default 64.
	Batch int

	// Queues are the device queues to use. Default: a receiver uses all, a
	// sender queue 0. A sender uses the first.
	Queues []int

	// FrameSize is 2048 (default) or 4096 bytes. A frame holds the headers
	// and one message; in copy mode the receiver's first 256 bytes are the
	// kernel's.
	FrameSize int

	// TxFrames and RxFrames are the frames of each queue, powers of two,
	// 64…65536. Default 2048, which makes 4 MiB each.
	TxFrames, RxFrames int

	Mode CopyMode // whether zero-copy is wanted, needed, or refused

	// Generic allows generic XDP where the driver has no XDP. GenericOnly
	// asks for it.
	Generic, GenericOnly bool

	BusyPoll BusyPoll

	// OwnThread: see UDPConfig. Receiver only.
	OwnThread bool

	Checksum UDPChecksum // of a sender's packets; those of IPv6 always have one

	// Program is used instead of one of the receiver's own, and stays open.
	Program *Program

	// PinnedMap is the path of a pinned XSKMAP of a program that somebody
	// else attached: see ProgramConfig.
	PinnedMap string

	// Lost is told each message that was committed and that no destination
	// will get. See UDPConfig. Sender only.
	Lost func(message []byte)
}

// XDPInfo tells what was chosen and what was got.
type XDPInfo struct {
	Interface  string
	Index      int // of the interface
	MTU        int
	MaxPayload int
	Queues     []int
	ZeroCopy   bool        // of all queues
	WhyCopy    string      // why not zero-copy, if it was not refused
	Checksum   UDPChecksum // of a sender's packets: what was chosen
	Program    ProgramInfo // that feeds the receiver; zero for a sender without one
	FrameSize  int
	Frames     int              // of each queue
	Local      []netip.AddrPort // source of each destination
	Dests      []netip.AddrPort // destinations: the group first, then the peers; of a sender
}

const (
	opOpenXDPTx = "open AF_XDP sender"
	opOpenXDPRx = "open AF_XDP receiver"

	defaultFrames = 2048
	maxFrames     = 1 << 16
	unicastTTL    = 64 // RFC 1700; what Linux has by default

	// xdpHeadroom is what the kernel leaves free in front of a received
	// packet: XDP_PACKET_HEADROOM.
	xdpHeadroom = 256
)

// check does what needs no look at the system, and fills in the defaults.
func (c *XDPConfig) check(sender bool) error {
	u := c.udp()
	if err := u.check(sender); err != nil {
		return err
	}
	c.Group, c.Local, c.Peers, c.TTL, c.Batch = u.Group, u.Local, u.Peers, u.TTL, u.Batch
	if c.FrameSize == 0 {
		c.FrameSize = 2048
	}
	if c.LastPort == 0 {
		c.LastPort = c.Port
	}
	for _, f := range []struct {
		name string
		n    *int
	}{{"TxFrames", &c.TxFrames}, {"RxFrames", &c.RxFrames}} {
		if *f.n == 0 {
			*f.n = defaultFrames
		}
		if !isPowerOfTwo(*f.n) || *f.n < 64 || *f.n > maxFrames {
			return badField(f.name, "%d: want a power of two, 64 to %d", *f.n, maxFrames)
		}
	}
	switch {
	case c.FrameSize != 2048 && c.FrameSize != 4096:
		return badField("FrameSize", "%d: want 2048 or 4096", c.FrameSize)
	case c.LastPort < c.Port || c.LastPort > 65535:
		return badField("LastPort", "%d: want %d to 65535", c.LastPort, c.Port)
	case c.DSCP < 0 || c.DSCP > 63:
		return badField("DSCP", "%d: want 0 to 63", c.DSCP)
	case c.VLAN < 0 || c.VLAN > 4094:
		return badField("VLAN", "%d: want 1 to 4094, or 0 for none", c.VLAN)
	case c.Mode < ZeroCopyPreferred || c.Mode > CopyOnly:
		return badField("Mode", "%v", c.Mode)
	case c.Checksum < ChecksumAuto || c.Checksum > ChecksumZero:
		return badField("Checksum", "%d: want ChecksumAuto, ChecksumFull, ChecksumOffload or ChecksumZero", c.Checksum)
	case c.Program != nil && c.PinnedMap != "":
		return badField("Program", "and PinnedMap are both set: want one of them")
	}
	for i, q := range c.Queues {
		if q < 0 || slices.Contains(c.Queues[:i], q) {
			return badField("Queues", "has queue %d, which is negative or there twice", q)
		}
	}
	if need := len(u.dests()); sender && need > c.TxFrames/2 {
		return badField("Peers", "and Group are %d destinations: want up to half of TxFrames, %d", need, c.TxFrames/2)
	}
	return nil
}

// udp is what the ordinary sockets beside the AF_XDP ones are made of.
func (c *XDPConfig) udp() UDPConfig {
	return UDPConfig{
		Interface: c.Interface, Group: c.Group, Port: c.Port, Peers: c.Peers, TTL: c.TTL,
		Local: c.Local, Unicast: c.Unicast, MaxPayload: c.MaxPayload, Batch: c.Batch, OwnThread: c.OwnThread,
	}
}

// headerRoom is where a message starts in its frame: behind the longest headers,
// and on a cache line.
const headerRoom = (maxHeaders + 63) &^ 63

// fit checks MaxPayload of a sender against the MTU and the frame, or derives it.
func (c *XDPConfig) fit(ifi *net.Interface) error {
	u := c.udp()
	if u.MaxPayload == 0 && ifi.MTU > c.FrameSize-headerRoom {
		u.MaxPayload = c.FrameSize - headerRoom
	}
	if err := u.checkMTU(ifi); err != nil {
		return err
	}
	if most := c.FrameSize - headerRoom; u.MaxPayload > most {
		more := ""
		if c.FrameSize < 4096 {
			more = ", or set FrameSize to 4096"
		}
		return badField("MaxPayload", "%d: a frame of AF_XDP of %d bytes holds %d: lower it%s", u.MaxPayload, c.FrameSize, most, more)
	}
	c.MaxPayload = u.MaxPayload
	return nil
}

// sourceMAC returns the Ethernet address of the interface.
func sourceMAC(ifi *net.Interface) (mac [6]byte, err error) {
	if len(ifi.HardwareAddr) != 6 {
		return mac, fmt.Errorf("%w: not an Ethernet interface", ErrUnsupported)
	}
	return [6]byte(ifi.HardwareAddr), nil
}

// locals returns the unicast addresses that a receiver takes.
func (c *XDPConfig) locals(ifi *net.Interface) ([]netip.Addr, error) {
	if c.AnyLocal || c.Group.IsValid() && !c.Unicast {
		return nil, nil
	}
	nl, err := newNlConn(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer nl.close()
	all, err := nl.addresses(ifi.Index)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: messages to it are wanted", ErrNoAddress)
	}
	return all, checkLocals(all)
}

func checkLocals(all []netip.Addr) error {
	if len(all) > maxLocal {
		return fmt.Errorf("%w: there are %d addresses, up to %d can be told apart: set AnyLocal, or use UDP", ErrUnsupported, len(all), maxLocal)
	}
	return nil
}
