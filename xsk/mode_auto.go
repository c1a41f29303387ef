package xsk

import (
	"bufio"
	"errors"
	"fmt"
	"io"
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

// onWire says whether packets of the device have come over a wire, each by
// itself. A virtual one passes the trains of a UDP sender with GSO on as they
// are, and generic XDP, unlike a driver's, does nothing about it: each train is
// one packet, too long for a frame.
func onWire(name string) error {
	ifi, err := findInterface(name)
	if err != nil {
		return err
	}
	c, err := newNlConn(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer c.close()
	kind, err := c.linkKind(ifi.Index)
	if err != nil {
		return err
	}
	if kind != "" {
		return fmt.Errorf("%w: generic XDP on a %s device drops what a sender hands over as one (GSO)", ErrUnsupported, kind)
	}
	return nil
}

// linkKind asks for the kind of a virtual device, such as bridge; hardware has
// none. rtnl_link_fill.
func (c *nlConn) linkKind(ifindex int) (string, error) {
	h := c.begin(unix.RTM_GETLINK, 0, unix.SizeofIfInfomsg)
	native.PutUint32(h[4:], uint32(ifindex))
	c.attr32(unix.IFLA_EXT_MASK, rtextFilterSkipStats)
	b, err := c.ask()
	if err != nil {
		return "", err
	}
	for b := after(b, unix.SizeofIfInfomsg); ; {
		typ, v, rest, ok := nextAttr(b)
		if !ok {
			return "", nil
		}
		if typ == unix.IFLA_LINKINFO {
			for x := v; ; {
				typ, v, rest, ok := nextAttr(x)
				if !ok {
					break
				}
				if typ == unix.IFLA_INFO_KIND {
					return unix.ByteSliceToString(v), nil
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
