package xsk

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// TestXDPNoAllocations sends and receives, waits in vain, finds no frame, looks
// at the link and at the neighbours, all without allocating.
func TestXDPNoAllocations(t *testing.T) {
	a, b := xsktest.VethPair(t)
	for _, group := range []netip.Addr{group4, group6} {
		cfg := XDPConfig{Group: group, Port: port, TxFrames: 64, RxFrames: 64}
		rx := openXDPRx(t, b, cfg)
		cfg.Peers = []netip.AddrPort{netip.AddrPortFrom(b.Addr4, 9)} // refused
		tx := openXDPTx(t, a, cfg)
		var failed error
		check := func(err error) {
			if err != nil {
				failed = err
			}
		}
		got := 0
		allocs := testing.AllocsPerRun(200, func() {
			for range 32 {
				buf, err := tx.Next()
				check(err)
				if err != nil {
					return
				}
				buf[0] = 1
				tx.Commit(100)
			}
			if _, err := tx.Next(); err != ErrNoFrame {
				check(fmt.Errorf("Next: %v, want ErrNoFrame", err))
			}
			tx.lastCheck, tx.lastPeers = time.Time{}, time.Time{} // it is time to
			check(tx.Flush())
			check(tx.Wait(time.Microsecond))
			tx.Stats()
			for want := got + 32; got < want && failed == nil; {
				batch, err := rx.Receive(patience)
				check(err)
				for i := range batch {
					if len(batch[i].Payload) != 100 || !batch[i].Src.IsValid() {
						check(fmt.Errorf("%d bytes from %s", len(batch[i].Payload), batch[i].Src))
					}
				}
				got += len(batch)
				rx.Release()
			}
			_, err := rx.Receive(time.Microsecond)
			check(err)
			rx.Wake()
			_, err = rx.Receive(-1)
			check(err)
			rx.Stats()
		})
		if failed != nil || allocs != 0 {
			t.Errorf("%s: %v allocations, %v", group, allocs, failed)
		}
		rx.Close()
		tx.Close()
	}
}

// TestXDPNoAllocationsWhileDown: a sender that is polled through an outage, or
// has a peer that does not answer, makes no garbage.
func TestXDPNoAllocationsWhileDown(t *testing.T) {
	a, _ := xsktest.VethPair(t)
	for _, down := range []bool{false, true} {
		cfg := XDPConfig{Group: group4, Port: port, TxFrames: 64}
		if !down {
			cfg = XDPConfig{Peers: []netip.AddrPort{netip.MustParseAddrPort("10.99.0.66:9")}, TxFrames: 64}
		}
		tx := openXDPTx(t, a, cfg)
		if down {
			setLink(t, a, "down")
		}
		var err error
		allocs := testing.AllocsPerRun(100, func() {
			if _, e := tx.Next(); e == nil {
				tx.Commit(1)
			}
			tx.lastPeers = time.Time{}
			err = tx.Flush()
		})
		if err == nil || allocs != 0 {
			t.Errorf("down %v: %v allocations, %v", down, allocs, err)
		}
		tx.Close()
	}
}
