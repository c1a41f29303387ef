package ring

import (
	"bytes"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	benchSize  = 1 << 16
	benchBytes = 64
	benchBatch = 32
)

// Batches of 32 records of 64 bytes, beside moving 64 bytes.
func BenchmarkRings(b *testing.B) {
	var src [benchBytes]byte
	perRecord := func(b *testing.B) {
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchBatch, "ns/record")
	}
	b.Run("SPSC, one goroutine", func(b *testing.B) {
		r := newSPSC(b, benchSize)
		b.ReportAllocs()
		for b.Loop() {
			for range benchBatch {
				*(*[benchBytes]byte)(r.Reserve(benchBytes)) = src
			}
			r.Publish()
			run := r.Look()
			for _, ok := run.Peek(); ok; _, ok = run.Peek() {
				run.Advance()
			}
			r.Release(run)
		}
		perRecord(b)
	})
	b.Run("MPSC, one goroutine", func(b *testing.B) {
		r := newMPSC(b, benchSize)
		b.ReportAllocs()
		for b.Loop() {
			c, ok := r.Claim(benchBatch*FramedSize(benchBytes), benchSize)
			if !ok {
				b.Fatal("full")
			}
			for range benchBatch {
				*(*[benchBytes]byte)(c.Reserve(benchBytes)) = src
			}
			c.Commit()
			run := r.Look()
			for _, ok := run.Peek(); ok; _, ok = run.Peek() {
				run.Advance()
			}
			r.Release(run)
		}
		perRecord(b)
	})
	b.Run("SPSC, two goroutines", func(b *testing.B) {
		r := newSPSC(b, 16*benchSize)
		var wg sync.WaitGroup
		b.ReportAllocs()
		b.ResetTimer()
		wg.Go(func() {
			for left := b.N * benchBatch; left > 0; {
				run := r.Look()
				n := 0
				for rec, ok := run.Peek(); ok; rec, ok = run.Peek() {
					sum += rec[0]
					run.Advance()
					n++
				}
				if n == 0 {
					pause()
					continue
				}
				r.Release(run)
				left -= n
			}
		})
		for range b.N {
			for range benchBatch {
				rec := r.Reserve(benchBytes)
				for rec == nil {
					pause()
					rec = r.Reserve(benchBytes)
				}
				*(*[benchBytes]byte)(rec) = src
			}
			r.Publish()
		}
		wg.Wait()
		perRecord(b)
	})
	b.Run("opponent: copy 64 bytes", func(b *testing.B) {
		dst := make([]byte, benchSize)
		at := 0
		for b.Loop() {
			for range benchBatch {
				*(*[benchBytes]byte)(dst[at:]) = src
				at = (at + 72) & (benchSize/2 - 1)
			}
		}
		perRecord(b)
	})
	b.Run("opponent: channel of pointers, two goroutines", func(b *testing.B) {
		ch := make(chan *[benchBytes]byte, benchSize/benchBytes)
		var wg sync.WaitGroup
		wg.Go(func() {
			for p := range ch {
				sum += p[0]
			}
		})
		b.ResetTimer()
		for range b.N {
			for range benchBatch {
				ch <- &src
			}
		}
		close(ch)
		wg.Wait()
		perRecord(b)
	})
	runtime.KeepAlive(sum)
}

// Two producers of an MPSC at once, and nobody who takes anything meanwhile. The
// lesser share is the median of what the one had who got less, of some ten thousand
// claims in a row.
func BenchmarkTwoProducers(b *testing.B) {
	const size, each = 1 << 24, 1<<17 - 64 // some room is left for the end of the block
	r := newMPSC(b, size)
	order := make([]byte, 0, 2*each)
	var src [36]byte
	var shares []float64
	took := time.Duration(0)
	for b.Loop() {
		var ready atomic.Int32
		var done sync.WaitGroup
		start := time.Now()
		for p := range 2 {
			done.Go(func() {
				rec := src
				rec[0] = byte(p)
				for ready.Add(1); ready.Load() < 2; { // neither sleeps
				}
				for range each {
					room, slot := r.ClaimOne(len(rec), size)
					*(*[36]byte)(room) = rec
					slot.Commit()
				}
			})
		}
		done.Wait()
		took += time.Since(start)
		order = order[:0]
		for run := r.Look(); run.Len() > 0; run = r.Look() {
			for rec, ok := run.Peek(); ok; rec, ok = run.Peek() {
				order = append(order, rec[0])
				run.Advance()
			}
			r.Release(run)
		}
		// While both are at it, which they may not be at the ends.
		for part := range slices.Chunk(order[each/2:each*3/2], each/12) {
			ones := float64(bytes.Count(part, []byte{1})) / float64(len(part))
			shares = append(shares, min(ones, 1-ones))
		}
	}
	slices.Sort(shares)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(took.Nanoseconds())/float64(b.N*2*each), "ns/record")
	b.ReportMetric(shares[len(shares)/2], "lesser-share")
}

var (
	sum       byte
	pauseWord atomic.Uint32
)

// pause is what a side does that is ahead of the other: it keeps away from the
// other's words for some hundred nanoseconds.
func pause() {
	for range 500 {
		pauseWord.Load()
	}
}

// Neither side allocates.
func TestNoAllocations(t *testing.T) {
	s, m := newSPSC(t, 4096), newMPSC(t, 4096)
	for name, cycle := range map[string]func(){
		"SPSC": func() {
			for range 32 {
				copy(s.Reserve(36), "................................")
			}
			s.Publish()
			run := s.Look()
			for _, ok := run.Peek(); ok; _, ok = run.Peek() {
				run.Advance()
			}
			s.Release(run)
		},
		"MPSC, one and many": func() {
			b, slot := m.ClaimOne(36, 4096)
			copy(b, "................................")
			slot.Commit()
			b, slot = m.ClaimMany(36, 4, 4096)
			copy(b, "................................")
			slot.Commit()
			run := m.Look()
			for _, ok := run.Peek(); ok; _, ok = run.Peek() {
				run.Advance()
			}
			m.Release(run)
		},
		"MPSC": func() {
			c, _ := m.Claim(FramedSize(36), 4096)
			copy(c.Reserve(36), "................................")
			c.Commit()
			run := m.Look()
			for _, ok := run.Peek(); ok; _, ok = run.Peek() {
				run.Advance()
			}
			m.Release(run)
		},
	} {
		if n := testing.AllocsPerRun(1000, cycle); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
