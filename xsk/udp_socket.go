package xsk

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// socket sets up one UDP socket step by step. After the first failing step the
// others do nothing, and err tells which one it was.
type socket struct {
	fd  int
	err error
}

func newSocket(v6 bool) *socket {
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	s := &socket{fd: fd}
	if err != nil {
		s.fd = -1
		s.err = explain("make a socket", err)
	}
	return s
}

// done returns the socket if all steps succeeded, and otherwise closes it.
func (s *socket) done() (int, error) {
	if s.err != nil && s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
	return s.fd, s.err
}

func (s *socket) step(name string, f func() error) {
	if s.err == nil {
		if err := f(); err != nil {
			s.err = explain(name, err)
		}
	}
}

func (s *socket) set(name string, level, opt, value int) {
	s.step(name, func() error { return unix.SetsockoptInt(s.fd, level, opt, value) })
}

// setIfKnown is set for an option that older kernels do not have.
func (s *socket) setIfKnown(name string, level, opt, value int) {
	s.step(name, func() error {
		err := unix.SetsockoptInt(s.fd, level, opt, value)
		if err == unix.ENOPROTOOPT {
			return nil
		}
		return err
	})
}

// buffer sets a buffer size, past the system's limit if that is allowed. The
// kernel doubles the value to make up for its overhead (sock_setsockopt); half
// goes in, so that the whole comes out.
func (s *socket) buffer(name string, force, plain, bytes int) {
	if bytes == 0 {
		return
	}
	s.step(name, func() error {
		if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, force, bytes/2) == nil {
			return nil
		}
		return unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, plain, bytes/2)
	})
}

func (s *socket) get(opt int) int {
	v, _ := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, opt)
	return v
}

func (s *socket) bind(a netip.AddrPort, ifindex int) {
	s.step("bind to "+a.String(), func() error {
		sa, err := sockaddr(a, ifindex)
		if err != nil {
			return err
		}
		return unix.Bind(s.fd, sa)
	})
}

// sockaddr makes the socket address of a. Where it needs an interface, it is
// the one of the address's zone, or else ifindex.
func sockaddr(a netip.AddrPort, ifindex int) (unix.Sockaddr, error) {
	ip := a.Addr()
	if ip.Is4() {
		return &unix.SockaddrInet4{Addr: ip.As4(), Port: int(a.Port())}, nil
	}
	sa := &unix.SockaddrInet6{Addr: ip.As16(), Port: int(a.Port())}
	if ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast() || ip.IsInterfaceLocalMulticast() {
		sa.ZoneId = uint32(ifindex)
		if zone := ip.Zone(); zone != "" {
			n, err := strconv.Atoi(zone)
			if err != nil {
				ifi, err := net.InterfaceByName(zone)
				if err != nil {
					return nil, fmt.Errorf("%w: zone %q of %s: %s", ErrInterface, zone, a, existing())
				}
				n = ifi.Index
			}
			sa.ZoneId = uint32(n)
		}
	}
	return sa, nil
}

func localAddr(fd int) netip.AddrPort {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// openTxSocket makes the socket for one destination of a sender.
//
// Each destination has a connected socket of its own: the route is looked up
// once instead of per packet, a peer's ICMP errors are told apart, and one
// that takes no more does not hold up the others.
func openTxSocket(c *UDPConfig, ifi *net.Interface, dest netip.AddrPort) (int, error) {
	source, err := c.source(ifi, dest.Addr())
	if err != nil {
		return -1, err
	}
	s := newSocket(dest.Addr().Is6())
	s.buffer("SO_SNDBUF", unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, c.SndBuf)
	// IP_RECVERR also makes the kernel report a packet that the queueing
	// discipline dropped, and IP_PMTUDISC_DO one that does not fit:
	// fragments would get lost at a receiver that sits below IP.
	if dest.Addr().Is4() {
		s.set("IP_RECVERR", unix.IPPROTO_IP, unix.IP_RECVERR, 1)
		s.set("IP_MTU_DISCOVER", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		if dest.Addr().IsMulticast() {
			s.step("IP_MULTICAST_IF", func() error {
				return unix.SetsockoptIPMreqn(s.fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(ifi.Index)})
			})
			s.set("IP_MULTICAST_TTL", unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, c.TTL)
			s.set("IP_MULTICAST_LOOP", unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, boolInt(c.Loop))
		}
	} else {
		s.set("IPV6_RECVERR", unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
		s.set("IPV6_MTU_DISCOVER", unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
		if dest.Addr().IsMulticast() {
			s.set("IPV6_MULTICAST_IF", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, ifi.Index)
			s.set("IPV6_MULTICAST_HOPS", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, c.TTL)
			s.set("IPV6_MULTICAST_LOOP", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, boolInt(c.Loop))
		}
	}
	if source.IsValid() {
		s.bind(netip.AddrPortFrom(source, 0), ifi.Index)
	}
	s.step("connect to "+dest.String(), func() error { return connect(s.fd, dest, ifi.Index) })
	return s.done()
}

// connect connects fd to dest, also if it is connected already: a source
// address that the kernel had chosen is then chosen anew.
func connect(fd int, dest netip.AddrPort, ifindex int) error {
	sa, err := sockaddr(dest, ifindex)
	if err != nil {
		return err
	}
	if err := disconnect(fd); err != nil {
		return err
	}
	return unix.Connect(fd, sa)
}

// openRxSocket makes the socket of a receiver.
//
// It is bound to the group's address where only the group is wanted, so that no
// unicast packet gets in and it shares the port with anybody who uses another
// group. SO_REUSEADDR lets several receivers have the group and port, the
// kernel's own IPVS backup among them; each gets every multicast datagram
// (__udp4_lib_mcast_deliver).
//
// With unicast it is bound to the wildcard address and to the interface.
//
// Without IP_MULTICAST_ALL=0 a socket gets every group that anybody on the host
// has joined, by any interface (ip_mc_sf_allow).
func openRxSocket(c *UDPConfig, ifi *net.Interface) (int, error) {
	v6 := c.Group.Is6()
	if !c.Group.IsValid() {
		v6 = c.Local.Is6()
	}
	s := newSocket(v6)
	s.buffer("SO_RCVBUF", unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, c.RcvBuf)
	s.set("SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	bindTo := c.Group
	if c.Unicast || !c.Group.IsValid() {
		bindTo = netip.IPv4Unspecified()
		if v6 {
			bindTo = netip.IPv6Unspecified()
		}
		s.step("SO_BINDTODEVICE", func() error { return unix.BindToDevice(s.fd, ifi.Name) })
	}
	if v6 {
		s.set("IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
		s.setIfKnown("IPV6_MULTICAST_ALL", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0)
	} else {
		s.set("IP_MULTICAST_ALL", unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0)
	}
	s.bind(netip.AddrPortFrom(bindTo, uint16(c.Port)), ifi.Index)
	switch {
	case !c.Group.IsValid():
	case v6:
		s.step("IPV6_ADD_MEMBERSHIP of "+c.Group.String(), func() error {
			return unix.SetsockoptIPv6Mreq(s.fd, unix.IPPROTO_IPV6, unix.IPV6_ADD_MEMBERSHIP,
				&unix.IPv6Mreq{Multiaddr: c.Group.As16(), Interface: uint32(ifi.Index)})
		})
	default:
		s.step("IP_ADD_MEMBERSHIP of "+c.Group.String(), func() error {
			return unix.SetsockoptIPMreqn(s.fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
				&unix.IPMreqn{Multiaddr: c.Group.As4(), Ifindex: int32(ifi.Index)})
		})
	}
	return s.done()
}
