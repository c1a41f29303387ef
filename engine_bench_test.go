package ipvsync

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
)

// The benchmarks of this file print the cost of each step of the engine beside
// its opponents, in one run: see docs/benchmarks.md. Blocks and buffers are as
// large as the engine's, so that all of them meet the same caches.

const benchRing = 1 << 20

// benchShard is a shard whose rings nobody empties: drain does it between turns.
func benchShard(b testing.TB) *Shard { return benchSender(b, 1).shards[0] }

// benchSender is a Sender without a transmit loop.
func benchSender(b testing.TB, shards int) *Sender {
	cfg := SenderConfig{RingSize: benchRing, Watermarks: Watermarks{Refresh: 100, Update: 100}}
	cfg.OpenTx = func(int, func([]byte)) (xsk.Tx, error) { return &discard{}, nil }
	if err := cfg.setDefaults(); err != nil {
		b.Fatal(err)
	}
	s := &Sender{cfg: cfg}
	p, err := newPort(s, 0)
	if err != nil {
		b.Fatal(err)
	}
	for range shards {
		sh, err := newShard(s, p)
		if err != nil {
			b.Fatal(err)
		}
		s.shards = append(s.shards, sh)
	}
	return s
}

func drain(r sourceRing) {
	for run := r.Look(); run.Len() > 0; run = r.Look() {
		for _, ok := run.Peek(); ok; _, ok = run.Peek() {
			run.Advance()
		}
		r.Release(run)
	}
}

// inChunks runs do(n) until b.N is reached, a chunk at a time that fits a ring,
// and clears up in between with the clock stopped.
func inChunks(b *testing.B, do func(n int), between func()) {
	const chunk = benchRing / 48 / 2
	b.ReportAllocs()
	b.ResetTimer()
	for left := b.N; left > 0; left -= chunk {
		do(min(left, chunk))
		b.StopTimer()
		between()
		b.StartTimer()
	}
}

func benchConns(n int) []Conn {
	conns := make([]Conn, n)
	for i := range conns {
		conns[i] = flow(i, uint32(i))
	}
	return conns
}

func BenchmarkPublish(b *testing.B) {
	sh := benchShard(b)
	conns := benchConns(64)
	none := func() {}
	b.Run("Shard.Publish", func(b *testing.B) {
		inChunks(b, func(n int) {
			for i := range n {
				if sh.Publish(&conns[i&63]) != nil {
					b.Fatal("refused")
				}
			}
		}, func() { drain(sh.own) })
	})
	b.Run("PublishBatch of 32", func(b *testing.B) {
		inChunks(b, func(n int) {
			for ; n > 0; n -= 32 {
				if _, err := sh.PublishBatch(conns[:32]); err != nil {
					b.Fatal("refused")
				}
			}
		}, func() { drain(sh.own) })
	})
	b.Run("Sender.Publish, one goroutine", func(b *testing.B) {
		inChunks(b, func(n int) {
			for i := range n {
				if sh.sender.Publish(&conns[i&63]) != nil {
					b.Fatal("refused")
				}
			}
		}, func() { drain(sh.shared) })
	})
	b.Run("opponent: copy 36 bytes twice", func(b *testing.B) {
		src, dst := make([]byte, benchRing), make([]byte, benchRing)
		inChunks(b, func(n int) {
			at := 0
			for range n {
				*(*[36]byte)(dst[at:]) = *(*[36]byte)(src[at&0xfff:])
				*(*[36]byte)(src[at:]) = *(*[36]byte)(dst[(at+4800)&(benchRing/2-1):])
				at += 48
			}
		}, none)
	})
	b.Run("opponent: channel", func(b *testing.B) {
		ch := make(chan Conn, 1<<14)
		done := make(chan struct{})
		go func() {
			for range ch {
			}
			close(done)
		}()
		inChunks(b, func(n int) {
			for i := range n {
				ch <- conns[i&63]
			}
		}, none)
		close(ch)
		<-done
	})
	b.Run("opponent: channel, nobody receives", func(b *testing.B) {
		const chunk = benchRing / 48 / 2
		ch := make(chan Conn, chunk)
		inChunks(b, func(n int) {
			for i := range n {
				ch <- conns[i&63]
			}
		}, func() {
			for len(ch) > 0 {
				<-ch
			}
		})
	})
}

// Two goroutines publish at once.
func BenchmarkPublishFromTwo(b *testing.B) {
	conns := benchConns(64)
	two := func(b *testing.B, do func(n int), between func()) {
		inChunks(b, func(n int) {
			var wg sync.WaitGroup
			wg.Go(func() { do(n / 2) })
			do(n - n/2)
			wg.Wait()
		}, between)
	}
	for _, shards := range []int{1, 2, 8, 16, 64} {
		s := benchSender(b, shards)
		b.Run(fmt.Sprintf("Sender.Publish, %d shards", shards), func(b *testing.B) {
			two(b, func(n int) {
				for i := range n {
					if s.Publish(&conns[i&63]) != nil {
						b.Error("refused")
						return
					}
				}
			}, func() {
				for _, sh := range s.shards {
					drain(sh.shared)
				}
			})
		})
		b.Run(fmt.Sprintf("Sender.PublishBatch of 32, %d shards", shards), func(b *testing.B) {
			two(b, func(n int) {
				for ; n > 0; n -= 32 {
					if _, err := s.PublishBatch(conns[:32]); err != nil {
						b.Error("refused")
						return
					}
				}
			}, func() {
				for _, sh := range s.shards {
					drain(sh.shared)
				}
			})
		})
	}
	b.Run("opponent: mutex and slice", func(b *testing.B) {
		var mu sync.Mutex
		list := make([]Conn, 0, benchRing/48)
		two(b, func(n int) {
			for i := range n {
				mu.Lock()
				list = append(list, conns[i&63])
				mu.Unlock()
			}
		}, func() { list = list[:0] })
	})
	b.Run("opponent: channel", func(b *testing.B) {
		ch := make(chan Conn, benchRing/48)
		two(b, func(n int) {
			for i := range n {
				ch <- conns[i&63]
			}
		}, func() {
			for len(ch) > 0 {
				<-ch
			}
		})
	})
}

// What the transmit loop does with a record: out of the ring, into a message.
func BenchmarkLoop(b *testing.B) {
	const chunk = benchRing / 48 / 2
	conns := benchConns(64)
	sh := benchShard(b)
	port := sh.port
	port.cfg.FlushInterval = time.Hour
	fill := func() {
		for i := range chunk {
			if sh.Publish(&conns[i&63]) != nil {
				b.Fatal("refused")
			}
		}
	}
	fillShared := func() {
		for i := range chunk {
			if sh.publishShared(&conns[i&63], Update) != nil {
				b.Fatal("refused")
			}
		}
	}
	for name, f := range map[string]func(){"from SPSC to sealed message": fill, "from MPSC to sealed message": fillShared} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.ResetTimer()
			for left := b.N; left > 0; left -= chunk {
				b.StopTimer()
				f()
				b.StartTimer()
				for port.collect() > 0 {
				}
			}
		})
	}
	b.Run("opponent: copy 36 bytes", func(b *testing.B) {
		src, dst := make([]byte, benchRing), make([]byte, encoder.DefaultMaxSize)
		b.ResetTimer()
		for left := b.N; left > 0; left -= chunk {
			at, to := 0, 8
			for range min(left, chunk) {
				*(*[36]byte)(dst[to:]) = *(*[36]byte)(src[at:])
				at += 48
				if to += 36; to > len(dst)-36 {
					to = 8
				}
			}
		}
	})
}

// The whole engine on a transport that discards: one producer, one loop.
func BenchmarkEngine(b *testing.B) {
	conns := benchConns(32)
	for name, batch := range map[string]bool{"PublishBatch of 32": true, "Publish": false} {
		b.Run(name, func(b *testing.B) {
			s, err := NewSender(SenderConfig{Shards: 1, RingSize: 1 << 18,
				OpenTx: func(int, func([]byte)) (xsk.Tx, error) { return &discard{}, nil }})
			if err != nil {
				b.Fatal(err)
			}
			sh := s.Shard(0)
			b.ReportAllocs()
			b.ResetTimer()
			full := 0
			for left := b.N; left > 0; {
				if batch {
					n, _ := sh.PublishBatch(conns)
					left -= n
					if n < len(conns) {
						full++
						pause()
					}
					continue
				}
				if sh.Publish(&conns[left&31]) != nil {
					full++
					pause()
					continue
				}
				left--
			}
			if err := s.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "M/s")
			b.ReportMetric(float64(full)/float64(b.N), "full/op")
			s.Close()
			checkBenchSender(b, s.Stats())
		})
	}
}

var pauseWord atomic.Uint32

// pause lets the loop make some room, without leaving the processor.
func pause() {
	for range 200 {
		pauseWord.Load()
	}
}

func checkBenchSender(b *testing.B, st SenderStats) {
	if st.Sent < uint64(b.N) || st.Published != st.Sent+st.Coalesced+st.DroppedTotal() {
		b.Fatalf("updates got lost without a counter: %+v", st)
	}
}

// No garbage: GC cycles while the engine runs at full load.
func TestNoGarbageAtFullLoad(t *testing.T) {
	s, err := NewSender(SenderConfig{Shards: 2, OpenTx: func(int, func([]byte)) (xsk.Tx, error) { return &discard{}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	conns := benchConns(32)
	work := func(n int) {
		var wg sync.WaitGroup
		wg.Go(func() {
			for range n {
				_, _ = s.Shard(0).PublishBatch(conns)
			}
		})
		wg.Go(func() {
			for i := range n {
				_ = s.Publish(&conns[i&31])
			}
		})
		wg.Wait()
	}
	work(1000)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	work(200_000)
	runtime.ReadMemStats(&after)
	if n := after.NumGC - before.NumGC; n != 0 {
		t.Errorf("%d GC cycles", n)
	}
	// Goroutines of this test allocate a little.
	if n := after.Mallocs - before.Mallocs; n > 50 {
		t.Errorf("%d allocations for 6.6 million updates", n)
	}
}
