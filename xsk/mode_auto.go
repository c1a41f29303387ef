package xsk

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// What ModeAuto leaves alone, beyond what cannot be had. A mode that was asked
// for is used all the same.

// errShared is why a receiver does not take messages by AF_XDP.
var errShared = errors.New("the port is shared")

// besides says what AF_XDP would take messages away from: an XDP program hands
// a packet to its socket instead of the network stack, so no other socket of this
// host gets it, that of a kernel's backup daemon included.
func besides(first, last int) error {
	for _, path := range []string{"/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"} {
		f, err := os.Open(path)
		if err != nil {
			continue // no /proc, or no IPv6: nothing is known to be there
		}
		port := boundPort(f, first, last)
		f.Close()
		if port != 0 {
			return fmt.Errorf("%w: another socket of this host receives on UDP port %d, perhaps that of a kernel's backup daemon, and AF_XDP would take the messages from it", errShared, port)
		}
	}
	return nil
}

// boundPort reads /proc/net/udp (udp4_format_sock, udp6_seq_show) for a socket
// bound to one of the ports. Those of the kernel are there as well.
func boundPort(r io.Reader, first, last int) int {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 2 {
			continue
		}
		port, err := strconv.ParseUint(f[1][strings.LastIndexByte(f[1], ':')+1:], 16, 16)
		if err == nil && int(port) >= first && int(port) <= last {
			return int(port)
		}
	}
	return 0
}

// listened says who else listens to the group by the interface: another socket of
// this host, or a device on top of this one, such as a macvlan in a container,
// whose messages AF_XDP would take. Each has the device receive the group's
// Ethernet address. /proc/net/dev_mcast: dev_mc_seq_show.
func listened(name string, group netip.Addr) error {
	if !group.IsValid() {
		return nil
	}
	list, err := os.ReadFile("/proc/thread-self/net/dev_mcast")
	if err != nil {
		return nil // nothing is known
	}
	mac := groupMAC(group.Unmap().WithZone(""))
	want := hex.EncodeToString(mac[:])
	for line := range strings.Lines(string(list)) {
		if f := strings.Fields(line); len(f) == 5 && f[1] == name && f[4] == want {
			return fmt.Errorf("%w: somebody else listens to %s by this interface, perhaps a container or a kernel's backup daemon, and AF_XDP would take the messages from them", errShared, group)
		}
	}
	return nil
}

// onWire says whether packets of the device have come over a wire, each by
// itself, and are this host's. A virtual device passes the trains of a UDP sender
// with GSO on as they are; generic XDP, unlike most drivers', does nothing about
// it, nor does that of tap devices: each train is one packet, too long for a frame.
// A port of a bridge carries messages for others.
func onWire(name string, generic bool) error {
	ifi, err := findInterface(name)
	if err != nil {
		return err
	}
	c, err := newNlConn(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer c.close()
	kind, master, err := c.linkKind(ifi.Index)
	switch {
	case err != nil:
		return err
	case master != 0:
		return fmt.Errorf("%w: the interface is a port of another (a bridge, a bond), and AF_XDP would take the messages from whoever is behind it", errShared)
	case kind == "tun", generic && kind != "":
		return fmt.Errorf("%w: XDP on a %s device drops what a sender hands over as one (GSO)", ErrUnsupported, kind)
	}
	return nil
}

// linkKind asks for the kind of a virtual device, such as bridge; hardware has
// none; and for the index of the device that it is a port of. rtnl_fill_ifinfo.
func (c *nlConn) linkKind(ifindex int) (kind string, master int, err error) {
	h := c.begin(unix.RTM_GETLINK, 0, unix.SizeofIfInfomsg)
	native.PutUint32(h[4:], uint32(ifindex))
	c.attr32(unix.IFLA_EXT_MASK, rtextFilterSkipStats)
	b, err := c.ask()
	if err != nil {
		return "", 0, err
	}
	for b := after(b, unix.SizeofIfInfomsg); ; {
		typ, v, rest, ok := nextAttr(b)
		if !ok {
			return kind, master, nil
		}
		switch {
		case typ == unix.IFLA_MASTER && len(v) == 4:
			master = int(native.Uint32(v))
		case typ == unix.IFLA_LINKINFO:
			for x := v; ; {
				typ, v, rest, ok := nextAttr(x)
				if !ok {
					break
				}
				if typ == unix.IFLA_INFO_KIND {
					kind = unix.ByteSliceToString(v)
				}
				x = rest
			}
		}
		b = rest
	}
}

// programName tells other receivers which ports a program takes, in the 15 bytes
// that the kernel keeps of a name.
func programName(first, last int) string {
	if last <= first {
		return fmt.Sprintf("ipvsync_%d", first)
	}
	return fmt.Sprintf("ipvs%d_%d", first, last)
}

// takenPorts is the inverse of programName; ok is false for any other name.
func takenPorts(name string) (first, last int, ok bool) {
	if n, err := fmt.Sscanf(name, "ipvsync_%d", &first); n == 1 && err == nil {
		last = first
	} else if n, err := fmt.Sscanf(name, "ipvs%d_%d", &first, &last); n != 2 || err != nil {
		return 0, 0, false
	}
	return first, last, programName(first, last) == name
}

// starved says whether the program that is in the way takes the messages that
// this receiver waits for, so that UDP would get none. It looks at the port
// alone, and finds only programs of this package.
func starved(err error, first, last int) error {
	var foreign *ForeignProgramError
	if !errors.As(err, &foreign) {
		return nil
	}
	prog, e := ebpf.NewProgramFromID(ebpf.ProgramID(foreign.ID))
	if e != nil {
		return nil
	}
	defer prog.Close()
	info, e := prog.Info()
	if e != nil {
		return nil
	}
	if from, to, ok := takenPorts(info.Name); ok && from <= last && first <= to {
		return fmt.Errorf("%w: XDP program id %d of another receiver takes what arrives here for UDP port %d to %d: stop that one, or receive by UDP in both",
			ErrInUse, foreign.ID, from, to)
	}
	return nil
}
