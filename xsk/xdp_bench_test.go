package xsk

import (
	"runtime"
	"slices"
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
		q, step := tx.q, bareTx(tx, payload)
		before, began := received(b, far), time.Now()
		b.ResetTimer()
		for i := 0; i < b.N; i += xdpBenchBatch {
			step(xdpBenchBatch)
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
	udp := func(gso Offload) func(b *testing.B, e xsktest.End) Tx {
		return func(b *testing.B, e xsktest.End) Tx {
			return openTx(b, e, UDPConfig{Group: group4, Port: port, GSO: gso})
		}
	}
	run("UDPTx/sendmmsg", udp(OffloadOff), false)
	run("UDPTx/GSO", udp(OffloadAuto), false) // a train counts as one packet that arrived
}

// BenchmarkXDPRx sends a batch and receives it, in turns: rx-ns/op is the time
// of the receiver alone, which finds the packets in its ring.
func BenchmarkXDPRx(b *testing.B) {
	run := func(name string, receive func(b *testing.B, far xsktest.End) func() int) {
		b.Run(name, func(b *testing.B) {
			near, far := xsktest.VethPair(b)
			step := receive(b, far)
			tx := openXDPTx(b, near, XDPConfig{Group: group4, Port: port})
			var receiving time.Duration
			b.ReportAllocs()
			b.ResetTimer()
			got, sent := 0, 0
			for sent < b.N {
				for range xdpBenchBatch {
					if _, err := tx.Next(); err != nil {
						b.Fatal(err)
					}
					tx.Commit(xdpBenchPayload)
				}
				sent += xdpBenchBatch
				if err := tx.Flush(); err != nil || tx.Pending() > 0 {
					b.Fatal(err, tx.Pending())
				}
				start := time.Now()
				for got < sent {
					got += step()
				}
				receiving += time.Since(start)
			}
			b.ReportMetric(float64(receiving.Nanoseconds())/float64(got), "rx-ns/op")
			b.ReportMetric(float64(got)/float64(sent), "arrived/op")
		})
	}
	run("bare", bareRx)
	run("XDPRx", wholeRx(XDPConfig{Group: group4, Port: port}))
	run("UDPRx", func(b *testing.B, far xsktest.End) func() int {
		rx := openRx(b, far, UDPConfig{Group: group4, Port: port, RcvBuf: 4 << 20})
		return func() int { return drainRx(b, rx) }
	})
}

// bareRx takes packets and gives them back.
func bareRx(b *testing.B, far xsktest.End) func() int {
	rx := openXDPRx(b, far, XDPConfig{Group: group4, Port: port})
	q := rx.queues[0].q
	return func() (n int) {
		for range xdpBenchBatch {
			f, p, ok := q.Take()
			if !ok {
				break
			}
			sumSink += uint64(p[len(p)-1])
			q.Put(f)
			n++
		}
		q.Refill()
		return n
	}
}

func wholeRx(cfg XDPConfig) func(b *testing.B, far xsktest.End) func() int {
	return func(b *testing.B, far xsktest.End) func() int {
		rx := openXDPRx(b, far, cfg)
		return func() int { return drainRx(b, rx) }
	}
}

func drainRx(b *testing.B, rx Rx) int {
	batch, err := rx.Receive(0)
	if err != nil {
		b.Fatal(err)
	}
	for i := range batch {
		sumSink += uint64(batch[i].Payload[0])
	}
	rx.Release()
	return len(batch)
}

// BenchmarkXDPBothEnds has a sender and a receiver at work at the same time. One
// operation is a message that arrived or was counted as dropped.
func BenchmarkXDPBothEnds(b *testing.B) {
	for _, name := range []string{"bare", "XDPRx"} {
		b.Run(name, func(b *testing.B) {
			near, far := xsktest.VethPair(b)
			var step func() int
			if name == "bare" {
				step = bareRx(b, far)
			} else {
				step = wholeRx(XDPConfig{Group: group4, Port: port})(b, far)
			}
			tx := openXDPTx(b, near, XDPConfig{Group: group4, Port: port})
			stop, done := make(chan struct{}), make(chan int)
			go func() {
				got := 0
				for {
					n := step()
					if got += n; n == 0 {
						select {
						case <-stop:
							done <- got
							return
						default:
							runtime.Gosched()
						}
					}
				}
			}()
			began := time.Now()
			b.ResetTimer()
			for i := 0; i < b.N; {
				for range min(xdpBenchBatch, b.N-i) {
					if _, err := tx.Next(); err != nil {
						break
					}
					tx.Commit(xdpBenchPayload)
					i++
				}
				_ = tx.Flush()
			}
			b.StopTimer()
			took := time.Since(began)
			close(stop)
			got := <-done
			b.ReportMetric(float64(got)/took.Seconds()/1e6, "Mpps")
			b.ReportMetric(float64(got)/float64(b.N), "arrived/op")
		})
	}
}

// BenchmarkXDPTxRatio sends by the bare loop and by XDPTx in turns, a slice of
// some milliseconds each, so that a noisy machine disturbs both alike: ratio is
// the median of bare time by XDPTx's time over pairs of slices.
func BenchmarkXDPTxRatio(b *testing.B) {
	payload := pattern(xdpBenchPayload)
	for _, c := range []struct {
		name  string
		write bool
		sum   UDPChecksum
	}{{"checksum", false, ChecksumFull}, {"written", true, ChecksumFull}, {"offload", false, ChecksumAuto}, {"offload/written", true, ChecksumAuto}, {"nochecksum", false, ChecksumZero}, {"nochecksum/written", true, ChecksumZero}} {
		b.Run(c.name, func(b *testing.B) {
			near1, _ := xsktest.VethPair(b)
			near2, _ := xsktest.VethPair(b)
			bare := openXDPTx(b, near1, XDPConfig{Group: group4, Port: port})
			tx := openXDPTx(b, near2, XDPConfig{Group: group4, Port: port, Checksum: c.sum})
			bareStep := bareTx(bare, payload)
			const slice = 10000
			var ratios, bares, ours []float64
			b.ResetTimer()
			for done := 0; done < b.N; done += 2 * slice {
				start := time.Now()
				for range slice / xdpBenchBatch {
					bareStep(xdpBenchBatch)
				}
				middle := time.Now()
				for range slice / xdpBenchBatch {
					for range xdpBenchBatch {
						buf, err := tx.Next()
						if err != nil {
							b.Fatal(err)
						}
						if c.write {
							copy(buf, payload)
						}
						tx.Commit(xdpBenchPayload)
					}
					_ = tx.Flush()
				}
				end := time.Now()
				const n = slice / xdpBenchBatch * xdpBenchBatch
				bares = append(bares, float64(middle.Sub(start).Nanoseconds())/n)
				ours = append(ours, float64(end.Sub(middle).Nanoseconds())/n)
				ratios = append(ratios, bares[len(bares)-1]/ours[len(ours)-1])
			}
			median := func(v []float64) float64 { slices.Sort(v); return v[len(v)/2] }
			b.ReportMetric(median(ratios), "ratio")
			b.ReportMetric(median(bares), "bare-ns")
			b.ReportMetric(median(ours), "ours-ns")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// bareTx fills all frames with the packet once, and returns what sends n of them.
func bareTx(tx *XDPTx, payload []byte) func(n int) {
	q, h := tx.q, &tx.dests[0].tmpl
	for f := range q.pool.state {
		buf := q.pool.bytes(uint32(f))
		copy(buf[headerRoom:], payload)
		h.seal(buf[headerRoom-h.n:headerRoom], len(payload), sum64(payload, 0))
	}
	start, size := headerRoom-h.n, h.n+len(payload)
	return func(n int) {
		for range n {
			f, _, ok := q.Get()
			if !ok || !q.Queue(f, start, size) {
				break
			}
		}
		q.Flush(nil)
	}
}
