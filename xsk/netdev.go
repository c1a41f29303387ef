package xsk

// What the kernel knows of devices, routes and neighbours, asked by netlink: one
// request, one answer, in buffers made once. Message layouts are those of
// include/uapi/linux/{netlink,rtnetlink,neighbour,if_link,genetlink}.h.

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

var native = binary.NativeEndian

// nlConn asks the kernel by netlink. One goroutine uses it. It stays in the
// namespace that it was made in.
type nlConn struct {
	fd  int
	seq uint32
	out [256]byte
	in  [16 << 10]byte // an answer about one device with all its attributes
	n   int            // bytes of out that are used
}

func newNlConn(protocol int) (*nlConn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, explain("make a netlink socket", err)
	}
	// The kernel answers before send returns; the limit is for a kernel that does not.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		unix.Close(fd)
		return nil, explain("SO_RCVTIMEO", err)
	}
	return &nlConn{fd: fd}, nil
}

func (c *nlConn) close() {
	if c != nil && c.fd >= 0 {
		unix.Close(c.fd)
		c.fd = -1
	}
}

// begin starts a request with a fixed header of n bytes, which it returns.
func (c *nlConn) begin(typ, flags uint16, n int) []byte {
	clear(c.out[:])
	native.PutUint16(c.out[4:], typ)
	native.PutUint16(c.out[6:], flags|unix.NLM_F_REQUEST)
	c.n = unix.NLMSG_HDRLEN + n
	return c.out[unix.NLMSG_HDRLEN:c.n]
}

// attr adds an attribute.
func (c *nlConn) attr(typ uint16, value []byte) {
	native.PutUint16(c.out[c.n:], uint16(unix.SizeofRtAttr+len(value)))
	native.PutUint16(c.out[c.n+2:], typ)
	copy(c.out[c.n+unix.SizeofRtAttr:], value)
	c.n += (unix.SizeofRtAttr + len(value) + 3) &^ 3
}

func (c *nlConn) attr32(typ uint16, v uint32) {
	var b [4]byte
	native.PutUint32(b[:], v)
	c.attr(typ, b[:])
}

func (c *nlConn) attrAddr(typ uint16, a netip.Addr) {
	if a.Is4() {
		b := a.As4()
		c.attr(typ, b[:])
		return
	}
	b := a.As16()
	c.attr(typ, b[:])
}

// ask sends the request and returns the type-specific part of the answer, which
// lives until the next request; nil after a bare acknowledgement. An error of
// the kernel is an errno.
func (c *nlConn) ask() ([]byte, error) {
	c.seq++
	native.PutUint32(c.out[0:], uint32(c.n))
	native.PutUint32(c.out[8:], c.seq)
	if _, err := unix.Write(c.fd, c.out[:c.n]); err != nil {
		return nil, err
	}
	for {
		n, err := unix.Read(c.fd, c.in[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		for b := c.in[:n]; len(b) >= unix.NLMSG_HDRLEN; {
			size := int(native.Uint32(b))
			if size < unix.NLMSG_HDRLEN || size > len(b) {
				return nil, unix.EBADMSG
			}
			body := b[unix.NLMSG_HDRLEN:size]
			if native.Uint32(b[8:]) != c.seq { // of a request that was given up
				b = b[min((size+3)&^3, len(b)):]
				continue
			}
			if native.Uint16(b[4:]) != unix.NLMSG_ERROR {
				return body, nil
			}
			if len(body) < 4 {
				return nil, unix.EBADMSG
			}
			if errno := -int32(native.Uint32(body)); errno != 0 {
				return nil, unix.Errno(errno)
			}
			return nil, nil
		}
	}
}

// dump sends the request and hands each answer to fn, whose argument lives for
// the call.
func (c *nlConn) dump(fn func(body []byte)) error {
	c.seq++
	native.PutUint32(c.out[0:], uint32(c.n))
	native.PutUint32(c.out[8:], c.seq)
	if _, err := unix.Write(c.fd, c.out[:c.n]); err != nil {
		return err
	}
	for {
		n, err := unix.Read(c.fd, c.in[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		for b := c.in[:n]; len(b) >= unix.NLMSG_HDRLEN; {
			size := int(native.Uint32(b))
			if size < unix.NLMSG_HDRLEN || size > len(b) {
				return unix.EBADMSG
			}
			body := b[unix.NLMSG_HDRLEN:size]
			ours := native.Uint32(b[8:]) == c.seq
			switch typ := native.Uint16(b[4:]); {
			case !ours: // of a request that was given up
			case typ == unix.NLMSG_DONE:
				return nil
			case typ == unix.NLMSG_ERROR && len(body) >= 4:
				return unix.Errno(-int32(native.Uint32(body)))
			default:
				fn(body)
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

// loopbackIndex is the index of lo in every namespace: LOOPBACK_IFINDEX.
const loopbackIndex = 1

// addresses asks for the addresses that messages to this host by an interface may
// have: those of the interface, and those on lo, where virtual addresses lie.
// inet_fill_ifaddr, inet6_fill_ifaddr.
func (c *nlConn) addresses(ifindex int) (all []netip.Addr, err error) {
	c.begin(unix.RTM_GETADDR, unix.NLM_F_DUMP, unix.SizeofIfAddrmsg)
	err = c.dump(func(b []byte) {
		if len(b) < unix.SizeofIfAddrmsg {
			return
		}
		onLoopback := native.Uint32(b[4:]) == loopbackIndex
		if int(native.Uint32(b[4:])) != ifindex && !onLoopback {
			return
		}
		var local, address netip.Addr
		for b := after(b, unix.SizeofIfAddrmsg); ; {
			typ, v, rest, ok := nextAttr(b)
			if !ok {
				break
			}
			if a, ok := netip.AddrFromSlice(v); ok && typ == unix.IFA_LOCAL {
				local = a
			} else if ok && typ == unix.IFA_ADDRESS { // the peer's, where there is a local one
				address = a
			}
			b = rest
		}
		if !local.IsValid() {
			local = address
		}
		if local.IsValid() && !local.IsLoopback() {
			all = append(all, local)
		}
	})
	return all, err
}

// nextAttr splits the first attribute off. ok is false if there is none.
func nextAttr(b []byte) (typ uint16, value, rest []byte, ok bool) {
	if len(b) < unix.SizeofRtAttr {
		return 0, nil, nil, false
	}
	size := int(native.Uint16(b))
	if size < unix.SizeofRtAttr || size > len(b) {
		return 0, nil, nil, false
	}
	return native.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:size], b[min((size+3)&^3, len(b)):], true
}

// after skips the fixed header of an answer.
func after(b []byte, n int) []byte { return b[min(n, len(b)):] }

func familyOf(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// route asks which way packets to dst leave by the interface: through gateway,
// which is zero if dst is a neighbour, and from which address. inet_rtm_getroute.
func (c *nlConn) route(ifindex int, dst netip.Addr) (gateway, source netip.Addr, err error) {
	h := c.begin(unix.RTM_GETROUTE, 0, unix.SizeofRtMsg)
	h[0], h[1] = familyOf(dst), uint8(dst.BitLen())
	c.attrAddr(unix.RTA_DST, dst)
	c.attr32(unix.RTA_OIF, uint32(ifindex))
	b, err := c.ask()
	if err != nil {
		return netip.Addr{}, netip.Addr{}, err
	}
	if len(b) < unix.SizeofRtMsg {
		return netip.Addr{}, netip.Addr{}, unix.EBADMSG
	}
	if t := b[7]; t != unix.RTN_UNICAST && t != unix.RTN_MULTICAST && t != unix.RTN_BROADCAST {
		return netip.Addr{}, netip.Addr{}, unix.EHOSTUNREACH // local, blackhole, …
	}
	for b := after(b, unix.SizeofRtMsg); ; {
		typ, v, rest, ok := nextAttr(b)
		if !ok {
			return gateway, source, nil
		}
		switch typ {
		case unix.RTA_GATEWAY:
			gateway, _ = netip.AddrFromSlice(v)
		case unix.RTA_VIA: // a gateway of the other family: family, address
			if len(v) > 2 {
				gateway, _ = netip.AddrFromSlice(v[2:])
			}
		case unix.RTA_PREFSRC:
			source, _ = netip.AddrFromSlice(v)
		case unix.RTA_OIF:
			if len(v) == 4 && int(native.Uint32(v)) != ifindex {
				return netip.Addr{}, netip.Addr{}, unix.ENETUNREACH
			}
		}
		b = rest
	}
}

// isLocal reports whether the address is one of this host, as far as the kernel
// can tell.
func (c *nlConn) isLocal(ifindex int, a netip.Addr) bool {
	h := c.begin(unix.RTM_GETROUTE, 0, unix.SizeofRtMsg)
	h[0], h[1] = familyOf(a), uint8(a.BitLen())
	c.attrAddr(unix.RTA_DST, a)
	c.attr32(unix.RTA_OIF, uint32(ifindex))
	b, err := c.ask()
	return err == nil && len(b) >= unix.SizeofRtMsg && b[7] == unix.RTN_LOCAL
}

// usable are the states of a neighbour in which its address may be used:
// NUD_VALID of include/net/neighbour.h.
const usable = unix.NUD_PERMANENT | unix.NUD_NOARP | unix.NUD_REACHABLE | unix.NUD_PROBE | unix.NUD_STALE | unix.NUD_DELAY

// neighbour asks for the link-layer address of a neighbour. State 0 says that
// the kernel does not know it. neigh_get, Linux 5.0.
func (c *nlConn) neighbour(ifindex int, ip netip.Addr) (mac [6]byte, state uint16, err error) {
	h := c.begin(unix.RTM_GETNEIGH, 0, unix.SizeofNdMsg)
	h[0] = familyOf(ip)
	native.PutUint32(h[4:], uint32(ifindex))
	c.attrAddr(unix.NDA_DST, ip)
	b, err := c.ask()
	if err == unix.ENOENT {
		return mac, 0, nil
	}
	if err != nil {
		return mac, 0, err
	}
	if len(b) < unix.SizeofNdMsg {
		return mac, 0, unix.EBADMSG
	}
	state = native.Uint16(b[8:])
	for b := after(b, unix.SizeofNdMsg); ; {
		typ, v, rest, ok := nextAttr(b)
		if !ok {
			break
		}
		if typ == unix.NDA_LLADDR && len(v) == 6 {
			copy(mac[:], v)
		}
		b = rest
	}
	return mac, state, nil
}

// useNeighbour has the kernel resolve a neighbour, or confirm one that is
// stale, as if a packet were sent to it. NTF_USE, neigh_add. CAP_NET_ADMIN.
func (c *nlConn) useNeighbour(ifindex int, ip netip.Addr) error {
	h := c.begin(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_ACK, unix.SizeofNdMsg)
	h[0] = familyOf(ip)
	native.PutUint32(h[4:], uint32(ifindex))
	h[10] = unix.NTF_USE
	c.attrAddr(unix.NDA_DST, ip)
	_, err := c.ask()
	return err
}

// linkState is what may change about an interface.
type linkState struct {
	carrier bool // at once, where IFF_RUNNING comes up to a second late (net/core/link_watch.c)
	mtu     int
	mac     [6]byte
}

// linkState asks for the state of an interface. rtnl_fill_ifinfo.
func (c *nlConn) linkState(ifindex int) (s linkState, err error) {
	h := c.begin(unix.RTM_GETLINK, 0, unix.SizeofIfInfomsg)
	native.PutUint32(h[4:], uint32(ifindex))
	c.attr32(unix.IFLA_EXT_MASK, rtextFilterSkipStats)
	b, err := c.ask()
	if err != nil {
		return s, err
	}
	if len(b) < unix.SizeofIfInfomsg {
		return s, unix.EBADMSG
	}
	s.carrier = native.Uint32(b[8:])&unix.IFF_LOWER_UP != 0
	for b := after(b, unix.SizeofIfInfomsg); ; {
		typ, v, rest, ok := nextAttr(b)
		if !ok {
			return s, nil
		}
		switch {
		case typ == unix.IFLA_MTU && len(v) == 4:
			s.mtu = int(native.Uint32(v))
		case typ == unix.IFLA_ADDRESS && len(v) == 6:
			copy(s.mac[:], v)
		}
		b = rest
	}
}

// xdpProgram asks which XDP program is attached. id 0: none. rtnl_xdp_fill.
func (c *nlConn) xdpProgram(ifindex int) (id uint32, generic bool, err error) {
	h := c.begin(unix.RTM_GETLINK, 0, unix.SizeofIfInfomsg)
	native.PutUint32(h[4:], uint32(ifindex))
	c.attr32(unix.IFLA_EXT_MASK, rtextFilterSkipStats)
	b, err := c.ask()
	if err != nil {
		return 0, false, err
	}
	for b := after(b, unix.SizeofIfInfomsg); ; {
		typ, v, rest, ok := nextAttr(b)
		if !ok {
			return id, generic, nil
		}
		if typ == unix.IFLA_XDP {
			for x := v; ; {
				typ, v, rest, ok := nextAttr(x)
				if !ok {
					break
				}
				switch {
				case typ == unix.IFLA_XDP_PROG_ID && len(v) == 4:
					id = native.Uint32(v)
				case typ == unix.IFLA_XDP_ATTACHED && len(v) == 1:
					generic = v[0] == xdpAttachedSkb
				case (typ == unix.IFLA_XDP_DRV_PROG_ID || typ == unix.IFLA_XDP_SKB_PROG_ID) && len(v) == 4 && id == 0:
					id = native.Uint32(v) // several are attached
				}
				x = rest
			}
		}
		b = rest
	}
}

// xdpAttachedSkb is XDP_ATTACHED_SKB of include/uapi/linux/if_link.h.
const xdpAttachedSkb = 2

// rtextFilterSkipStats is RTEXT_FILTER_SKIP_STATS of include/uapi/linux/rtnetlink.h.
const rtextFilterSkipStats = 1 << 3
