package xsk

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// A receiver of unicast messages follows the addresses of its interface: one that
// comes, such as a virtual one that moves here, and one that goes.
func TestXDPUnicastFollowsAddresses(t *testing.T) {
	a, b := xsktest.VethPair(t)
	rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port, Unicast: true})
	before := rx.prog.Info()
	change := func(what func(netlink.Link, *netlink.Addr) error, addr string) {
		in(t, b, func() error {
			l, err := netlink.LinkByName(b.Name)
			if err != nil {
				return err
			}
			ip, bits := netip.MustParsePrefix(addr).Addr(), netip.MustParsePrefix(addr).Bits()
			return what(l, &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(bits, ip.BitLen())}})
		})
	}
	arrives := func(to netip.Addr) bool {
		tx := openXDPTx(t, a, XDPConfig{Peers: []netip.AddrPort{netip.AddrPortFrom(to, port)}})
		defer tx.Close()
		for end := time.Now().Add(5 * rxLiveness); time.Now().Before(end); {
			sendAll(t, tx, []byte("to "+to.String()))
			batch, err := rx.Receive(10 * time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range batch {
				if string(m.Payload) == "to "+to.String() {
					return true
				}
			}
		}
		return false
	}
	moved := netip.MustParseAddr("10.99.0.50")
	if !arrives(b.Addr4) {
		t.Error("nothing arrives at the address of the beginning")
	}
	change(netlink.AddrAdd, "10.99.0.50/24")
	for _, addr := range []netip.Addr{moved, b.Addr4} {
		if !arrives(addr) {
			t.Errorf("nothing arrives at %s", addr)
		}
	}
	change(netlink.AddrDel, "10.99.0.50/24")
	for end := time.Now().Add(20 * time.Second); rx.filter.wants(moved); {
		if _, err := rx.Receive(10 * time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatal("an address that is gone is still taken")
		}
	}
	if id := attached(t, b); id == 0 || id == before.ID {
		t.Errorf("program %d is attached, want another than %d", id, before.ID)
	}
}
