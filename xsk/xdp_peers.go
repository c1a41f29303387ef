package xsk

// Destinations of an AF_XDP sender, and the way to each: the source address, and
// the Ethernet address of the next hop. A group's follows from its address. A
// peer's is what the kernel has in its tables of routes and neighbours. Nobody
// sends to a peer by way of the kernel, so nobody would keep its neighbour entry
// alive: that is asked for explicitly.

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// xdpDest is one destination.
type xdpDest struct {
	addr netip.AddrPort

	// fd is an ordinary UDP socket, connected to the destination. It had the
	// kernel choose the source address, keeps the source port from others,
	// and gets the ICMP messages about packets to the destination.
	fd    int
	nudge int // socket to have the neighbour resolved by, or -1

	head     templateConfig
	tmpl     template
	resolved bool // dstMAC is known

	missed, tooBig int // packets given up since the last Flush

	errUnresolved, errTooBig error // made once
}

// resolvePatience is how long opening a sender waits for neighbours: a second
// passes until the kernel asks again (retrans_time_ms of the neighbour table).
const resolvePatience = 1200 * time.Millisecond

// openDest prepares one destination. What it opened is closed by Close.
func (t *XDPTx) openDest(ifi *net.Interface, mac [6]byte, addr netip.AddrPort) (xdpDest, error) {
	c := &t.cfg
	u := c.udp()
	fd, err := openTxSocket(&u, ifi, addr)
	if err != nil {
		return xdpDest{}, err
	}
	d := xdpDest{addr: addr, fd: fd, nudge: -1}
	d.head = templateConfig{
		srcMAC: mac, vlan: c.VLAN, dst: addr, src: localAddr(fd),
		ttl: c.TTL, dscp: c.DSCP, checksum: c.Checksum,
	}
	if addr.Addr().IsMulticast() {
		d.head.dstMAC, d.resolved = groupMAC(addr.Addr()), true
	} else {
		d.head.ttl = unicastTTL
		t.peers = true
		t.unresolved++
		// Made here, in the namespace of the device, wherever Flush runs.
		if d.nudge, err = newSocket(addr.Addr().Is6()).done(); err != nil {
			unix.Close(fd)
			return xdpDest{}, err
		}
	}
	d.tmpl = newTemplate(d.head)
	t.sums = t.sums || !d.tmpl.zero && !d.tmpl.meta
	report := func(err error) error {
		return &Error{Op: "send", Interface: ifi.Name, Dest: addr, Err: err}
	}
	d.errUnresolved = report(fmt.Errorf("%w by this interface, or its next hop does not answer", ErrNoRoute))
	d.errTooBig = report(fmt.Errorf("%w of the interface, which was lowered", ErrMTU))
	return d, nil
}

// checkSources has the kernel choose another source address where the one in use
// is not the host's any more: AF_XDP itself would go on with it.
func (t *XDPTx) checkSources(now time.Time) error {
	for i := range t.dests {
		d := &t.dests[i]
		if t.nl.isLocal(t.info.Index, d.head.src.Addr()) || t.redial(d) {
			continue
		}
		if t.unaddressed.IsZero() {
			t.unaddressed = now
		}
		if now.Sub(t.unaddressed) < addressPatience {
			return t.link.noAddress
		}
		return t.link.readdressed
	}
	t.unaddressed = time.Time{}
	return nil
}

// redial has the kernel choose the source address of one destination anew, and
// reports whether it found one. One that was asked for stays, and so does that of
// IPv4, which is bound to.
func (t *XDPTx) redial(d *xdpDest) bool {
	if connect(d.fd, d.addr, t.info.Index) != nil {
		return false
	}
	src := localAddr(d.fd)
	if !src.IsValid() || !t.nl.isLocal(t.info.Index, src.Addr()) {
		return false
	}
	d.head.src = src
	t.remake(d)
	return true
}

// remake makes the headers again, going on with the identification.
func (t *XDPTx) remake(d *xdpDest) {
	id := d.tmpl.id
	d.tmpl = newTemplate(d.head)
	d.tmpl.id = id
}

// resolveAll looks up the ways to all peers.
func (t *XDPTx) resolveAll() {
	t.unresolved = 0
	for i := range t.dests {
		d := &t.dests[i]
		if d.addr.Addr().IsMulticast() {
			continue
		}
		mac, ok := t.resolve(d)
		if ok && (!d.resolved || mac != d.head.dstMAC) {
			d.head.dstMAC = mac
			t.remake(d)
		}
		d.resolved = ok
		if !ok {
			t.unresolved++
		}
	}
}

// resolve looks up the way to one peer, and has the kernel find out or confirm
// what it does not know for sure.
func (t *XDPTx) resolve(d *xdpDest) (mac [6]byte, ok bool) {
	gateway, _, err := t.nl.route(t.info.Index, d.addr.Addr())
	if err != nil {
		return mac, false
	}
	hop := d.addr.Addr().WithZone("")
	if gateway.IsValid() {
		hop = gateway
	}
	mac, state, err := t.nl.neighbour(t.info.Index, hop)
	if err != nil {
		return mac, false
	}
	const settled = unix.NUD_REACHABLE | unix.NUD_PERMANENT | unix.NUD_NOARP | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_INCOMPLETE
	if state&settled == 0 {
		if err := t.nl.useNeighbour(t.info.Index, hop); err != nil {
			d.sendNudge(t.info.Index, hop) // no CAP_NET_ADMIN
		}
	}
	return mac, state&usable != 0 && mac != [6]byte{}
}

// sendNudge sends an empty packet to the discard port (RFC 863) of the next hop
// by an ordinary socket: the way to resolve a neighbour without CAP_NET_ADMIN.
func (d *xdpDest) sendNudge(ifindex int, hop netip.Addr) {
	if sa, err := sockaddr(netip.AddrPortFrom(hop, 9), ifindex); err == nil && hop.Is4() == d.addr.Addr().Is4() {
		_ = unix.Sendto(d.nudge, nil, unix.MSG_DONTWAIT, sa) // may get lost, like any packet
	}
}

// resolveAtOpen gives neighbours that are alive the time to answer, so that the
// first messages need not be given up.
func (t *XDPTx) resolveAtOpen() {
	for end := time.Now().Add(resolvePatience); t.peers; time.Sleep(2 * time.Millisecond) {
		t.resolveAll()
		if t.unresolved == 0 || time.Now().After(end) {
			break
		}
	}
	t.lastPeers = time.Now()
}
