package xsk

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	bpflink "github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/ipvsync/ipvsync/xsk/netns"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

func autoRx(t *testing.T, e xsktest.End, iface string) (Rx, Choice, error) {
	t.Helper()
	var rx Rx
	var c Choice
	var err error
	in(t, e, func() error {
		rx, c, err = OpenRx(ModeAuto, Config{XDPConfig: XDPConfig{Interface: iface, Group: group4, Port: port, LastPort: port + 1}})
		return nil
	})
	if err == nil {
		t.Cleanup(func() { rx.Close() })
	}
	return rx, c, err
}

// A program of somebody else stays, and the receiver takes UDP. If it is another
// receiver's, which takes the same port, UDP would wait for ever: that is said.
func TestAutoBesideAProgram(t *testing.T) {
	_, e := xsktest.VethPair(t)
	var prog *ebpf.Program
	var l bpflink.Link
	in(t, e, func() (err error) {
		if prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "firewall", Type: ebpf.XDP, License: "Apache-2.0",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2 /* XDP_PASS */), asm.Return()}}); err != nil {
			return err
		}
		ifi, err := net.InterfaceByName(e.Name)
		if err != nil {
			return err
		}
		l, err = bpflink.AttachXDP(bpflink.XDPOptions{Program: prog, Interface: ifi.Index})
		return err
	})
	defer prog.Close()
	_, c, err := autoRx(t, e, e.Name)
	if err != nil || c.Mode != ModeUDPGSO || !errors.Is(c.Rejected[0].Err, ErrProgramBusy) {
		t.Errorf("beside another program: %v, %v", c, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	_, e = xsktest.VethPair(t)
	for _, tc := range []struct {
		first, last int
		starved     bool
	}{{port, 0, true}, {port + 1, port + 7, true}, {port + 2, 0, false}, {1, port - 1, false}} {
		ours := openProgram(t, e, ProgramConfig{Group: group4, FirstPort: tc.first, LastPort: tc.last})
		rx, c, err := autoRx(t, e, e.Name)
		if tc.starved != errors.Is(err, ErrInUse) || tc.starved == (err == nil) {
			t.Errorf("beside a receiver of ports %d to %d: %v, %v", tc.first, tc.last, c, err)
		}
		if err == nil {
			rx.Close()
		}
		ours.Close()
	}
}

// Where another socket receives on the port, a receiver does not take it away.
func TestAutoLeavesAPortShared(t *testing.T) {
	_, e := xsktest.VethPair(t)
	for _, addr := range []string{"0.0.0.0:8849", "[::1]:8849"} {
		var other net.PacketConn
		in(t, e, func() (err error) {
			other, err = net.ListenPacket("udp", addr)
			return err
		})
		// With the port of the socket bound, UDP of our own could not listen
		// either: that error is not ours to look at.
		rx, c, err := autoRx(t, e, e.Name)
		if err == nil {
			rx.Close()
		}
		if len(c.Rejected) == 0 || !errors.Is(c.Rejected[0].Err, errShared) || !strings.Contains(c.Rejected[0].Err.Error(), "8849") {
			t.Errorf("beside a socket of %s: %v, %v", addr, c, err)
		}
		other.Close()
	}
	if _, c, err := autoRx(t, e, e.Name); err != nil || c.Mode != ModeCopy {
		t.Errorf("by itself: %v, %v", c, err)
	}
}

// On a device that hands on trains, generic XDP is no choice of auto.
func TestAutoOnABridge(t *testing.T) {
	_, e := xsktest.VethPair(t)
	in(t, e, func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		if err := netlink.LinkAdd(br); err != nil {
			return err
		}
		l, err := netlink.LinkByName(e.Name)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(l, br), netlink.LinkSetUp(br))
	})
	_, c, err := autoRx(t, e, "br0")
	if err != nil || c.Mode != ModeUDPGSO {
		t.Fatalf("%v, %v", c, err)
	}
	if r := c.Rejected[len(c.Rejected)-1]; r.Mode != ModeGeneric || !strings.Contains(r.Err.Error(), "bridge") {
		t.Errorf("%v", c)
	}
}

func TestProgramNames(t *testing.T) {
	for _, p := range [][2]int{{1, 1}, {8848, 8848}, {8848, 8911}, {65000, 65535}} {
		name := programName(p[0], p[1])
		if first, last, ok := takenPorts(name); !ok || first != p[0] || last != p[1] || len(name) > 15 {
			t.Errorf("%v: %q: %d to %d, %v", p, name, first, last, ok)
		}
	}
	for _, name := range []string{"", "ipvsync", "ipvsync_", "ipvsync_x", "ipvsync_1x", "ipvs_1", "firewall"} {
		if _, _, ok := takenPorts(name); ok {
			t.Errorf("%q is ours", name)
		}
	}
}

// What a driver refuses for reasons of its own, here a long packet, is no reason
// to refuse UDP.
func TestAutoWhereTheDriverRefuses(t *testing.T) {
	_, e := xsktest.VethPairWith(t, netns.VethOptions{MTU: 3600})
	_, c, err := autoRx(t, e, e.Name)
	if err != nil || c.Mode != ModeUDPGSO {
		t.Errorf("%v, %v", c, err)
	}
}

// A receiver that was there first keeps its messages: behind a macvlan in another
// namespace, or behind a bridge.
func TestAutoLeavesOthersTheirMessages(t *testing.T) {
	_, e := xsktest.VethPair(t)
	other := xsktest.Namespace(t)
	in(t, e, func() error {
		l, err := netlink.LinkByName(e.Name)
		if err != nil {
			return err
		}
		mv := &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "mv0", ParentIndex: l.Attrs().Index, Namespace: netlink.NsFd(other.Fd())}, Mode: netlink.MACVLAN_MODE_BRIDGE}
		return netlink.LinkAdd(mv)
	})
	var there *UDPRx
	if err := other.Do(func() error {
		l, err := netlink.LinkByName("mv0")
		if err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr("10.99.0.3/24")
		if err := errors.Join(netlink.AddrAdd(l, addr), netlink.LinkSetUp(l)); err != nil {
			return err
		}
		there, err = OpenUDPRx(UDPConfig{Interface: "mv0", Group: group4, Port: port})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	rx, c, err := autoRx(t, e, e.Name)
	if err != nil || c.Mode != ModeUDPGSO || !errors.Is(c.Rejected[0].Err, errShared) {
		t.Errorf("below a macvlan: %v, %v", c, err)
	}
	if err == nil {
		rx.Close()
	}
	there.Close()
	rx, c, err = autoRx(t, e, e.Name)
	if err != nil || c.Mode != ModeCopy {
		t.Fatalf("when nobody listens any more: %v, %v", c, err)
	}
	rx.Close()
	_, e = xsktest.VethPair(t)
	in(t, e, func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		if err := netlink.LinkAdd(br); err != nil {
			return err
		}
		l, err := netlink.LinkByName(e.Name)
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(l, br)
	})
	if _, c, err = autoRx(t, e, e.Name); err != nil || c.Mode != ModeUDPGSO || !errors.Is(c.Rejected[0].Err, errShared) {
		t.Errorf("on a port of a bridge: %v, %v", c, err)
	}
}

// A tap hands trains to any XDP program.
func TestAutoOnATap(t *testing.T) {
	ns := xsktest.Namespace(t)
	if err := netns.Tap(ns, "tap0", netip.MustParsePrefix("10.97.0.1/24")); err != nil {
		t.Fatal(err)
	}
	_, c, err := autoRx(t, xsktest.End{NS: ns}, "tap0")
	if err != nil || c.Mode != ModeUDPGSO || !strings.Contains(c.Rejected[0].Err.Error(), "tun") {
		t.Errorf("%v, %v", c, err)
	}
}
