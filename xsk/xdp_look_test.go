package xsk

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ipvsync/ipvsync/xsk/netns"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// A receiver says that it has to be opened anew when the device has grown beyond it.
func TestXDPOutdated(t *testing.T) {
	_, b := xsktest.VethPair(t)
	rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port})
	in(t, b, func() error {
		l, err := netlink.LinkByName(b.Name)
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 2000)
	})
	if err := receiveErr(rx); !errors.Is(err, ErrDeviceGone) || !strings.Contains(err.Error(), "MTU") {
		t.Errorf("%v", err)
	}
	_, b = xsktest.VethPairWith(t, netns.VethOptions{Queues: 2})
	rx = openXDPRx(t, b, XDPConfig{Group: group4, Port: port})
	rx.queues = rx.queues[:1] // as if the second had come later: veth cannot be told to have less
	defer func(all []xdpRxQueue) { rx.queues = all }(rx.queues[:2])
	if d, err := rx.genl.deviceFacts(rx.info.Index); err != nil || d.RxQueues != 2 {
		t.Fatalf("the device tells of %d queues, %v", d.RxQueues, err)
	}
	if err := receiveErr(rx); !errors.Is(err, ErrDeviceGone) || !strings.Contains(err.Error(), "queues") {
		t.Errorf("%v", err)
	}
}

// Virtual addresses lie on lo; messages to them come by the interface all the same.
func TestXDPUnicastToLoopbackAddress(t *testing.T) {
	a, b := xsktest.VethPair(t)
	virtual := netip.MustParseAddr("10.50.0.1")
	in(t, b, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr("10.50.0.1/32")
		return errors.Join(netlink.LinkSetUp(lo), netlink.AddrAdd(lo, addr))
	})
	in(t, a, func() error {
		l, err := netlink.LinkByName(a.Name)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: b.Addr4.AsSlice(),
			Dst: &net.IPNet{IP: virtual.AsSlice(), Mask: net.CIDRMask(32, 32)}})
	})
	rx := openXDPRx(t, b, XDPConfig{Port: port})
	tx := openXDPTx(t, a, XDPConfig{Peers: []netip.AddrPort{netip.AddrPortFrom(virtual, port)}})
	sendAll(t, tx, []byte("to a virtual address"))
	if m := takeAll(t, rx, 1); m[0].payload != "to a virtual address" {
		t.Errorf("%q", m[0].payload)
	}
}

// In the midst of a stream it takes nothing more, and delivers what it has, before it
// says that it is outdated.
func TestXDPOutdatedInStream(t *testing.T) {
	a, b := xsktest.VethPair(t)
	rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port})
	tx := openXDPTx(t, a, XDPConfig{Group: group4, Port: port})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for commitOne(tx, "x") {
			}
			_ = tx.Flush()
		}
	}()
	in(t, b, func() error {
		l, err := netlink.LinkByName(b.Name)
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 2000)
	})
	err := receiveErr(rx)
	left := uint32(0)
	for i := range rx.queues {
		left += uint32(rx.queues[i].q.Ready())
	}
	close(stop)
	<-stopped
	if !errors.Is(err, ErrDeviceGone) || left != 0 {
		t.Errorf("%v, with %d messages not delivered", err, left)
	}
}

// TestXDPRxNaps has a receiver in midstream rest unseen by its sockets, and one that
// got a few messages be woken by the next.
func TestXDPRxNaps(t *testing.T) {
	a, b := xsktest.VethPair(t)
	cfg := XDPConfig{Group: group4, Port: port}
	tx, rx := openXDPTx(t, a, cfg), openXDPRx(t, b, cfg)
	for round := range 3 {
		for _, c := range []struct {
			messages int
			naps     bool
		}{{napAfter - 1, false}, {napAfter, true}, {5 * napAfter, true}, {1, false}} {
			sendAll(t, tx, sequences(c.messages)...)
			takeAll(t, rx, c.messages)
			// As if nobody had waited meanwhile.
			rx.waitedAt = rx.n.Messages - uint64(c.messages)
			before := rx.n.Syscalls
			woken, err := rx.wait(time.Now(), time.Nanosecond)
			if woken || err != nil {
				t.Fatalf("wait: %v, %v", woken, err)
			}
			if napped := rx.waiter.(*pollWaiter).paused; napped != c.naps || napped != (rx.n.Syscalls > before) {
				t.Errorf("round %d, after %d messages: nap %v, %d system calls", round, c.messages, napped, rx.n.Syscalls-before)
			}
		}
	}
}
