package xsk

import (
	"errors"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk/xsktest"
	"github.com/vishvananda/netlink"
)

// receiveErr receives until an error comes.
func receiveErr(rx Rx) error {
	for {
		if _, err := rx.Receive(-1); err != nil {
			return err
		}
		rx.Release()
	}
}

// commitOne commits a message if there is a frame for it.
func commitOne(tx Tx, s string) bool {
	buf, err := tx.Next()
	if err == nil {
		tx.Commit(copy(buf, s))
	}
	return err == nil
}

// TestXDPLinkDownAndUp takes the link away in the middle of sending, at this end
// or the other, and gives it back. What was queued arrives then.
func TestXDPLinkDownAndUp(t *testing.T) {
	for _, group := range []netip.Addr{group4, group6} {
		for i := range 2 {
			a, b := xsktest.VethPair(t)
			end := []xsktest.End{a, b}[i] // own end: set down; other end: no carrier
			cfg := XDPConfig{Group: group, Port: port, TxFrames: 64}
			rx, tx := openXDPRx(t, b, cfg), openXDPTx(t, a, cfg)
			sendAll(t, tx, []byte("before"))
			takeAll(t, rx, 1)

			setLink(t, end, "down")
			var err error
			waitFor(t, func() bool {
				if err = tx.Flush(); err != nil {
					return true
				}
				commitOne(tx, "x")
				return false
			})
			if !errors.Is(err, ErrLinkDown) {
				t.Fatalf("%s: %v, want ErrLinkDown", group, err)
			}
			// At most one packet is dropped until that is noticed.
			if s := tx.Stats(); s.Errors > 1 {
				t.Errorf("%+v, want at most one packet dropped", s)
			}
			lost := tx.Stats()
			queued := tx.Pending()
			n := 0
			for commitOne(tx, sequence(n)) {
				n++
			}
			if queued+n < 63 {
				t.Errorf("%d messages are queued, want as many as there are frames", queued+n)
			}
			for range 3 {
				if err := tx.Flush(); !errors.Is(err, ErrLinkDown) || tx.Pending() != queued+n {
					t.Errorf("%s: %v with %d pending, want ErrLinkDown and %d", group, err, tx.Pending(), queued+n)
				}
				if err := tx.Wait(time.Millisecond); err != nil {
					t.Error(err)
				}
			}
			if s := tx.Stats(); s.Packets != lost.Packets || s.Errors != lost.Errors || s.LinkDown < 4 {
				t.Errorf("%+v, want no packet sent while the link is down, and at least 4 times LinkDown", s)
			}
			wantXDPLedger(t, tx)

			xsktest.SetLink(t, end, true)
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
			// Up to Linux 6.16 the packet dropped shows only now.
			dropped := int(tx.Stats().Errors - lost.Errors)
			if dropped > 1 {
				t.Errorf("%d packets dropped", dropped)
			}
			wantSequence(t, takeAll(t, rx, queued+n-dropped)[queued-dropped:], n)
			wantXDPLedger(t, tx)
		}
	}
}

// TestXDPDeviceGone deletes the pair while both ends are in use. Both say so,
// leave nothing behind, and start no goroutine.
func TestXDPDeviceGone(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	for _, group := range []netip.Addr{group4, group6} {
		a, b := xsktest.VethPair(t)
		cfg := XDPConfig{Group: group, Port: port, TxFrames: 64}
		maps, fds := mappings(t), openFiles(t)
		rx, tx := openXDPRx(t, b, cfg), openXDPTx(t, a, cfg)
		received := make(chan error)
		go func() { received <- receiveErr(rx) }()
		sendAll(t, tx, []byte("before"))
		setLink(t, a, "delete")
		began := time.Now()
		var err error
		waitFor(t, func() bool {
			commitOne(tx, "x")
			err = tx.Flush()
			return err != nil
		})
		if !errors.Is(err, ErrDeviceGone) {
			t.Errorf("Flush: %v, want ErrDeviceGone", err)
		}
		if err := <-received; !errors.Is(err, ErrDeviceGone) {
			t.Errorf("Receive: %v, want ErrDeviceGone", err)
		}
		t.Logf("noticed by both after %v", time.Since(began))
		if err := tx.Wait(time.Millisecond); err != nil {
			t.Error(err)
		}
		pending := tx.Pending()
		if err := tx.Close(); err != nil {
			t.Error(err)
		}
		if err := rx.Close(); err != nil {
			t.Error(err)
		}
		if s := tx.Stats(); pending == 0 || s.Discarded != uint64(pending) {
			t.Errorf("%d were pending, %+v", pending, s)
		}
		wantXDPLedger(t, tx)
		if m, f := mappings(t), openFiles(t); m != maps || f != fds {
			t.Errorf("%d mappings and %d descriptors, %d and %d before", m, f, maps, fds)
		}
	}
	waitFor(t, func() bool { return runtime.NumGoroutine() <= goroutines })
}

// TestXDPReceiveLinkDownAndUp: the receiver says so, and goes on by itself.
func TestXDPReceiveLinkDownAndUp(t *testing.T) {
	a, b := xsktest.VethPair(t)
	cfg := XDPConfig{Group: group4, Port: port}
	rx, tx := openXDPRx(t, b, cfg), openXDPTx(t, a, cfg)
	setLink(t, b, "down")
	if err := receiveErr(rx); !errors.Is(err, ErrLinkDown) {
		t.Fatalf("%v, want ErrLinkDown", err)
	}
	xsktest.SetLink(t, b, true)
	waitFor(t, func() bool {
		commitOne(tx, "again")
		_ = tx.Flush()
		batch, err := rx.Receive(time.Millisecond)
		if err != nil && !errors.Is(err, ErrLinkDown) {
			t.Fatal(err)
		}
		defer rx.Release()
		return len(batch) > 0
	})
}

// TestXDPCloseAndWake ends a Receive that waits without end, and reads a batch
// after Close.
func TestXDPCloseAndWake(t *testing.T) {
	a, b := xsktest.VethPair(t)
	tx := openXDPTx(t, a, XDPConfig{Group: group4, Port: port})
	fds, maps := openFiles(t), mappings(t)
	for range 5 {
		rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port, RxFrames: 64})
		done := make(chan error)
		go func() {
			if batch, err := rx.Receive(-1); len(batch) != 0 || err != nil {
				t.Errorf("after Wake: %d messages, %v", len(batch), err)
			}
			done <- nil
			done <- receiveErr(rx)
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
				rx.KernelStats()
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
	rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port})
	sendAll(t, tx, []byte("lent"))
	var batch []Datagram
	waitFor(t, func() bool {
		var err error
		if batch, err = rx.Receive(time.Second); err != nil {
			t.Fatal(err)
		}
		return len(batch) > 0
	})
	if err := rx.Close(); err != nil {
		t.Error(err)
	}
	if string(batch[0].Payload) != "lent" {
		t.Errorf("after Close the payload is %q", batch[0].Payload)
	}
	rx.Release()
	if rx.queues[0].umem.mem != nil {
		t.Error("the packet memory is still mapped after Release")
	}
	if f, m := openFiles(t), mappings(t); f != fds || m != maps {
		t.Errorf("%d descriptors and %d mappings, %d and %d before", f, m, fds, maps)
	}
}

// TestXDPClosedSender: what is queued is counted, and told.
func TestXDPClosedSender(t *testing.T) {
	a, b := xsktest.VethPair(t)
	var lost []string
	tx := openXDPTx(t, a, XDPConfig{Group: group4, Port: port, Peers: []netip.AddrPort{netip.AddrPortFrom(b.Addr6, 9)},
		Lost: func(m []byte) { lost = append(lost, string(m)) }})
	commitOne(tx, "never sent")
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
	if s := tx.Stats(); s.Messages != 1 || s.Discarded != 2 || s.Packets != 0 || len(lost) != 1 || lost[0] != "never sent" {
		t.Errorf("%+v, %q lost; want 1 message, discarded for both destinations", s, lost)
	}
	_ = tx.KernelStats()
}

// TestXDPLost: a message that reaches nobody is told, with its bytes.
func TestXDPLost(t *testing.T) {
	a, _ := xsktest.VethPair(t)
	var lost []string
	tx := openXDPTx(t, a, XDPConfig{Peers: []netip.AddrPort{netip.MustParseAddrPort("10.99.0.66:9")}, TxFrames: 64,
		Lost: func(m []byte) { lost = append(lost, string(m)) }})
	for i := range 200 {
		if !commitOne(tx, sequence(i)) {
			t.Fatal("no frame")
		}
		if err := tx.Flush(); !errors.Is(err, ErrNoRoute) {
			t.Fatalf("%v, want ErrNoRoute", err)
		}
	}
	for i, m := range lost {
		if m != sequence(i) {
			t.Fatalf("lost %q, want %q", m, sequence(i))
		}
	}
	if s := tx.Stats(); len(lost) != 200 || s.Errors != 200 || tx.Pending() != 0 {
		t.Errorf("%d lost, %+v", len(lost), s)
	}
	wantXDPLedger(t, tx)
}

// TestXDPTooBig lowers the MTU under an open sender.
func TestXDPTooBig(t *testing.T) {
	a, b := xsktest.VethPair(t)
	rx, tx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port}), openXDPTx(t, a, XDPConfig{Group: group4, Port: port})
	in(t, a, func() error {
		l, err := netlink.LinkByName(a.Name)
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 1400)
	})
	if err := tx.look(); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{10, 1372, 20, 1373, 30} {
		buf, _ := tx.Next()
		tx.Commit(copy(buf, pattern(n)))
	}
	if err := tx.Flush(); !errors.Is(err, ErrMTU) {
		t.Errorf("%v, want ErrMTU", err)
	}
	got := takeAll(t, rx, 4)
	if len(got[1].payload) != 1372 {
		t.Errorf("%d bytes", len(got[1].payload))
	}
	if s := tx.Stats(); s.TooBig != 1 || s.Packets != 4 {
		t.Errorf("%+v", s)
	}
	wantXDPLedger(t, tx)
}
