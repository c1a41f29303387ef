package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNotUp says that a link did not come up although both of its ends were set up.
var ErrNotUp = errors.New("link did not come up")

// upTimeout bounds the wait for a link. The kernel's work queue takes
// milliseconds, and up to a second for each further event
// (net/core/link_watch.c).
const upTimeout = 10 * time.Second

// End describes one end of a veth pair.
type End struct {
	Name  string         // of the interface, at most 15 bytes
	Addrs []netip.Prefix // IPv4 or IPv6 addresses with the length of their network
}

// VethOptions describes a veth pair. The zero value makes two interfaces called
// veth0, without addresses, with the kernel's MTU (1500) and one queue.
type VethOptions struct {
	A, B   End
	MTU    int // bytes; 0: the kernel's
	Queues int // transmit and receive queues of each end; 0: one
}

// Veth connects two namespaces by a veth pair. When it returns nil, both ends
// are up and carry packets, the addresses are usable, and 224.0.0.0/4 and
// ff00::/8 are routed to the interface (to the first one made, where a
// namespace has several and the sender names none). After an error the pair
// does not exist.
//
// The link goes with either of its namespaces.
func Veth(a, b *NS, opts VethOptions) (err error) {
	for _, e := range []*End{&opts.A, &opts.B} {
		if e.Name == "" {
			e.Name = "veth0"
		}
	}
	bFile := b.File()
	if bFile == nil {
		return wrap("make a veth pair", ErrClosed)
	}
	err = a.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = opts.A.Name, opts.MTU
		attrs.NumTxQueues, attrs.NumRxQueues = opts.Queues, opts.Queues
		link := netlink.NewVeth(attrs)
		link.PeerName = opts.B.Name
		link.PeerNamespace = netlink.NsFd(bFile.Fd())
		return wrap(fmt.Sprintf("make the veth pair %s, %s", opts.A.Name, opts.B.Name), netlink.LinkAdd(link))
	})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = a.Do(func() error {
				link, err := netlink.LinkByName(opts.A.Name)
				if err != nil {
					return err
				}
				return netlink.LinkDel(link)
			})
		}
	}()
	// Both ends have to be up before either has a carrier, and only an
	// interface with a carrier has a transmit queue and IPv6 addresses.
	for _, step := range []func(End) error{setUpLink, waitUp, configure} {
		if err := a.Do(func() error { return step(opts.A) }); err != nil {
			return err
		}
		if err := b.Do(func() error { return step(opts.B) }); err != nil {
			return err
		}
	}
	return nil
}

// Tap makes a persistent tap interface in ns, up, with addresses and multicast
// routes like those of Veth. It is what "qemu -netdev tap,ifname=NAME,script=no,
// downscript=no" expects, started inside of ns.Do. It has a carrier only while
// somebody has it open.
func Tap(ns *NS, name string, addrs ...netip.Prefix) error {
	return ns.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		tap := &netlink.Tuntap{
			LinkAttrs: attrs,
			Mode:      netlink.TUNTAP_MODE_TAP,
			Flags:     netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR,
		}
		if err := netlink.LinkAdd(tap); err != nil {
			return wrap("make the tap "+name, err)
		}
		for _, f := range tap.Fds {
			f.Close() // the device is persistent; QEMU opens it anew
		}
		end := End{Name: name, Addrs: addrs}
		err := setUpLink(end)
		if err == nil {
			err = configure(end)
		}
		if err != nil {
			_ = netlink.LinkDel(tap)
		}
		return err
	})
}

// The functions below run inside of the namespace.

func setUpLink(e End) error {
	link, err := netlink.LinkByName(e.Name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	return wrap("set "+e.Name+" up", err)
}

// waitUp waits until the interface is operational. A carrier that comes later
// than "up" is handled by a work queue of the kernel, and before that the
// interface drops every packet (noop_qdisc). The notification is sent after the
// queue was attached: linkwatch_do_dev in net/core/link_watch.c.
func waitUp(e End) (err error) {
	defer func() { err = wrap("wait for "+e.Name, err) }()
	// Listen first, then look, so that no change falls between the two.
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
		return err
	}
	deadline := time.Now().Add(upTimeout)
	buf := make([]byte, 1<<16)
	for {
		link, err := netlink.LinkByName(e.Name)
		if err != nil {
			return err
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		left := time.Until(deadline)
		if left <= 0 {
			return ErrNotUp
		}
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err != nil && err != unix.EINTR {
			return err
		}
		for err == nil { // what the messages say is read above
			_, _, err = unix.Recvfrom(fd, buf, 0)
		}
	}
}

var multicast = []struct {
	dst    netip.Prefix
	family int
	table  int
}{
	{netip.MustParsePrefix("224.0.0.0/4"), netlink.FAMILY_V4, unix.RT_TABLE_MAIN},
	// IPv6 multicast is looked up in table local first, where the kernel
	// puts this very route when an interface gets ready (addrconf_add_mroute).
	{netip.MustParsePrefix("ff00::/8"), netlink.FAMILY_V6, unix.RT_TABLE_LOCAL},
}

// configure gives the interface its addresses and the multicast routes.
func configure(e End) error {
	link, err := netlink.LinkByName(e.Name)
	if err != nil {
		return wrap("find "+e.Name, err)
	}
	has6 := false
	for _, p := range e.Addrs {
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			has6 = true
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return wrap(fmt.Sprintf("add %s to %s", p, e.Name), err)
		}
	}
	for _, m := range multicast {
		if m.family == netlink.FAMILY_V6 && !has6 {
			continue // IPv6 may be switched off altogether
		}
		route := &netlink.Route{
			LinkIndex: link.Attrs().Index,
			Dst:       ipNet(m.dst),
			Family:    m.family,
			Table:     m.table,
			Scope:     netlink.SCOPE_LINK,
		}
		if m.family == netlink.FAMILY_V6 {
			route.Type, route.Scope, route.Priority = unix.RTN_MULTICAST, netlink.SCOPE_UNIVERSE, 256
		}
		if err := netlink.RouteAdd(route); err != nil && !errors.Is(err, unix.EEXIST) {
			return wrap(fmt.Sprintf("route %s to %s", m.dst, e.Name), err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{
		IP:   p.Addr().AsSlice(),
		Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
	}
}
