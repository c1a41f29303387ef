package xsk

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How often an interface is looked at. A socket says nothing when the cable is
// pulled: the kernel goes on taking packets and drops them (noop_enqueue).
const (
	txLiveness = 100 * time.Millisecond
	rxLiveness = time.Second
)

// link watches one interface by asking for its flags. Used by one goroutine.
type link struct {
	index uint32
	ifr   *unix.Ifreq

	// Made once, so that reporting them again and again costs nothing.
	down, noCarrier, gone, noAddress, readdressed error
}

// addressPatience is how long an interface that is up may have no usable source
// address, while IPv6 checks a new one for duplicates, before a sender that was
// opened with another address is taken for outdated.
const addressPatience = time.Second

func newLink(op string, ifi *net.Interface) (*link, error) {
	ifr, err := unix.NewIfreq(ifi.Name)
	if err != nil {
		return nil, &Error{Op: op, Interface: ifi.Name, Err: err}
	}
	report := func(err error, why string) error {
		return &Error{Op: op, Interface: ifi.Name, Err: fmt.Errorf("%w: %s", err, why)}
	}
	return &link{
		index:       uint32(ifi.Index),
		ifr:         ifr,
		down:        report(ErrLinkDown, "the interface is set down, set it up with: ip link set "+ifi.Name+" up"),
		noCarrier:   report(ErrLinkDown, "the interface has no carrier, check the cable and the other end"),
		noAddress:   report(ErrLinkDown, "the interface is up, but has no address to send from yet"),
		readdressed: report(ErrDeviceGone, "the interface is up, but lost the address that the sender was opened with: open it anew"),
		gone:        report(ErrDeviceGone, "the interface was deleted or moved to another namespace"),
	}, nil
}

// check returns nil if the interface is up and has a carrier, and otherwise
// ErrLinkDown or ErrDeviceGone. fd is any socket in the interface's namespace.
// dev_ioctl in net/core/dev_ioctl.c, dev_get_flags.
func (l *link) check(fd int) error {
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, l.ifr); err != nil {
		return l.gone
	}
	flags := l.ifr.Uint16()
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, l.ifr); err != nil || l.ifr.Uint32() != l.index {
		return l.gone // or another one by that name
	}
	switch {
	case flags&unix.IFF_UP == 0:
		return l.down
	case flags&unix.IFF_RUNNING == 0:
		return l.noCarrier
	}
	return nil
}

// findInterface looks the interface up by name, and checks that it is up.
func findInterface(name string) (*net.Interface, error) {
	if name == "" {
		return nil, badField("Interface", "is empty: %s", existing())
	}
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		var errno unix.Errno
		if errors.As(err, &errno) && isPermission(errno) {
			return nil, fmt.Errorf("%w: listing the interfaces (%w)", ErrPermission, errno)
		}
		return nil, fmt.Errorf("%w: %s", ErrInterface, existing())
	}
	if ifi.Flags&net.FlagUp == 0 {
		return nil, fmt.Errorf("%w: set it up with: ip link set %s up", ErrLinkDown, name)
	}
	return ifi, nil
}

func existing() string {
	all, err := net.Interfaces()
	if err != nil {
		return "the interfaces of this host cannot be listed: " + err.Error()
	}
	names := make([]string, len(all))
	for i, ifi := range all {
		names[i] = ifi.Name
	}
	return "this host has " + strings.Join(names, ", ")
}

// addresses returns the addresses of the interface, primary ones first.
func addresses(ifi *net.Interface) ([]netip.Addr, error) {
	addrs, err := ifi.Addrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				out = append(out, ip.Unmap())
			}
		}
	}
	return out, nil
}

// ppoll waits for events on fds, which may be empty, until the time is over.
func ppoll(fds []unix.PollFd, d *unix.Timespec) (int, error) {
	return unix.Ppoll(fds, d, nil)
}
