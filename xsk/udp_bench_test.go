package xsk

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk/netns"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The benchmarks send over a veth pair, so that they measure the system calls
// and the network stack of both ends. One operation is one message.

const benchPayload = 1448 // 40 records of 36 bytes, and a header

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

// bareTrain returns a function that sends one train of n prefilled messages, by
// a socket of its own, with nothing else done: what the kernel costs. A segment
// size that is set once is cheaper than one with each train.
func bareTrain(tb testing.TB, e xsktest.End, n int) func() {
	tx := openTx(tb, e, UDPConfig{Group: group4, Port: port, GSO: OffloadOff})
	fd := tx.dests[0].fd
	if err := unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, benchPayload); err != nil {
		tb.Fatal(err)
	}
	train := make([]byte, n*benchPayload)
	return func() {
		if sent, err := unix.Write(fd, train); err != nil || sent != len(train) {
			tb.Fatalf("%d bytes sent, %v", sent, err)
		}
	}
}

// arrived returns how many messages of benchPayload bytes the interface of e has
// received. A train counts as one packet there.
func arrived(tb testing.TB, e xsktest.End) (n float64) {
	in(tb, e, func() error {
		l, err := netlink.LinkByName(e.Name)
		if err != nil {
			return err
		}
		st := l.Attrs().Statistics
		n = float64(st.RxBytes-42*st.RxPackets) / benchPayload // Ethernet, IPv4 and UDP headers
		return nil
	})
	return n
}

// BenchmarkUDPOpponents sends by turns, a few thousand messages each: trains
// through a UDPTx, single messages through a UDPTx, and prefilled trains by a
// bare loop. One operation is one message of each. The factors are medians over
// all turns. With records, each message is written first, 40 records of 36
// bytes out of slots of 64; otherwise frames are sent as they are.
func BenchmarkUDPOpponents(b *testing.B) {
	const turn = 88 * 32
	slots := make([]byte, 40*64)
	for _, records := range []bool{false, true} {
		for _, batch := range []int{22, 44, 64, 88, 128} {
			b.Run(fmt.Sprintf("records=%v/batch=%d", records, batch), func(b *testing.B) {
				near, far := xsktest.VethPairWith(b, netns.VethOptions{})
				through := func(tx *UDPTx) func() {
					return func() {
						for range turn {
							buf, err := tx.Next()
							if err != nil {
								_ = tx.Flush() // nothing holds up over veth
								if buf, err = tx.Next(); err != nil {
									b.Fatal(err)
								}
							}
							if records {
								p := buf[8:benchPayload]
								for i := range 40 {
									copyRecord((*[36]byte)(p[36*i:]), (*[36]byte)(slots[64*i:]))
								}
							}
							tx.Commit(benchPayload)
						}
						flush(b, tx)
					}
				}
				cfg := UDPConfig{Group: group4, Port: port, Batch: batch}
				trains := openTx(b, near, cfg)
				cfg.GSO = OffloadOff
				singles := openTx(b, near, cfg)
				send := bareTrain(b, near, 44)
				work := []func(){through(trains), through(singles), func() {
					for range turn / 44 {
						send()
					}
				}}
				times := make([][]time.Duration, len(work))
				before := arrived(b, far)
				rounds := 0
				for b.ResetTimer(); rounds*turn < b.N; rounds++ {
					for i, f := range work {
						start := time.Now()
						f()
						times[i] = append(times[i], time.Since(start))
					}
				}
				b.StopTimer()
				median := make([]float64, len(work))
				for i := range times {
					slices.Sort(times[i])
					median[i] = float64(times[i][rounds/2].Nanoseconds()) / turn
				}
				b.ReportMetric(median[0], "gso-ns/msg")
				b.ReportMetric(median[1], "sendmmsg-ns/msg")
				b.ReportMetric(median[2], "bare-ns/msg")
				b.ReportMetric(median[2]/median[0], "x-bare")
				b.ReportMetric(median[1]/median[0], "x-sendmmsg")
				b.ReportMetric((arrived(b, far)-before)/float64(rounds*turn*len(work)), "arrived/sent")
			})
		}
	}
}

// copyRecord copies 36 bytes without a call of memmove, which takes longer.
func copyRecord(to, from *[36]byte) {
	*(*[16]byte)(to[:16]) = *(*[16]byte)(from[:16])
	*(*[16]byte)(to[16:32]) = *(*[16]byte)(from[16:32])
	*(*[4]byte)(to[32:]) = *(*[4]byte)(from[32:])
}

// BenchmarkUDPRxOpponents fills socket buffers with trains and empties them by
// turns, with the clock running for that only: a UDPRx with GRO, one without,
// and a bare loop of recvmmsg that looks at nothing.
func BenchmarkUDPRxOpponents(b *testing.B) {
	const turn, buf = 44 * 16, 8 << 20
	near, far := xsktest.VethPairWith(b, netns.VethOptions{})
	cfg := UDPConfig{Group: group4, RcvBuf: buf, Batch: 88}
	var txs []*UDPTx
	var rxs []*UDPRx
	for i, gro := range []Offload{OffloadOn, OffloadOff, OffloadOn} {
		cfg.Port, cfg.GRO = port+i, gro
		rxs, txs = append(rxs, openRx(b, far, cfg)), append(txs, openTx(b, near, cfg))
	}
	receive := func(rx *UDPRx) func() {
		return func() {
			for got := 0; got < turn; {
				batch, err := rx.Receive(patience)
				if err != nil {
					b.Fatal(err)
				}
				got += len(batch)
				rx.Release()
			}
		}
	}
	bare := newUDPRxFrames(4, trainBuffer, trainStride, true)
	work := []func(){receive(rxs[0]), receive(rxs[1]), func() {
		for bytes := 0; bytes < turn*benchPayload; {
			n, errno := recvmmsg(rxs[2].fd, bare.msgs)
			if errno != 0 && errno != unix.EAGAIN {
				b.Fatal(errno)
			}
			for i := range bare.msgs[:n] {
				bytes += int(bare.msgs[i].len)
			}
			bare.rearm(n)
		}
	}}
	times := make([][]time.Duration, len(work))
	rounds := 0
	for b.ResetTimer(); rounds*turn < b.N; rounds++ {
		for i, f := range work {
			for range turn {
				if _, err := txs[i].Next(); err != nil {
					flush(b, txs[i])
					_, _ = txs[i].Next()
				}
				txs[i].Commit(benchPayload)
			}
			flush(b, txs[i])
			start := time.Now()
			f()
			times[i] = append(times[i], time.Since(start))
		}
	}
	b.StopTimer()
	median := make([]float64, len(work))
	for i := range times {
		slices.Sort(times[i])
		median[i] = float64(times[i][rounds/2].Nanoseconds()) / turn
	}
	b.ReportMetric(median[0], "gro-ns/msg")
	b.ReportMetric(median[1], "recvmmsg-ns/msg")
	b.ReportMetric(median[2], "bare-ns/msg")
	b.ReportMetric(median[2]/median[0], "x-bare")
	b.ReportMetric(median[1]/median[0], "x-recvmmsg")
}

// BenchmarkUDPBothEnds has a sender and a receiver at work at the same time. One
// operation is one message that was sent.
func BenchmarkUDPBothEnds(b *testing.B) {
	for name, offload := range map[string]Offload{"trains": OffloadOn, "singles": OffloadOff} {
		b.Run(name, func(b *testing.B) {
			near, far := xsktest.VethPair(b)
			cfg := UDPConfig{Group: group4, Port: port, Batch: 88, RcvBuf: 32 << 20, GSO: offload, GRO: offload}
			rx, tx := openRx(b, far, cfg), openTx(b, near, cfg)
			done := make(chan uint64)
			go func() {
				var records uint64
				for {
					batch, err := rx.Receive(-1)
					if err != nil {
						done <- records
						return
					}
					for i := range batch {
						for p := batch[i].Payload[8:]; len(p) >= 36; p = p[36:] {
							records += uint64(p[0]) // touch each record
						}
					}
					rx.Release()
				}
			}()
			b.ResetTimer()
			for range b.N {
				if _, err := tx.Next(); err != nil {
					flush(b, tx)
					_, _ = tx.Next()
				}
				tx.Commit(benchPayload)
			}
			flush(b, tx)
			b.StopTimer()
			rx.Close()
			<-done
			b.ReportMetric(float64(rx.Stats().Messages)/float64(b.N), "received/sent")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(rx.Stats().Messages), "ns/received")
		})
	}
}
