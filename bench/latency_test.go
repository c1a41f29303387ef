package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/xsk"
)

// How long an update takes from the moment it is due to be published until the
// handler of a Receiver on the other end of a veth pair has it.
//
// The load is open: updates are due by the clock, in bursts every 100 µs, as a
// balancer's worker gets packets from its NIC. Who is late is late: each update
// carries the time at which it was due, not the one at which it was published, so
// that a stall counts for everything that it held up (no coordinated omission).
// late-p99-µs says how much of it was the publisher's own lateness, which on a
// machine with few processors is much of the tail. A full ring refuses updates;
// they count as lost, as does what the network dropped.
//
// Both ends read the same monotonic clock. The time travels in the record, in the
// 8 bytes of firewall mark and timeout.
const (
	burstEvery   = 100 * time.Microsecond
	latencyRound = 50 * time.Millisecond

	// Of what is faster than sampleAbove records a second, each sampleEach-th is
	// looked at, so that looking costs nothing. The number has no factor in common
	// with the 40 places in a message.
	sampleAbove = 1_000_000
	sampleEach  = 61
)

// link is a Sender and a Receiver at the ends of a path.
type link struct {
	p      *path
	sender *ipvsync.Sender
	clock  time.Time
	got    counter

	each    atomic.Int64 // sample each; 0: none
	skipped int64        // handler only, as latency between rounds
	latency *hdrhistogram.Histogram
	late    *hdrhistogram.Histogram // of the publisher
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, (10 * time.Second).Nanoseconds(), 3)
}

// newLink opens both ends as a user would, by mode.
func newLink(b *testing.B, mode xsk.Mode, flush time.Duration, busyPoll bool) *link {
	l := &link{p: newPath(b), clock: time.Now(), latency: newHistogram(), late: newHistogram()}
	var r *ipvsync.Receiver
	l.p.in(l.p.far, func() (err error) {
		r, err = ipvsync.NewReceiver(ipvsync.ReceiverConfig{
			Link: ipvsync.Link{Interface: l.p.far.Name, Mode: mode}, BusyPoll: busyPoll,
		}, l.handle)
		return err
	})
	done := make(chan error, 1)
	go func() { done <- r.Run(context.Background()) }()
	b.Cleanup(func() {
		r.Close()
		<-done
	})
	l.p.in(l.p.near, func() (err error) {
		l.sender, err = ipvsync.NewSender(ipvsync.SenderConfig{
			Link: ipvsync.Link{Interface: l.p.near.Name, Mode: mode}, Shards: 1, FlushInterval: flush, BusyPoll: busyPoll,
		})
		return err
	})
	b.Cleanup(func() {
		if err := l.sender.Close(); err != nil && !errors.Is(err, ipvsync.ErrLost) { // lost-% has it
			b.Error(err)
		}
	})
	return l
}

// handle is the Receiver's handler.
func (l *link) handle(m *ipvsync.Message) {
	if each := l.each.Load(); each > 0 {
		now := time.Since(l.clock)
		i := l.skipped
		for ; i < int64(len(m.Conns)); i += each {
			c := &m.Conns[i]
			due := time.Duration(uint64(c.Fwmark)<<32 | uint64(c.Timeout))
			_ = l.latency.RecordValue(int64(now - due)) // above ten seconds it would be lost
		}
		l.skipped = i - int64(len(m.Conns))
	}
	l.got.add(len(m.Conns))
}

// flood publishes n messages' worth as fast as it goes, and returns how many
// records a second arrived.
func (l *link) flood(n int) float64 {
	before, start := l.got.got.Load(), time.Now()
	shard, want := l.sender.Shard(0), uint64(n*recordsPerMessage)
	for range n {
		for todo := conns; len(todo) > 0; {
			k, err := shard.PublishBatch(todo)
			if todo = todo[k:]; err != nil {
				rest()
			}
		}
	}
	if err := l.sender.Flush(context.Background()); err != nil {
		l.p.tb.Fatal(err)
	}
	var last time.Duration
	for seen := before; ; {
		now := l.got.got.Load()
		if now != seen {
			seen, last = now, time.Since(start)
		}
		if now == before+want || time.Since(start)-last > 20*time.Millisecond {
			return float64(now-before) / last.Seconds()
		}
		time.Sleep(20 * time.Microsecond)
	}
}

// offer publishes updates that come at a rate, for the time of a round, and
// returns how many were due and how many arrived.
func (l *link) offer(rate float64) (due, arrived uint64) {
	every := max(burstEvery, time.Duration(1e9/rate))
	each := int64(1)
	if rate > sampleAbove {
		each = sampleEach
	}
	l.each.Store(each)
	defer l.each.Store(0)
	before := l.got.got.Load()
	taken := uint64(0)
	l.p.exact(func() {
		shard := l.sender.Shard(0)
		burst := make([]ipvsync.Conn, recordsPerMessage)
		copy(burst, conns)
		begin := time.Since(l.clock) + every
		for tick := 0; ; tick++ {
			at := time.Duration(tick) * every
			if at > latencyRound && tick > 1 {
				return
			}
			sleepUntil(l.clock.Add(begin + at))
			l.latenessAt(begin + at)
			for i := range burst {
				burst[i].Fwmark, burst[i].Timeout = uint32((begin+at)>>32), uint32(begin+at)
			}
			for n := uint64(float64(tick+1) * every.Seconds() * rate); due < n; {
				k := min(n-due, uint64(len(burst)))
				ok, _ := shard.PublishBatch(burst[:k])
				due += k
				taken += uint64(ok)
			}
		}
	})
	l.got.until(before + taken)
	return due, l.got.got.Load() - before
}

func (l *link) latenessAt(due time.Duration) {
	_ = l.late.RecordValue(max(1, int64(time.Since(l.clock)-due)))
}

// exact runs f on a thread of its own whose sleeps end when they are due, rather
// than up to 50 µs later, which is what Linux likes to do.
func (p *path) exact(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with its setting
		if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
			p.tb.Errorf("timer slack: %v", err)
		}
		f()
	}()
	<-done
}

// sleepUntil sleeps on the calling thread: the timers of Go's runtime are less exact.
func sleepUntil(t time.Time) {
	for left := time.Until(t); left > 0; left = time.Until(t) {
		ts := unix.NsecToTimespec(left.Nanoseconds())
		if err := unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &ts, nil); err != nil && err != unix.EINTR {
			panic(err) // there is nothing that could be wrong with it
		}
	}
}

// BenchmarkLatency: by mode, by settings and by load, in parts of the most that
// arrived of a flood with default settings in the same run.
func BenchmarkLatency(b *testing.B) {
	for _, mode := range []xsk.Mode{xsk.ModeCopy, xsk.ModeUDPGSO} {
		var most float64 // with default settings: the same rates for all
		for _, s := range []struct {
			name     string
			flush    time.Duration
			busyPoll bool
		}{
			{"default", 0, false},
			{"immediately", ipvsync.Immediately, false},
			{"immediately and BusyPoll", ipvsync.Immediately, true},
		} {
			for _, percent := range []int{1, 50, 90} {
				b.Run(fmt.Sprintf("%v, %s, %d %%", mode, s.name, percent), func(b *testing.B) {
					needProcessors(b)
					l := newLink(b, mode, s.flush, s.busyPoll)
					l.flood(500)
					if most == 0 {
						var floods []float64
						for range 5 {
							floods = append(floods, l.flood(4000))
						}
						most = median(floods, func(i int) float64 { return floods[i] })
					}
					l.measure(b, most, float64(percent)/100)
				})
			}
		}
	}
}

// measure reports rounds at a part of most records a second.
func (l *link) measure(b *testing.B, most, part float64) {
	rate := most * part
	l.offer(rate)
	l.latency.Reset()
	l.late.Reset()
	var due, arrived uint64
	var cpu, took time.Duration
	for b.Loop() {
		began, start := cpuTime(), time.Now()
		d, a := l.offer(rate)
		cpu, took = cpu+cpuTime()-began, took+time.Since(start)
		due, arrived = due+d, arrived+a
	}
	if arrived == 0 {
		b.Fatal("nothing arrived")
	}
	b.ReportMetric(0, "ns/op") // of no meaning
	b.ReportMetric(most/1e6, "most-Mrec/s")
	b.ReportMetric(rate/1e6, "Mrec/s")
	b.ReportMetric(100*(float64(due)-float64(arrived))/float64(due), "lost-%")
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(arrived), "cpu-ns/rec")
	b.ReportMetric(100*cpu.Seconds()/took.Seconds(), "cpu-%")
	for _, q := range []float64{1, 10, 25, 50, 75, 90, 99, 99.9, 99.99, 100} {
		name := fmt.Sprintf("p%v-µs", q)
		if q == 100 {
			name = "max-µs"
		}
		b.ReportMetric(float64(l.latency.ValueAtPercentile(q))/1e3, name)
	}
	b.ReportMetric(float64(l.late.ValueAtPercentile(50))/1e3, "late-p50-µs")
	b.ReportMetric(float64(l.late.ValueAtPercentile(99))/1e3, "late-p99-µs")
}
