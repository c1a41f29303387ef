package xsk

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk/xsktest"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// openFiles counts the descriptors of this process.
func openFiles(tb testing.TB) int {
	tb.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(all)
}

// receiveUntil receives until an error comes.
func receiveUntil(rx *UDPRx) error {
	for {
		if _, err := rx.Receive(-1); err != nil {
			return err
		}
		rx.Release()
	}
}

// TestLinkDownAndUp takes the link away in the middle of sending, in three
// ways, and gives it back. What was queued arrives then.
func TestLinkDownAndUp(t *testing.T) {
	for _, group := range []netip.Addr{group4, group6} {
		for i := range 2 {
			a, b := xsktest.VethPair(t)
			end := []xsktest.End{a, b}[i] // own end: set down; other end: no carrier
			cfg := UDPConfig{Group: group, Port: port, Batch: 8}
			rx, tx := openRx(t, b, cfg), openTx(t, a, cfg)
			put(t, tx, []byte("before"))
			flush(t, tx)
			take(t, rx, 1)

			setLink(t, end, "down")
			var err error
			waitFor(t, func() bool {
				if err = tx.Flush(); err != nil {
					return true
				}
				// The kernel takes packets until the link is looked at.
				if _, err := tx.Next(); err == nil {
					tx.Commit(1)
				}
				return false
			})
			if !errors.Is(err, ErrLinkDown) {
				t.Fatalf("%s: %v, want ErrLinkDown", group, err)
			}
			lost := tx.Stats().Packets - 1
			queued := tx.Pending()
			for i := range 8 - queued {
				put(t, tx, []byte(sequence(i)))
			}
			if _, err := tx.Next(); err != ErrNoFrame {
				t.Errorf("Next with all frames queued: %v, want ErrNoFrame", err)
			}
			for range 3 {
				if err := tx.Flush(); !errors.Is(err, ErrLinkDown) || tx.Pending() != 8 {
					t.Errorf("%s: %v with %d pending, want ErrLinkDown and 8", group, err, tx.Pending())
				}
				if err := tx.Wait(time.Millisecond); err != nil {
					t.Error(err)
				}
			}
			if s := tx.Stats(); s.Packets != 1+lost || s.LinkDown < 4 {
				t.Errorf("%+v, want no packet sent while the link is down, and at least 4 times LinkDown", s)
			}
			wantLedger(t, tx)

			setLink(t, end, "up")
			if group.Is6() {
				waitMulticast6(t, b)
			}
			waitFor(t, func() bool {
				err := tx.Flush()
				if err != nil && !errors.Is(err, ErrLinkDown) {
					t.Fatal(err)
				}
				if err != nil {
					_ = tx.Wait(patience)
				}
				return tx.Pending() == 0
			})
			wantSequence(t, take(t, rx, 8)[queued:], 8-queued)
			wantLedger(t, tx)
		}
	}
}

// waitMulticast6 waits until the host of e accepts IPv6 multicast by e again. The
// kernel takes the route away with the interface, and gives it back some time
// after the interface is up.
func waitMulticast6(tb testing.TB, e xsktest.End) {
	tb.Helper()
	waitFor(tb, func() (ok bool) {
		in(tb, e, func() error {
			routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6,
				&netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
			for _, r := range routes {
				ok = ok || r.Dst != nil && r.Dst.String() == "ff00::/8"
			}
			return err
		})
		return ok
	})
}

// TestReceiveLinkDownAndUp: the receiver says so, and goes on by itself.
func TestReceiveLinkDownAndUp(t *testing.T) {
	a, b := xsktest.VethPair(t)
	cfg := UDPConfig{Group: group4, Port: port}
	rx, tx := openRx(t, b, cfg), openTx(t, a, cfg)
	setLink(t, b, "down")
	if err := receiveUntil(rx); !errors.Is(err, ErrLinkDown) {
		t.Fatalf("%v, want ErrLinkDown", err)
	}
	setLink(t, b, "up")
	put(t, tx, []byte("again"))
	waitFor(t, func() bool {
		if err := tx.Flush(); err != nil {
			_ = tx.Wait(patience)
		}
		return tx.Pending() == 0
	})
	waitFor(t, func() bool { // the kernel may have dropped it while the link came up
		batch, err := rx.Receive(time.Millisecond)
		if err != nil && !errors.Is(err, ErrLinkDown) {
			t.Fatal(err)
		}
		defer rx.Release()
		if len(batch) > 0 {
			return true
		}
		put(t, tx, []byte("again"))
		_ = tx.Flush()
		return false
	})
}

// TestDeviceGone deletes the pair while both ends are in use.
func TestDeviceGone(t *testing.T) {
	for _, group := range []netip.Addr{group4, group6} {
		for _, unicast := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s unicast %v", group, unicast), func(t *testing.T) {
				t.Parallel()
				a, b := xsktest.VethPair(t)
				cfg := UDPConfig{Group: group, Port: port, Unicast: unicast}
				rx, tx := openRx(t, b, cfg), openTx(t, a, cfg)
				received := make(chan error)
				go func() { received <- receiveUntil(rx) }()
				setLink(t, a, "delete")
				var err error
				waitFor(t, func() bool {
					if _, e := tx.Next(); e == nil {
						tx.Commit(1)
					}
					err = tx.Flush()
					return err != nil
				})
				if !errors.Is(err, ErrDeviceGone) {
					t.Errorf("%s: Flush: %v, want ErrDeviceGone", group, err)
				}
				if tx.Pending() == 0 {
					t.Error("nothing is pending, want what could not be sent")
				}
				if err := <-received; !errors.Is(err, ErrDeviceGone) {
					t.Errorf("%s: Receive: %v, want ErrDeviceGone", group, err)
				}
				tx.Close()
				if tx.Stats().Discarded == 0 {
					t.Errorf("%+v, want what was pending as discarded", tx.Stats())
				}
				wantLedger(t, tx)
			})
		}
	}
}

// TestCloseAndWake ends a Receive that waits without end.
func TestCloseAndWake(t *testing.T) {
	_, b := xsktest.VethPair(t)
	fds := openFiles(t)
	for range 20 {
		rx := openRx(t, b, UDPConfig{Group: group4, Port: port})
		done := make(chan error)
		go func() {
			if batch, err := rx.Receive(-1); len(batch) != 0 || err != nil {
				t.Errorf("after Wake: %d messages, %v", len(batch), err)
			}
			done <- nil
			done <- receiveUntil(rx)
		}()
		rx.Wake()
		<-done
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := rx.Close(); err != nil {
					t.Error(err)
				}
				rx.Wake()
				rx.Stats()
			})
		}
		if err := <-done; err != ErrClosed {
			t.Errorf("Receive ended with %v, want ErrClosed", err)
		}
		wg.Wait()
		rx.Release()
		if _, err := rx.Receive(0); err != ErrClosed {
			t.Errorf("Receive after Close: %v, want ErrClosed", err)
		}
	}
	if now := openFiles(t); now != fds {
		t.Errorf("%d descriptors, %d before", now, fds)
	}
}

func TestClosedSender(t *testing.T) {
	a, b := xsktest.VethPair(t)
	fds := openFiles(t)
	tx := openTx(t, a, UDPConfig{Group: group4, Port: port, Peers: []netip.AddrPort{netip.AddrPortFrom(b.Addr6, 9)}})
	put(t, tx, []byte("never sent"))
	for range 2 {
		if err := tx.Close(); err != nil {
			t.Error(err)
		}
	}
	_, err := tx.Next()
	for what, err := range map[string]error{"Next": err, "Flush": tx.Flush(), "Wait": tx.Wait(time.Hour)} {
		if err != ErrClosed {
			t.Errorf("%s after Close: %v, want ErrClosed", what, err)
		}
	}
	if s := tx.Stats(); s.Messages != 1 || s.Discarded != 2 || s.Packets != 0 {
		t.Errorf("%+v, want 1 message, discarded for both destinations", s)
	}
	if now := openFiles(t); now != fds {
		t.Errorf("%d descriptors, %d before", now, fds)
	}
}

func TestCommitMisuse(t *testing.T) {
	a, _ := xsktest.VethPair(t)
	tx := openTx(t, a, UDPConfig{Group: group4, Port: port})
	wantPanic := func(n int) {
		defer func() {
			if recover() == nil {
				t.Errorf("Commit(%d) did not panic", n)
			}
		}()
		tx.Commit(n)
	}
	wantPanic(0)
	if _, err := tx.Next(); err != nil {
		t.Fatal(err)
	}
	wantPanic(-1)
	wantPanic(tx.MaxPayload() + 1)
	tx.Commit(tx.MaxPayload())
	wantPanic(0)
}

// TestRefused sends to a peer that does not listen, beside one that does. Each
// packet is sent, and each notice counted: ICMP to one host is not limited here,
// and ten are fewer than the burst of 50 that all hosts together may have, even
// at up to three credits each (icmp_global_allow). Without GSO, since veth does
// not cut trains, for each of which there would be one notice.
func TestRefused(t *testing.T) {
	a, b := xsktest.VethPair(t)
	in(t, b, func() error {
		for _, f := range []string{"ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"} {
			if err := os.WriteFile("/proc/sys/net/"+f, []byte("0"), 0); err != nil {
				return err
			}
		}
		return nil
	})
	for _, ip := range []netip.Addr{b.Addr4, b.Addr6} {
		rx := openRx(t, b, UDPConfig{Port: port, Local: ip})
		tx := openTx(t, a, UDPConfig{Batch: 4, GSO: OffloadOff, Peers: []netip.AddrPort{netip.AddrPortFrom(ip, 9), netip.AddrPortFrom(ip, port)}})
		const n = 10
		for i := range n {
			put(t, tx, []byte(sequence(i)))
		}
		flush(t, tx)
		wantSequence(t, take(t, rx, n), n)
		waitFor(t, func() bool { tx.drain(&tx.dests[0]); return tx.n.Refused >= n })
		tx.publish()
		if s := tx.Stats(); s.Refused != n || s.Packets != 2*n || s.Errors != 0 || s.Unreachable != 0 {
			t.Errorf("%s: %+v, want %d packets and %d refused", ip, s, 2*n, n)
		}
		wantLedger(t, tx)
	}
}

// TestTooBigGivenUp lowers the MTU under an open sender: only the packets that
// no longer fit are given up.
func TestTooBigGivenUp(t *testing.T) {
	a, b := xsktest.VethPair(t)
	for i, group := range []netip.Addr{group4, group6} {
		rx := openRx(t, b, UDPConfig{Group: group, Port: port})
		tx := openTx(t, a, UDPConfig{Group: group, Port: port})
		in(t, a, func() error {
			l, err := netlink.LinkByName(a.Name)
			if err != nil {
				return err
			}
			return netlink.LinkSetMTU(l, 1400-i)
		})
		for _, n := range []int{10, 1400, 20, 1420, 30} {
			put(t, tx, pattern(n))
		}
		if err := tx.Flush(); !errors.Is(err, ErrMTU) || !errors.Is(err, unix.EMSGSIZE) {
			t.Errorf("%v, want ErrMTU and EMSGSIZE", err)
		}
		for i, m := range take(t, rx, 3) {
			if len(m.payload) != 10*(i+1) {
				t.Errorf("message %d has %d bytes", i, len(m.payload))
			}
		}
		if s := tx.Stats(); s.TooBig != 2 || s.Packets != 3 || tx.Pending() != 0 {
			t.Errorf("%+v, want 2 too big and 3 sent", s)
		}
		wantLedger(t, tx)
	}
}

// TestBackPressure has a queueing discipline that lets little through: with a
// short queue the kernel says ENOBUFS, with a small socket buffer EAGAIN.
// Nothing is lost and nothing sent twice. The short queue is for single messages:
// a train that this discipline cuts it takes if there is room for the first one
// (tbf_segment).
func TestBackPressure(t *testing.T) {
	for _, c := range []struct {
		errno  unix.Errno
		sndBuf int
		limit  uint32
		gso    Offload
	}{{unix.ENOBUFS, 0, 5000, OffloadOff}, {unix.EAGAIN, 8 << 10, 1 << 20, OffloadOff}, {unix.EAGAIN, 8 << 10, 1 << 20, OffloadOn}} {
		t.Run(fmt.Sprintf("%s, GSO %s", c.errno.Error(), c.gso), func(t *testing.T) {
			a, b := xsktest.VethPair(t)
			cfg := UDPConfig{Group: group4, Port: port, RcvBuf: 4 << 20, SndBuf: c.sndBuf, Batch: 16, GSO: c.gso}
			rx, tx := openRx(t, b, cfg), openTx(t, a, cfg)
			in(t, a, func() error {
				l, err := netlink.LinkByName(a.Name)
				if err != nil {
					return err
				}
				err = netlink.QdiscReplace(&netlink.Tbf{
					QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
					Rate:       1 << 20, Buffer: 100_000, Limit: c.limit,
				})
				if errors.Is(err, unix.ENOENT) {
					xsktest.SkipOrFail(t, "tbf: %v: load the module sch_tbf", err)
				}
				return err
			})
			const n = 100
			blocked := false
			send := tx.send
			tx.send = func(fd int, msgs []mmsghdr) (int, unix.Errno) {
				k, errno := send(fd, msgs)
				blocked = blocked || errno == c.errno
				return k, errno
			}
			for i := range n {
				put(t, tx, fmt.Appendf(nil, "%-500d", i))
			}
			flush(t, tx)
			for i, m := range take(t, rx, n) {
				if m.payload != fmt.Sprintf("%-500d", i) {
					t.Fatalf("message %d is %.10q", i, m.payload)
				}
			}
			if s := tx.Stats(); s.BackPressure == 0 || !blocked || s.Packets != n {
				t.Errorf("%+v, blocked by %q: %v", s, c.errno, blocked)
			}
			wantLedger(t, tx)
			wantNothing(t, rx)
		})
	}
}
