package xsk

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// TestNoAllocations sends and receives, waits in vain, overruns, and finds no
// frame, all without allocating.
func TestNoAllocations(t *testing.T) {
	a, b := xsktest.VethPair(t)
	for i, group := range []netip.Addr{group4, group6, group4, group6} {
		cfg := UDPConfig{Group: group, Port: port, Batch: 32, RcvBuf: 1 << 20}
		if i > 1 {
			cfg.GSO, cfg.GRO = OffloadOff, OffloadOff
		}
		rx := openRx(t, b, cfg)
		cfg.Peers = []netip.AddrPort{netip.AddrPortFrom(b.Addr4, 9)} // refused
		tx := openTx(t, a, cfg)
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
				buf[0] = 1
				tx.Commit(100)
			}
			if _, err := tx.Next(); err != ErrNoFrame {
				check(fmt.Errorf("Next: %v, want ErrNoFrame", err))
			}
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
			t.Errorf("%s, GSO %s: %v allocations, %v", group, cfg.GSO, allocs, failed)
		}
		if s := rx.Stats(); (s.Coalesced > 0) != (i < 2) {
			t.Errorf("%s, GSO %s: %+v", group, cfg.GSO, s)
		}
		rx.Close()
	}
}

// TestNoAllocationsWhileDown: a sender that is polled through an outage makes
// no garbage.
func TestNoAllocationsWhileDown(t *testing.T) {
	a, _ := xsktest.VethPair(t)
	tx := openTx(t, a, UDPConfig{Group: group4, Port: port})
	put(t, tx, []byte("waiting"))
	setLink(t, a, "down")
	var err error
	allocs := testing.AllocsPerRun(100, func() {
		if _, e := tx.Next(); e == nil {
			tx.Commit(1)
		}
		err = tx.Flush()
	})
	if err == nil || allocs != 0 {
		t.Errorf("%v allocations, %v", allocs, err)
	}
}
