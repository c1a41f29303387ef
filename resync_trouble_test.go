package ipvsync

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
)

// What the transport gives up is sent again.
func TestResyncRepeats(t *testing.T) {
	for _, tc := range []struct {
		name     string
		failures int64
		lost     bool
	}{{"once", 1, false}, {"twice", 2, false}, {"for ever", 1 << 40, true}} {
		t.Run(tc.name, func(t *testing.T) {
			k := &sink{}
			s, err := NewSender(SenderConfig{Shards: 1, OpenTx: k.openTx})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			var left atomic.Int64
			left.Store(tc.failures)
			tx := k.tx(0)
			fail := func(queued int) error {
				if queued > 0 && left.Add(-1) >= 0 {
					tx.giveUp()
				}
				return nil
			}
			tx.fail.Store(&fail)
			conns := benchConns(1000)
			st, err := Resync(t.Context(), s, slices.Values(conns), ResyncConfig{Rate: 1e9, Burst: 1})
			checkResync(t, st)
			if tc.lost {
				if !errors.Is(err, ErrLost) || st.Lost == 0 || st.Lost+st.Sent != st.Records {
					t.Fatalf("%+v, %v", st, err)
				}
				return
			}
			if err != nil || st.Sent != uint64(len(conns)) || st.Repeated == 0 {
				t.Fatalf("%+v, %v", st, err)
			}
			seen := map[encoder.Endpoint]bool{}
			k.mu.Lock()
			defer k.mu.Unlock()
			for _, c := range k.conns {
				seen[c.Client] = true
			}
			if len(seen) != len(conns) {
				t.Errorf("%d connections arrived of %d", len(seen), len(conns))
			}
		})
	}
}

// arrived says how many connections the sink has, each once.
func (k *sink) arrived() int {
	seen := map[encoder.Endpoint]bool{}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.conns {
		seen[c.Client] = true
	}
	return len(seen)
}

// A message that leaves by itself, and is given up before Resync calls Flush, is
// repeated as well: that Flush does not tell of it.
func TestResyncLossBeforeFlush(t *testing.T) {
	k := &sink{}
	s, err := NewSender(SenderConfig{Shards: 1, OpenTx: k.openTx})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	tx := k.tx(0)
	failed := false
	fail := func(queued int) error {
		if queued > 0 && !failed {
			failed = true
			tx.giveUp()
		}
		return nil
	}
	tx.fail.Store(&fail)
	conns := benchConns(200)
	// The source pauses until what it gave has left, when FlushInterval is over.
	st, err := Resync(t.Context(), s, func(yield func(Conn) bool) {
		for i, c := range conns {
			for i == 60 && s.Stats().Dropped[DropTransport] == 0 {
				runtime.Gosched()
			}
			if !yield(c) {
				return
			}
		}
	}, ResyncConfig{Rate: 1e9})
	checkResync(t, st)
	if err != nil || st.Sent != uint64(len(conns)) || st.Repeated == 0 || k.arrived() != len(conns) {
		t.Errorf("%d arrived of %d: %+v, %v", k.arrived(), len(conns), st, err)
	}
}

// What is given up while Resync waits for a full ring is repeated.
func TestResyncLossInFullRing(t *testing.T) {
	k := &sink{}
	s, err := NewSender(SenderConfig{Shards: 1, RingSize: MinRingSize, OpenTx: k.openTx})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	k.block(true)
	tx := k.tx(0)
	var failed atomic.Bool
	fail := func(queued int) error {
		if queued > 0 && !failed.Swap(true) {
			tx.giveUp()
		}
		return nil
	}
	tx.fail.Store(&fail)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for s.Stats().Dropped[DropRingFull] == 0 && t.Context().Err() == nil {
			runtime.Gosched()
		}
		k.block(false)
	}()
	conns := benchConns(5000)
	st, err := Resync(t.Context(), s, slices.Values(conns), ResyncConfig{Rate: 1e9, Burst: 1024})
	<-ended
	checkResync(t, st)
	if err != nil || st.Sent != uint64(len(conns)) || st.Repeated == 0 || st.Waited == 0 || k.arrived() != len(conns) {
		t.Errorf("%d arrived of %d: %+v, %v", k.arrived(), len(conns), st, err)
	}
}

// Nothing is counted twice when ctx ends, or the Sender is closed, while records are repeated.
func TestResyncEndsRepeating(t *testing.T) {
	for _, closed := range []bool{false, true} {
		k := &sink{}
		s, err := NewSender(SenderConfig{Shards: 1, OpenTx: k.openTx})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		tx := k.tx(0)
		fail := func(queued int) error {
			if queued > 0 {
				tx.giveUp()
			}
			return nil
		}
		tx.fail.Store(&fail)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		now := time.Now()
		r := &resync{ctx: ctx, s: s, cfg: ResyncConfig{Rate: 1, Burst: 1}, room: s.shards[0].maxRecord, now: func() time.Time { return now },
			sleep: func(context.Context, time.Duration) error { // before it is repeated
				if closed {
					s.Close()
					return nil
				}
				cancel()
				return ctx.Err()
			}}
		st, err := r.run(slices.Values(benchConns(100)))
		checkResync(t, st)
		if want := map[bool]error{false: context.Canceled, true: ErrClosed}[closed]; !errors.Is(err, want) || st.Records != 40 || st.Sent != 0 {
			t.Errorf("closed %v: %+v, %v", closed, st, err)
		}
	}
}

// What cannot be encoded is counted, told, and left out.
func TestResyncRefuses(t *testing.T) {
	k := &sink{}
	s := newMemSender(t, k, SenderConfig{Shards: 1})
	conns := benchConns(100)
	conns[50] = Conn{}
	st, err := Resync(t.Context(), s, slices.Values(conns), ResyncConfig{Rate: 1e9})
	checkResync(t, st)
	if err != nil || st.Sent != 99 || st.Refused != 1 || !errors.As(st.FirstRefused, new(*encoder.FieldError)) {
		t.Errorf("%+v, %v", st, err)
	}
}

// ctx ends a resync that waits for its time, and one that waits for the network.
func TestResyncEnds(t *testing.T) {
	for _, blocked := range []bool{false, true} {
		k := &sink{}
		s := newMemSender(t, k, SenderConfig{Shards: 1})
		k.block(blocked)
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		conns := func(yield func(Conn) bool) {
			for {
				// Later than the first message: it is waited for from here on.
				if n++; n == 60 || blocked && n == 20 {
					cancel()
				}
				if !yield(flow(n, 1)) {
					return
				}
			}
		}
		st, err := Resync(ctx, s, conns, ResyncConfig{Rate: 41, Burst: 1})
		checkResync(t, st)
		if !errors.Is(err, context.Canceled) || st.Unconfirmed == 0 {
			t.Errorf("blocked %v: %+v, %v", blocked, st, err)
		}
		cancel()
	}
}

func TestResyncClosed(t *testing.T) {
	k := &sink{}
	s := newMemSender(t, k, SenderConfig{Shards: 1})
	n := 0
	conns := func(yield func(Conn) bool) {
		for {
			if n++; n == 20 {
				s.Close()
			}
			if !yield(flow(n, 1)) {
				return
			}
		}
	}
	st, err := Resync(t.Context(), s, conns, ResyncConfig{})
	checkResync(t, st)
	if !errors.Is(err, ErrClosed) || st.Lost != 20 {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestResyncConfig(t *testing.T) {
	k := &sink{}
	s := newMemSender(t, k, SenderConfig{Shards: 1})
	for _, cfg := range []ResyncConfig{{Rate: -1}, {Burst: -1}, {Burst: 1025}} {
		if _, err := Resync(t.Context(), s, slices.Values([]Conn(nil)), cfg); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}
