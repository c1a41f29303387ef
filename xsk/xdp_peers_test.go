package xsk

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk/netns"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

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
			d := xdpDest{addr: netip.AddrPortFrom(ip, port)}
			if d.nudge, err = newSocket(ip.Is6()).done(); err != nil {
				return err
			}
			defer unix.Close(d.nudge)
			d.sendNudge(ifi.Index, ip)
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

// TestXDPReaddressed: a sender notices that its source address went away, which
// AF_XDP itself does not care about, and has to be opened anew.
func TestXDPReaddressed(t *testing.T) {
	a, b := xsktest.VethPair(t)
	cfg := XDPConfig{Group: group4, Port: port}
	rx, tx := openXDPRx(t, b, cfg), openXDPTx(t, a, cfg)
	sendAll(t, tx, []byte("before"))
	takeAll(t, rx, 1)
	if err := netns.SetAddress(a.NS, a.Name, netip.MustParsePrefix("10.99.0.50/24")); err != nil {
		t.Fatal(err)
	}
	var err error
	waitFor(t, func() bool {
		commitOne(tx, "x")
		err = tx.Flush()
		if err != nil && !errors.Is(err, ErrLinkDown) && !errors.Is(err, ErrDeviceGone) {
			t.Fatal(err)
		}
		return errors.Is(err, ErrDeviceGone)
	})
	tx.Close()
	wantXDPLedger(t, tx)
	tx = openXDPTx(t, a, cfg)
	for { // make room for what comes
		batch, err := rx.Receive(0)
		if err != nil {
			t.Fatal(err)
		}
		if len(batch) == 0 {
			break
		}
	}
	sendAll(t, tx, []byte("after"))
	waitFor(t, func() bool {
		batch, err := rx.Receive(time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer rx.Release()
		for _, d := range batch {
			if string(d.Payload) == "after" {
				if d.Src.Addr().String() != "10.99.0.50" {
					t.Errorf("from %s", d.Src)
				}
				return true
			}
		}
		return false
	})
}
