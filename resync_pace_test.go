package ipvsync

import (
	"context"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
)

// leaves are the messages that left, in order.
type leaves struct {
	at      []time.Duration
	records []int
}

// check holds what docs/resync.md says of them: in any span of time, all but a
// burst of the messages have their time in it.
func (l *leaves) check(t *testing.T, rate, burst int) {
	t.Helper()
	sum := make([]int, len(l.at)+1) // of records before each
	for i, n := range l.records {
		sum[i+1] = sum[i] + n
	}
	for i := range l.at {
		for j := i + burst; j < min(len(l.at), i+4*burst+10); j++ {
			n := int64(sum[j] - sum[i+burst-1])
			least := time.Duration(n/int64(rate))*time.Second + time.Duration(n%int64(rate)*int64(time.Second)/int64(rate))
			// Every restart of the schedule rounds to a nanosecond.
			if span := l.at[j] - l.at[i]; span+time.Duration(j-i) < least {
				t.Fatalf("rate %d, burst %d: messages %d to %d within %v, want %v at least", rate, burst, i, j, span, least)
			}
		}
	}
}

// The schedule over any sequence of delays, of the source and of the network, and
// of messages of any number of records: none leaves before its time, late ones
// catch up, and by no more than a burst.
func TestPace(t *testing.T) {
	for _, tc := range []struct{ rate, burst int }{{50000, 16}, {1, 1}, {7, 3}, {1e9, 1024}, {333333, 1}, {333333, 2}} {
		rng := rand.New(rand.NewPCG(uint64(tc.rate), uint64(tc.burst)))
		start := time.Now()
		now := start
		p := newPace(now, tc.rate, tc.burst)
		stall := p.span(40 * int64(tc.burst))
		var l leaves
		full := 0
		for range 3000 {
			if rng.IntN(10) == 0 { // the source stalls
				now = now.Add(time.Duration(rng.Int64N(int64(3*stall) + 1)))
			}
			if now.Before(p.due()) {
				t.Fatal("nobody waited")
			}
			records := 1
			if rng.IntN(3) > 0 {
				records = 1 + rng.IntN(encoder.MaxRecords)
			}
			p.sent(now, records)
			full++
			l.at, l.records = append(l.at, now.Sub(start)), append(l.records, records)
			if !p.due().After(now) && full < tc.burst {
				continue
			}
			if rng.IntN(10) == 0 { // the network does not take it for so long
				now = now.Add(256 * stall)
				for i := len(l.at) - full; i < len(l.at); i++ {
					l.at[i] = now.Sub(start)
				}
			}
			p.flushed(now, full)
			full = 0
			if due := p.due(); due.After(now) {
				now = due
			}
		}
		l.check(t, tc.rate, tc.burst)
	}
	// Nobody late: after any number of records the schedule is where it should be.
	p := newPace(time.Time{}, 333333, 1)
	for range 1_000_000 {
		p.sent(time.Time{}, 40)
	}
	if got, want := p.due().Sub(time.Time{}), time.Duration(40_000_000)*time.Second/333333; got != want {
		t.Errorf("after 40 million records the schedule is at %v, want %v", got, want)
	}
}

// A source that stalls, with few records to a message or many: the burst limit
// holds on the wire, by a clock that only the test moves.
func TestResyncStalledSource(t *testing.T) {
	data := flow(1, 1)
	data.Flags |= encoder.FlagTemplate
	data.State = encoder.TemplateNone
	var err error
	if data.Options, err = data.Options.AppendPE("sip", make([]byte, 200)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Conn{"IPv4": flow(1, 1), "IPv6": flow6(1, 1), "engine data": data} {
		t.Run(name, func(t *testing.T) {
			var clock atomic.Int64
			var l leaves
			s, err := NewSender(SenderConfig{Shards: 1, FlushInterval: time.Hour, OpenTx: func(_ int, lost func([]byte)) (xsk.Tx, error) {
				return newMemTx(lost, func(message []byte) {
					var d encoder.Decoder
					d.Open(message)
					l.at, l.records = append(l.at, time.Duration(clock.Load())), append(l.records, int(d.Header().Count))
				}), nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			r := &resync{ctx: t.Context(), s: s, cfg: ResyncConfig{Rate: DefaultResyncRate, Burst: DefaultResyncBurst}, room: s.shards[0].maxRecord,
				now: func() time.Time { return start.Add(time.Duration(clock.Load())) },
				sleep: func(_ context.Context, d time.Duration) error {
					clock.Add(int64(d))
					return nil
				},
			}
			const n = 20000
			st, err := r.run(func(yield func(Conn) bool) {
				for i := range n {
					if i%5000 > 4000 && r.count == 0 && i%7 == 0 || i == 0 || i == 3000 && r.count == 0 {
						// What was published leaves before the time goes on.
						if err := s.Flush(t.Context()); err != nil {
							t.Fatal(err)
						}
						clock.Add(int64(200 * time.Millisecond))
					}
					if !yield(c) {
						return
					}
				}
			})
			checkResync(t, st)
			if err := s.Close(); err != nil { // l is the test's from here on
				t.Fatal(err)
			}
			if err != nil || st.Sent != n || len(l.at) != int(st.Messages) {
				t.Fatalf("%d messages left: %+v, %v", len(l.at), st, err)
			}
			l.check(t, DefaultResyncRate, DefaultResyncBurst)
			most, row := 0, 0
			for i := range l.at {
				if row++; i > 0 && l.at[i] != l.at[i-1] {
					row = 1
				}
				most = max(most, row)
			}
			if most != DefaultResyncBurst {
				t.Errorf("%d messages at one moment, want %d after a stall", most, DefaultResyncBurst)
			}
		})
	}
}

func TestRemaining(t *testing.T) {
	for left, want := range map[time.Duration]uint32{
		-time.Hour: 1, 0: 1, 1: 1, time.Second: 1, time.Second + 1: 2, 900 * time.Second: 900,
		(1<<32 - 1) * time.Second: 1<<32 - 1, (1<<32 + 5) * time.Second: 1<<32 - 1,
		math.MaxInt64: 1<<32 - 1, math.MinInt64: 1,
	} {
		if got := remaining(left); got != want {
			t.Errorf("%v left: timeout %d, want %d", left, got, want)
		}
	}
}
