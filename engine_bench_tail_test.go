package ipvsync

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Two goroutines publish at once, as in BenchmarkPublishFromTwo, and look at the
// clock before and after each call: how long does the unluckiest wait? Neither sleeps
// while one of them makes room: what wakes up would be what is measured.
func BenchmarkPublishTail(b *testing.B) {
	const chunk = benchRing / 48 / 4 // of each goroutine
	conns := benchConns(64)
	run := func(b *testing.B, do func(c *Conn), between func()) {
		if runtime.GOMAXPROCS(0) < 2 {
			b.Skip("two goroutines that turn need two processors")
		}
		b.ReportAllocs()
		var took [2][]int32 // ns
		var arrived [2]atomic.Int64
		side := func(me int) {
			took[me] = make([]int32, b.N)
			for first := 0; first < b.N; first += chunk {
				if me == 0 {
					between()
				}
				for arrived[me].Add(1); arrived[1-me].Load() < arrived[me].Load(); {
				}
				for i := first; i < min(first+chunk, b.N); i++ {
					before := time.Now()
					do(&conns[i&63])
					took[me][i] = int32(min(time.Since(before), time.Second))
				}
				for arrived[me].Add(1); arrived[1-me].Load() < arrived[me].Load(); {
				}
			}
		}
		b.ResetTimer()
		var wg sync.WaitGroup
		wg.Go(func() { side(1) })
		side(0)
		wg.Wait()
		b.StopTimer()
		all := slices.Concat(took[0], took[1])
		slices.Sort(all)
		quantile := func(q float64) float64 { return float64(all[min(int(q*float64(len(all))), len(all)-1)]) }
		b.ReportMetric(0, "ns/op") // of no meaning: it has the clock in it
		b.ReportMetric(quantile(0.5), "p50-ns")
		b.ReportMetric(quantile(0.99), "p99-ns")
		b.ReportMetric(quantile(0.9999), "p99.99-ns")
		b.ReportMetric(quantile(1)/1e3, "max-µs")
	}
	b.Run("Sender.Publish, 1 shard", func(b *testing.B) {
		s := benchSender(b, 1)
		run(b, func(c *Conn) {
			if s.Publish(c) != nil {
				b.Error("refused")
			}
		}, func() { drain(s.shards[0].shared) })
	})
	b.Run("opponent: mutex and slice", func(b *testing.B) {
		var mu sync.Mutex
		list := make([]Conn, 0, benchRing/48)
		run(b, func(c *Conn) {
			mu.Lock()
			list = append(list, *c)
			mu.Unlock()
		}, func() { list = list[:0] })
	})
	b.Run("opponent: channel", func(b *testing.B) {
		ch := make(chan Conn, benchRing/48)
		run(b, func(c *Conn) { ch <- *c }, func() {
			for len(ch) > 0 {
				<-ch
			}
		})
	})
}
