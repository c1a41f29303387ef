package ipvsync

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
)

// checkResync holds the law of ResyncStats.
func checkResync(t *testing.T, st ResyncStats) {
	t.Helper()
	if st.Records != st.Sent+st.Refused+st.Lost+st.Unconfirmed {
		t.Errorf("records are missing: %+v", st)
	}
}

// mixed is n connections of both families, some with options.
func mixed(t *testing.T, n int) []Conn {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	conns := make([]Conn, n)
	for i := range conns {
		conns[i] = flow(i, uint32(i)+1)
		switch rng.IntN(4) {
		case 0:
			conns[i] = flow6(i, uint32(i)+1)
		case 1:
			conns[i].Flags |= encoder.FlagTemplate
			conns[i].State = encoder.TemplateNone
			var err error
			if conns[i].Options, err = conns[i].Options.AppendPE("sip", make([]byte, 1+rng.IntN(255))); err != nil {
				t.Fatal(err)
			}
		}
	}
	return conns
}

// Everything arrives, unchanged and in order, also where the records of a
// message differ in length and the iterator lends the bytes of options.
func TestResync(t *testing.T) {
	for _, tc := range []struct {
		name          string
		shards, ports int
		conns         []Conn
	}{
		{"nothing", 1, 1, nil},
		{"one", 1, 1, []Conn{flow(1, 1)}},
		{"a message and one", 1, 1, benchConns(41)},
		{"plain", 2, 1, benchConns(5000)},
		{"mixed", 1, 1, mixed(t, 5000)},
		{"mixed over ports", 4, 2, mixed(t, 5000)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := &sink{}
			s := newMemSender(t, k, SenderConfig{Shards: tc.shards, Ports: tc.ports})
			lent := func(yield func(Conn) bool) {
				var room encoder.Options
				for _, c := range tc.conns {
					room = append(room[:0], c.Options...)
					c.Options = room
					if !yield(c) {
						return
					}
					clear(room)
				}
			}
			st, err := Resync(t.Context(), s, lent, ResyncConfig{Rate: 1e9})
			checkResync(t, st)
			if err != nil || st.Sent != uint64(len(tc.conns)) || st.Repeated != 0 {
				t.Fatalf("%+v, %v", st, err)
			}
			k.mu.Lock()
			defer k.mu.Unlock()
			if len(k.conns) != len(tc.conns) {
				t.Fatalf("%d records arrived of %d", len(k.conns), len(tc.conns))
			}
			got := k.conns
			if tc.shards > 1 { // of different flows the order is free
				got = slices.Clone(got)
				slices.SortFunc(got, func(a, b Conn) int { return int(a.Timeout) - int(b.Timeout) })
			}
			want := slices.Clone(tc.conns)
			slices.SortStableFunc(want, func(a, b Conn) int { return int(a.Timeout) - int(b.Timeout) })
			for i := range got {
				if !got[i].Equal(&want[i]) {
					t.Fatalf("record %d is %v, want %v", i, &got[i], &want[i])
				}
			}
			// A message that the next record would not have fitted is thought to end,
			// but the Sender goes on filling it if a shorter one comes.
			if sent := s.Stats().Messages; tc.shards == 1 && (st.Messages < sent || st.Messages > sent+sent/20) {
				t.Errorf("%d messages counted, %d sent", st.Messages, sent)
			}
		})
	}
}

// No more than a burst is ever published without a Flush, whatever the rate.
func TestResyncBurst(t *testing.T) {
	k := &sink{}
	s := newMemSender(t, k, SenderConfig{Shards: 1})
	s.Publish(new(benchConns(1)[0]))
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	const burst = 3
	var last, most uint64
	cfg := ResyncConfig{Rate: 1e9, Burst: burst, Progress: func(st ResyncStats) {
		most, last = max(most, st.Messages-last), st.Messages
	}}
	if _, err := Resync(t.Context(), s, slices.Values(benchConns(4000)), cfg); err != nil {
		t.Fatal(err)
	}
	if most != burst {
		t.Errorf("%d messages between two flushes, want %d", most, burst)
	}
}

// The rate holds on average: this takes as long as it should, at least.
func TestResyncRate(t *testing.T) {
	k := &sink{}
	s := newMemSender(t, k, SenderConfig{Shards: 1})
	const n, rate = 4000, 20000
	start := time.Now()
	if _, err := Resync(t.Context(), s, slices.Values(benchConns(n)), ResyncConfig{Rate: rate}); err != nil {
		t.Fatal(err)
	}
	// Less the burst that a late start may catch up with, and the last message.
	least := time.Duration(n-(DefaultResyncBurst+1)*41) * time.Second / rate
	if took := time.Since(start); took < least {
		t.Errorf("%d records in %v, want %v at least", n, took, least)
	}
}

// A ring that live updates fill is waited for; nothing is lost.
func TestResyncUnderLoad(t *testing.T) {
	k := &sink{}
	s := newMemSender(t, k, SenderConfig{Shards: 1, RingSize: MinRingSize})
	var stop atomic.Bool
	done := make(chan struct{})
	live := flow(1<<20, 1)
	go func() {
		defer close(done)
		for !stop.Load() {
			for range 2 * MinRingSize / encoder.PlainIPv4Size { // more than the ring holds
				_ = s.PublishPriority(&live, StateChange)
			}
			_ = s.Flush(context.Background())
		}
	}()
	conns := benchConns(20000)
	st, err := Resync(t.Context(), s, slices.Values(conns), ResyncConfig{Rate: 1e9})
	stop.Store(true)
	<-done
	checkResync(t, st)
	if err != nil || st.Sent != uint64(len(conns)) {
		t.Fatalf("%+v, %v", st, err)
	}
	t.Logf("waited %d times", st.Waited)
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for i := range k.conns {
		if k.conns[i].Client != live.Client {
			if !k.conns[i].Equal(&conns[n]) {
				t.Fatalf("record %d is %v, want %v", n, &k.conns[i], &conns[n])
			}
			n++
		}
	}
	if n != len(conns) {
		t.Errorf("%d records arrived of %d", n, len(conns))
	}
}
