package ipvsync

import (
	"encoding/binary"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
)

// ageTx is a discarding Tx that notes how old the first record of each message
// is, the oldest in it, when the message is committed. Publishers write their
// clock into fwmark and timeout.
type ageTx struct {
	discard
	start time.Time
	ages  []time.Duration
}

func (a *ageTx) Commit(int) {
	rec := a.buf[encoder.HeaderSize(encoder.Version1):]
	stamp := time.Duration(binary.BigEndian.Uint64(rec[16:]))
	if len(a.ages) < cap(a.ages) {
		a.ages = append(a.ages, time.Since(a.start)-stamp)
	}
}

func stamp(c *Conn, since time.Time) {
	t := uint64(time.Since(since))
	c.Fwmark, c.Timeout = uint32(t>>32), uint32(t)
}

// How long an update waits until its message is sealed, at rates from one to as
// many as can be, against the bound of FlushInterval.
func BenchmarkAge(b *testing.B) {
	for _, tc := range []struct {
		name string
		cfg  SenderConfig
		rate int // updates a second; 0: as fast as it goes
	}{
		{"1 ms, 1 thousand/s", SenderConfig{}, 1000},
		{"1 ms, 1 million/s", SenderConfig{}, 1_000_000},
		{"1 ms, full load", SenderConfig{}, 0},
		{"immediately, 1 thousand/s", SenderConfig{FlushInterval: Immediately}, 1000},
		{"immediately, 1 million/s", SenderConfig{FlushInterval: Immediately}, 1_000_000},
		{"immediately and BusyPoll, 1 thousand/s", SenderConfig{FlushInterval: Immediately, BusyPoll: true}, 1000},
	} {
		b.Run(tc.name, func(b *testing.B) {
			tx := &ageTx{start: time.Now(), ages: make([]time.Duration, 0, 1<<20)}
			tc.cfg.Shards = 1
			tc.cfg.OpenTx = func(int, func([]byte)) (xsk.Tx, error) { return tx, nil }
			s, err := NewSender(tc.cfg)
			if err != nil {
				b.Fatal(err)
			}
			c := flow(1, 1)
			begin := time.Now()
			b.ResetTimer()
			for i := range b.N {
				if tc.rate > 0 {
					for due := begin.Add(time.Duration(i) * time.Second / time.Duration(tc.rate)); time.Until(due) > 0; {
						if time.Until(due) > 100*time.Microsecond {
							time.Sleep(50 * time.Microsecond) // leave the processor to the loop
						}
					}
				}
				stamp(&c, tx.start)
				for s.Shard(0).Publish(&c) != nil {
					pause()
					stamp(&c, tx.start)
				}
			}
			b.StopTimer()
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			checkBenchSender(b, s.Stats())
			slices.Sort(tx.ages)
			at := func(q float64) float64 {
				return float64(tx.ages[min(int(q*float64(len(tx.ages))), len(tx.ages)-1)].Microseconds())
			}
			b.ReportMetric(at(0.5), "p50-µs")
			b.ReportMetric(at(0.99), "p99-µs")
			b.ReportMetric(at(1), "max-µs")
		})
	}
}

// What an idle Sender costs: CPU time of the process in a second.
func BenchmarkIdle(b *testing.B) {
	for name, cfg := range map[string]SenderConfig{"8 ports": {Ports: 8, Shards: 8}, "8 ports, immediately": {Ports: 8, Shards: 8, FlushInterval: Immediately}} {
		b.Run(name, func(b *testing.B) {
			cfg.OpenTx = func(int, func([]byte)) (xsk.Tx, error) { return &discard{}, nil }
			s, err := NewSender(cfg)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			for _, p := range s.ports {
				for p.alarm.state.Load() != asleep {
					runtime.Gosched()
				}
			}
			before := cpuTime()
			for range b.N {
				time.Sleep(time.Second)
			}
			b.ReportMetric(float64(cpuTime()-before)/float64(b.N)/1e3, "CPU-µs/s")
		})
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
