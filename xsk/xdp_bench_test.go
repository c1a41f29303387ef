package xsk

import (
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk/xsktest"
	"github.com/vishvananda/netlink"
)

// The benchmarks send over a veth pair. One operation is one message of 40
// records: 1448 bytes. The count of the receiving end is reported, as messages
// that arrived per message sent.

const xdpBenchPayload = 1448

// received returns how many packets the interface of e has got.
func received(tb testing.TB, e xsktest.End) (n uint64) {
	tb.Helper()
	in(tb, e, func() error {
		l, err := netlink.LinkByName(e.Name)
		if err == nil {
			n = l.Attrs().Statistics.RxPackets
		}
		return err
	})
	return n
}

func reportRate(b *testing.B, e xsktest.End, before uint64, messages int, took time.Duration) {
	b.ReportMetric(float64(messages)/took.Seconds()/1e6, "Mpps")
	b.ReportMetric(float64(received(b, e)-before)/float64(messages), "arrived/op")
}

const xdpBenchBatch = 64

func BenchmarkXDPTx(b *testing.B) {
	payload := pattern(xdpBenchPayload)
	b.Run("bare", func(b *testing.B) {
		near, far := xsktest.VethPair(b)
		tx := openXDPTx(b, near, XDPConfig{Group: group4, Port: port, Mode: CopyOnly})
		q := tx.q
		// Fill all frames with the packet once.
		for f := range q.pool.state {
			buf := q.pool.bytes(uint32(f))
			copy(buf[headerRoom:], payload)
			h := &tx.dests[0].tmpl
			h.seal(buf[headerRoom-h.n:headerRoom], len(payload), sum64(payload, 0))
		}
		start, n := headerRoom-tx.dests[0].tmpl.n, tx.dests[0].tmpl.n+len(payload)
		before, began := received(b, far), time.Now()
		b.ResetTimer()
		for i := 0; i < b.N; {
			for range min(xdpBenchBatch, b.N-i) {
				f, _, ok := q.Get()
				if !ok || !q.Queue(f, start, n) {
					break
				}
				i++
			}
			q.Flush(nil)
		}
		for q.Pending() > 0 {
			q.Flush(nil)
		}
		b.StopTimer()
		reportRate(b, far, before, b.N, time.Since(began))
	})
	run := func(name string, open func(b *testing.B, e xsktest.End) Tx, write bool) {
		b.Run(name, func(b *testing.B) {
			near, far := xsktest.VethPair(b)
			tx := open(b, near)
			before, began := received(b, far), time.Now()
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; {
				for range min(xdpBenchBatch, b.N-i) {
					buf, err := tx.Next()
					if err != nil {
						break
					}
					if write {
						copy(buf, payload)
					}
					tx.Commit(xdpBenchPayload)
					i++
				}
				_ = tx.Flush()
			}
			for tx.Pending() > 0 {
				_ = tx.Flush()
			}
			b.StopTimer()
			reportRate(b, far, before, b.N, time.Since(began))
			b.ReportMetric(float64(tx.Stats().Syscalls)/float64(b.N), "syscalls/op")
		})
	}
	xdp := func(cfg XDPConfig) func(b *testing.B, e xsktest.End) Tx {
		return func(b *testing.B, e xsktest.End) Tx { return openXDPTx(b, e, cfg) }
	}
	run("XDPTx", xdp(XDPConfig{Group: group4, Port: port}), false)
	run("XDPTx/written", xdp(XDPConfig{Group: group4, Port: port}), true)
	run("XDPTx/nochecksum", xdp(XDPConfig{Group: group4, Port: port, Checksum: ChecksumZero}), false)
	run("XDPTx/IPv6", xdp(XDPConfig{Group: group6, Port: port}), false)
	run("UDPTx", func(b *testing.B, e xsktest.End) Tx { return openTx(b, e, UDPConfig{Group: group4, Port: port}) }, false)
}
