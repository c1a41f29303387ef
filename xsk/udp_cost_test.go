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
	for _, group := range []netip.Addr{group4, group6} {
		cfg := UDPConfig{Group: group, Port: port, Batch: 32, RcvBuf: 1 << 20}
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
			t.Errorf("%s: %v allocations, %v", group, allocs, failed)
		}
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

// The benchmarks send over a veth pair, so that they measure the system calls
// and the network stack of both ends. One operation is one message.

const benchPayload = 1400

func BenchmarkUDPTx(b *testing.B) {
	for _, group := range []netip.Addr{group4, group6} {
		for _, batch := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("%s/batch=%d", family(group), batch), func(b *testing.B) {
				near, _ := xsktest.VethPair(b)
				tx := openTx(b, near, UDPConfig{Group: group, Port: port, Batch: batch})
				b.SetBytes(benchPayload)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := tx.Next(); err != nil {
						flush(b, tx)
						if _, err := tx.Next(); err != nil {
							b.Fatal(err)
						}
					}
					tx.Commit(benchPayload)
				}
				flush(b, tx)
				b.ReportMetric(float64(tx.Stats().Syscalls)/float64(tx.Stats().Messages), "syscalls/op")
			})
		}
	}
}

// BenchmarkUDPRx sends a batch and receives it, in turns, with the clock running
// for the receiver only.
func BenchmarkUDPRx(b *testing.B) {
	for _, group := range []netip.Addr{group4, group6} {
		for _, batch := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("%s/batch=%d", family(group), batch), func(b *testing.B) {
				near, far := xsktest.VethPair(b)
				cfg := UDPConfig{Group: group, Port: port, Batch: batch, RcvBuf: 1 << 20}
				rx, tx := openRx(b, far, cfg), openTx(b, near, cfg)
				b.SetBytes(benchPayload)
				b.ReportAllocs()
				var receiving time.Duration
				b.ResetTimer()
				for done := 0; done < b.N; {
					for range batch {
						if _, err := tx.Next(); err != nil {
							b.Fatal(err)
						}
						tx.Commit(benchPayload)
					}
					flush(b, tx)
					start := time.Now()
					for got := 0; got < batch; {
						msgs, err := rx.Receive(patience)
						if err != nil {
							b.Fatal(err)
						}
						got += len(msgs)
						rx.Release()
					}
					receiving += time.Since(start)
					done += batch
				}
				b.ReportMetric(float64(receiving.Nanoseconds())/float64(rx.Stats().Messages), "rx-ns/op")
				b.ReportMetric(float64(rx.Stats().Syscalls)/float64(rx.Stats().Messages), "syscalls/op")
			})
		}
	}
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}
