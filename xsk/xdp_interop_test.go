package xsk

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk/netns"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// wantXDPLedger checks that every packet of a sender is accounted for.
func wantXDPLedger(tb testing.TB, tx *XDPTx) {
	tb.Helper()
	s := tx.Stats()
	var pending uint64
	if !tx.closed {
		pending = uint64(tx.q.ring.outstanding()) - uint64(tx.drops)
	}
	if all := s.Packets + s.TooBig + s.Errors + s.Discarded + pending; all != s.Messages*uint64(len(tx.dests)) {
		tb.Errorf("%d messages to %d destinations make %d packets accounted for, %d of them pending: %+v",
			s.Messages, len(tx.dests), all, pending, s)
	}
}

// allSizes are messages of every size around what matters.
func allSizes(most int) [][]byte {
	var out [][]byte
	for n := 0; n <= most; n += 1 + n/20 {
		out = append(out, pattern(n))
	}
	return append(out, pattern(most-1), pattern(most))
}

// TestXDPInterop sends between AF_XDP and plain sockets, both ways and in both
// families, byte by byte. The kernel checks the checksums of what AF_XDP sent:
// UDPRx counts as dropped what has a bad one (udp_recvmsg, __udp4_lib_rcv).
func TestXDPInterop(t *testing.T) {
	for _, group := range []netip.Addr{group4, group6} {
		for _, unicast := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s unicast %v", family(group), unicast), func(t *testing.T) {
				a, b := xsktest.VethPair(t)
				peer := b.Addr4
				if group.Is6() {
					peer = b.Addr6
				}
				send := XDPConfig{Group: group, Port: port}
				receive := XDPConfig{Group: group, Port: port}
				if unicast {
					send = XDPConfig{Peers: []netip.AddrPort{netip.AddrPortFrom(peer, port)}}
					receive = XDPConfig{Local: peer, Port: port}
				}
				urx := openRx(t, b, UDPConfig{Group: receive.Group, Local: receive.Local, Port: port, RcvBuf: 4 << 20})
				xtx := openXDPTx(t, a, send)
				messages := allSizes(xtx.MaxPayload())
				check := func(got []message, src netip.AddrPort) {
					t.Helper()
					for i, m := range got {
						if m.payload != string(messages[i]) {
							t.Fatalf("message %d has %d bytes, want %d, or differs", i, len(m.payload), len(messages[i]))
						}
						if m.src != src {
							t.Fatalf("message %d is from %s, want %s", i, m.src, src)
						}
					}
				}
				sendAll(t, xtx, messages...)
				check(takeAll(t, urx, len(messages)), xtx.Info().Local[0])
				if s := urx.Stats(); s.SocketDrops != 0 {
					t.Errorf("%+v", s)
				}
				for proto, names := range map[string][]string{"snmp": {"Udp", "InCsumErrors"}, "snmp6": {"Udp6InCsumErrors"}} {
					if n := snmp(t, b, proto, names...); n != 0 {
						t.Errorf("%d checksum errors in /proc/net/%s", n, proto)
					}
				}
				wantXDPLedger(t, xtx)
				urx.Close()

				xrx := openXDPRx(t, b, receive)
				utx := openTx(t, a, UDPConfig{Group: send.Group, Port: send.Port, Peers: send.Peers})
				sendAll(t, utx, messages...)
				check(takeAll(t, xrx, len(messages)), utx.Info().Local[0])
				if s := xrx.Stats(); s.Unfinished != s.Messages || s.SocketDrops+s.Foreign+s.BadLength+s.BadChecksum != 0 {
					t.Errorf("%+v, want the checksums left to hardware, and nothing refused", s)
				}
				sendAll(t, xtx, messages...)
				check(takeAll(t, xrx, len(messages)), xtx.Info().Local[0])
				if s := xrx.Stats(); s.Unfinished != uint64(len(messages)) {
					t.Errorf("%+v, want whole checksums from AF_XDP", s)
				}
			})
		}
	}
}

// snmp reads a counter of the namespace of e.
func snmp(tb testing.TB, e xsktest.End, file string, names ...string) (n int) {
	tb.Helper()
	in(tb, e, func() error {
		b, err := os.ReadFile("/proc/thread-self/net/" + file)
		if err != nil {
			return err
		}
		n = snmpValue(string(b), names...)
		return nil
	})
	if n < 0 {
		tb.Fatalf("no %v in %s", names, file)
	}
	return n
}

// TestXDPQueues receives on all queues of a device; each sending queue of a veth
// arrives at the receiving queue of the same number.
func TestXDPQueues(t *testing.T) {
	a, b := twoQueues(t)
	cfg := XDPConfig{Group: group4, Port: port}
	rx := openXDPRx(t, b, cfg)
	if q := rx.Info().Queues; !slices.Equal(q, []int{0, 1}) {
		t.Fatalf("queues %v, want both", q)
	}
	var tx [2]*XDPTx
	for q := range tx {
		cfg.Queues = []int{q}
		tx[q] = openXDPTx(t, a, cfg)
	}
	for range 20 {
		for q := range tx {
			sendAll(t, tx[q], fmt.Appendf(nil, "queue %d", q))
		}
		got := takeAll(t, rx, 2)
		if got[0].payload == got[1].payload {
			t.Errorf("twice %q", got[0].payload)
		}
	}
	// Only one of the queues.
	rx.Close()
	cfg.Queues = []int{1}
	rx = openXDPRx(t, b, cfg)
	for q := range tx {
		sendAll(t, tx[q], fmt.Appendf(nil, "queue %d", q))
	}
	if got := takeAll(t, rx, 1); got[0].payload != "queue 1" {
		t.Errorf("%q", got[0].payload)
	}
	in(t, b, func() error {
		for _, bad := range [][]int{{2}, {-1}, {0, 0}} {
			if _, err := OpenXDPRx(XDPConfig{Interface: b.Name, Group: group4, Port: port, Queues: bad}); err == nil {
				t.Errorf("queues %v were taken", bad)
			}
		}
		return nil
	})
}

// TestXDPVLAN sends with a tag to receivers that want it, want any, or want
// another one; and to the VLAN interface of the kernel, where that has them.
func TestXDPVLAN(t *testing.T) {
	a, b := xsktest.VethPair(t)
	tx := openXDPTx(t, a, XDPConfig{Group: group4, Port: port, VLAN: 7})
	for _, vlan := range []int{7, 0} {
		rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port, VLAN: vlan})
		sendAll(t, tx, sequences(3)...)
		wantSequence(t, takeAll(t, rx, 3), 3)
		rx.Close()
	}
	// What the program passes goes to the host: a UDP socket sees the tag's
	// packets only on an interface for it.
	rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port, VLAN: 8})
	sendAll(t, tx, sequences(3)...)
	other := openXDPTx(t, a, XDPConfig{Group: group4, Port: port, VLAN: 8, Queues: nil, Mode: CopyOnly, TxFrames: 64, Local: a.Addr4}.on(t, tx))
	sendAll(t, other, []byte("tag 8"))
	if m := takeAll(t, rx, 1); m[0].payload != "tag 8" {
		t.Errorf("%q, want only what has the tag", m[0].payload)
	}
	rx.Close()

	var err error
	in(t, b, func() error { err = addVLAN(b.Name, "vlan7", 7); return nil })
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Logf("the kernel has no VLAN interfaces: load the module 8021q to try with one")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	tagged := openXDPTx(t, a, XDPConfig{Group: group4, Port: port, VLAN: 7}.on(t, other))
	onVLAN := b
	onVLAN.Name = "vlan7"
	urx := openRx(t, onVLAN, UDPConfig{Group: group4, Port: port})
	sendAll(t, tagged, sequences(3)...)
	wantSequence(t, takeAll(t, urx, 3), 3)
}

// on closes the sender that has the queue, and returns c.
func (c XDPConfig) on(tb testing.TB, tx *XDPTx) XDPConfig {
	tb.Helper()
	if err := tx.Close(); err != nil {
		tb.Fatal(err)
	}
	return c
}

func addVLAN(parent, name string, id int) error {
	l, err := netlink.LinkByName(parent)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = name, l.Attrs().Index
	if err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: id}); err != nil {
		return err
	}
	v, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.AddrAdd(v, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 99, 0, 3).To4(), Mask: net.CIDRMask(24, 32)}})
	}
	if err == nil {
		err = netlink.LinkSetUp(v)
	}
	return err
}

// TestXDPPeers sends to the group and to peers at once: one message, a packet
// for each.
func TestXDPPeers(t *testing.T) {
	a, b := xsktest.VethPair(t)
	peer4, peer6 := netip.AddrPortFrom(b.Addr4, 9001), netip.AddrPortFrom(b.Addr6, 9002)
	urx := []*UDPRx{
		openRx(t, b, UDPConfig{Group: group4, Port: port}),
		openRx(t, b, UDPConfig{Local: b.Addr4, Port: 9001}),
		openRx(t, b, UDPConfig{Local: b.Addr6, Port: 9002}),
	}
	tx := openXDPTx(t, a, XDPConfig{Group: group4, Port: port, Peers: []netip.AddrPort{peer4, peer6}, TxFrames: 64})
	const n = 100 // more than there are frames
	sendAll(t, tx, sequences(n)...)
	for i := range urx {
		got := takeAll(t, urx[i], n)
		wantSequence(t, got, n)
		if got[0].src != tx.Info().Local[i] {
			t.Errorf("from %s, want %s", got[0].src, tx.Info().Local[i])
		}
	}
	if s := tx.Stats(); s.Packets != 3*n || s.Messages != n {
		t.Errorf("%+v", s)
	}
	wantXDPLedger(t, tx)
}

// TestXDPNeighbour: a peer that nobody answers for is given up, and counted; it
// does not hold up the group; and it is found once it is there, with whatever
// address it has then, on the way through a gateway as well.
func TestXDPNeighbour(t *testing.T) {
	a, b := xsktest.VethPair(t)
	in(t, a, func() error {
		l, err := netlink.LinkByName(a.Name)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.IP(b.Addr4.AsSlice()),
			Dst: &net.IPNet{IP: net.IPv4(10, 77, 0, 0).To4(), Mask: net.CIDRMask(16, 32)}})
	})
	late := netip.AddrPortFrom(netip.MustParseAddr("10.99.0.77"), port)
	far := netip.AddrPortFrom(netip.MustParseAddr("10.77.0.1"), port)
	var lost []string
	cfg := XDPConfig{Group: group4, Port: port, Peers: []netip.AddrPort{late, far}, Lost: func(m []byte) { lost = append(lost, string(m)) }}
	tx := openXDPTx(t, a, cfg)
	urx := openRx(t, b, UDPConfig{Group: group4, Port: port})
	buf, err := tx.Next()
	if err != nil {
		t.Fatal(err)
	}
	tx.Commit(copy(buf, sequence(0)))
	err = tx.Flush()
	var x *Error
	if !isErr(err, ErrNoRoute, &x) || x.Dest != late {
		t.Errorf("%v, want ErrNoRoute to %s", err, late)
	}
	takeAll(t, urx, 1)
	if s := tx.Stats(); s.Errors != 1 || s.Packets != 2 || len(lost) != 0 {
		t.Errorf("%+v, %q lost; want one packet given up and no message lost", s, lost)
	}
	wantXDPLedger(t, tx)

	// Now somebody has the addresses.
	in(t, b, func() error {
		l, err := netlink.LinkByName(b.Name)
		for _, ip := range []netip.Addr{late.Addr(), far.Addr()} {
			if err == nil {
				err = netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(32, 32)}})
			}
		}
		return err
	})
	one := openRx(t, b, UDPConfig{Local: late.Addr(), Port: port})
	waitFor(t, func() bool { // both addresses arrive at one socket
		if buf, err := tx.Next(); err == nil {
			tx.Commit(copy(buf, "again"))
		}
		_ = tx.Flush()
		return tx.unresolved == 0
	})
	for _, d := range tx.dests {
		if !d.resolved {
			t.Errorf("%s is not resolved", d.addr)
		}
	}
	takeSome(t, one)

	// The peer gets another Ethernet address, as after a fail-over.
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 0x99}
	in(t, b, func() error {
		l, err := netlink.LinkByName(b.Name)
		if err == nil {
			err = netlink.LinkSetHardwareAddr(l, mac)
		}
		return err
	})
	in(t, a, func() error {
		l, err := netlink.LinkByName(a.Name)
		if err != nil {
			return err
		}
		return netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_INET, State: unix.NUD_REACHABLE,
			IP: late.Addr().AsSlice(), HardwareAddr: mac})
	})
	waitFor(t, func() bool {
		if buf, err := tx.Next(); err == nil {
			tx.Commit(copy(buf, "again"))
		}
		_ = tx.Flush()
		return tx.dests[1].head.dstMAC == [6]byte(mac)
	})
	if p := tx.q; p.n.invalid != 0 {
		t.Errorf("%d", p.n.invalid)
	}
	wantXDPLedger(t, tx)
}

// takeSome receives at least one message.
func takeSome(tb testing.TB, rx Rx) {
	tb.Helper()
	waitFor(tb, func() bool {
		batch, err := rx.Receive(time.Millisecond)
		if err != nil {
			tb.Fatal(err)
		}
		defer rx.Release()
		return len(batch) > 0
	})
}

// TestXDPNudge resolves a neighbour by an ordinary packet, for processes that
// may not touch the neighbour table.
func TestXDPNudge(t *testing.T) {
	a, b := xsktest.VethPair(t)
	for _, ip := range []netip.Addr{b.Addr4, b.Addr6} {
		in(t, a, func() error {
			ifi, err := findInterface(a.Name)
			if err != nil {
				return err
			}
			nl, err := newNlConn(unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer nl.close()
			d := xdpDest{nudge: -1}
			d.sendNudge(ifi.Index, ip)
			defer unix.Close(d.nudge)
			waitFor(t, func() bool {
				_, state, err := nl.neighbour(ifi.Index, ip)
				if err != nil {
					t.Fatal(err)
				}
				return state&usable != 0
			})
			return nil
		})
	}
}

// TestXDPHostLives: ARP, ICMP, other ports and other groups still reach the
// host while a receiver has its program attached.
func TestXDPHostLives(t *testing.T) {
	a, b := xsktest.VethPairWith(t, netns.VethOptions{})
	openXDPRx(t, b, XDPConfig{Group: group4, Port: port, Unicast: true})
	tx := openTx(t, a, UDPConfig{Peers: []netip.AddrPort{netip.AddrPortFrom(b.Addr4, 9), netip.AddrPortFrom(b.Addr4, port+1)}})
	rx := openRx(t, b, UDPConfig{Local: b.Addr4, Port: port + 1})
	other := openRx(t, b, UDPConfig{Group: netip.MustParseAddr("224.0.0.82"), Port: port})
	otherTx := openTx(t, a, UDPConfig{Group: netip.MustParseAddr("224.0.0.82"), Port: port})
	sendAll(t, tx, []byte("to another port")) // takes ARP
	sendAll(t, otherTx, []byte("to another group"))
	if m := takeAll(t, rx, 1); m[0].payload != "to another port" {
		t.Errorf("%q", m[0].payload)
	}
	if m := takeAll(t, other, 1); m[0].payload != "to another group" {
		t.Errorf("%q", m[0].payload)
	}
	// The closed port was answered for by ICMP.
	waitFor(t, func() bool { tx.drain(&tx.dests[0]); return tx.n.Refused > 0 })
}

// TestXDPRefused counts the ICMP messages that come back for packets that the
// kernel did not send.
func TestXDPRefused(t *testing.T) {
	a, b := xsktest.VethPair(t)
	for _, ip := range []netip.Addr{b.Addr4, b.Addr6} {
		tx := openXDPTx(t, a, XDPConfig{Peers: []netip.AddrPort{netip.AddrPortFrom(ip, 9)}})
		sendAll(t, tx, []byte("nobody listens"))
		waitFor(t, func() bool { tx.drain(&tx.dests[0]); return tx.n.Refused > 0 })
		tx.Close()
		if s := tx.Stats(); s.Packets != 1 || s.Refused != 1 {
			t.Errorf("%+v", s)
		}
	}
}

// TestXDPFragments: fragments are refused and counted if a program lets them
// through, as are packets that are not ours.
func TestXDPFragments(t *testing.T) {
	a, b := xsktest.VethPair(t)
	prog := openProgram(t, b, ProgramConfig{Group: group4, FirstPort: 1, LastPort: 65535})
	rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port, Program: prog})
	s := openSocket(t, a, SocketConfig{TxFrames: 64})
	c := headConfig(false, 0)
	c.dst = netip.AddrPortFrom(group4, 99)
	foreign := newTemplate(c)
	ours := newTemplate(headConfig(false, 0))
	bad := packet(&ours, pattern(30))
	bad[len(bad)-1]++
	short := packet(&ours, pattern(30))
	for _, p := range [][]byte{packet(&foreign, pattern(30)), bad, short[:len(short)-3], packet(&ours, []byte("good"))} {
		f, buf, _ := s.Tx().Get()
		s.Tx().Queue(f, 0, copy(buf, p))
	}
	if e := s.Tx().Flush(nil); e != 0 {
		t.Fatal(e)
	}
	if m := takeAll(t, rx, 1); m[0].payload != "good" {
		t.Errorf("%q", m[0].payload)
	}
	if st := rx.Stats(); st.Foreign != 1 || st.BadChecksum != 1 || st.BadLength != 1 || st.Messages != 1 {
		t.Errorf("%+v", st)
	}
	rx.Release()
	if n := rx.queues[0].q.pool.count(frameKernel); n != defaultFrames {
		t.Errorf("the kernel has %d frames, want all", n)
	}
	for v, count := range map[verdict]*uint64{verdictFragment: &rx.n.Fragments, verdictIPChecksum: &rx.n.BadHeader, verdictNoChecksum: &rx.n.NoChecksum} {
		if rx.accept(v, 10) || *count != 1 {
			t.Errorf("verdict %d: %d counted", v, *count)
		}
	}
}
