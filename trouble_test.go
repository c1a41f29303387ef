package ipvsync

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
)

// What the engine does when the transport does not do what it should.

// Under steady back-pressure, with messages always pending, Sent goes on.
func TestSentUnderBackPressure(t *testing.T) {
	k := &sink{}
	s := newMemSender(t, k, SenderConfig{Shards: 1, RingSize: 1 << 14})
	k.tx(0).atOnce.Store(1)
	deadline := time.Now().Add(20 * time.Second)
	// What is queued fits the transport's frames. Stats is not of one moment: between
	// what it reads, no more can leave than the next Stats shows.
	const room = 8 * 40
	last := s.Stats()
	for n := 0; last.Sent < 5000; n++ {
		c := flow(n, 1)
		_ = s.Publish(&c) // mostly the ring is full
		st := s.Stats()
		if st.Sent < last.Sent || last.Queued > room+st.Sent-last.Sent {
			t.Fatalf("%+v, then %+v", last, st)
		}
		last = st
		if time.Now().After(deadline) {
			t.Fatalf("%d updates offered: %+v", n, st)
		}
	}
}

// What the transport gives up is counted, and Flush says so.
func TestLossIsToldByFlush(t *testing.T) {
	k := &sink{}
	s := newMemSender(t, k, SenderConfig{Shards: 1, FlushInterval: time.Hour})
	failWith := func(err error) {
		fail := func(n int) error {
			if n == 0 {
				return nil
			}
			return err
		}
		k.tx(0).fail.Store(&fail)
	}
	publish := func(n int) {
		for i := range n {
			c := flow(i, 1)
			if err := s.Publish(&c); err != nil {
				t.Fatal(err)
			}
		}
	}
	failWith(errBroken)
	publish(100)
	if err := s.Flush(t.Context()); !errors.Is(err, ErrLost) || !errors.Is(err, errBroken) {
		t.Errorf("Flush: %v", err)
	}
	st := s.Stats()
	checkSender(t, st)
	if st.Dropped[DropTransport] != 100 || st.Sent != 0 {
		t.Errorf("%+v", st)
	}
	// Too long for the interface: lost too, but the transport is opened anew.
	failWith(errors.Join(errBroken, xsk.ErrMTU))
	publish(10) // one message
	if err := s.Flush(t.Context()); !errors.Is(err, ErrLost) {
		t.Errorf("Flush: %v", err)
	}
	publish(50)
	if err := s.Flush(t.Context()); err != nil {
		t.Errorf("Flush: %v", err)
	}
	if st := s.Stats(); st.Sent != 50 || st.Reopened != 1 {
		t.Errorf("%+v", st)
	}
	if err := s.Close(); !errors.Is(err, ErrLost) {
		t.Errorf("Close does not tell what was lost: %v", err)
	}
	s.closeErr = nil // as expected; for the cleanup
}

// errBroken is for messages that a memTx gives up.
var errBroken = errors.New("broken")

// A device that vanishes and comes back smaller: what fits is sent, what does
// not is counted, and no empty message leaves.
func TestReopenWithSmallerMessages(t *testing.T) {
	k := &sink{sizes: []int{encoder.DefaultMaxSize, 100}}
	s := newMemSender(t, k, SenderConfig{Shards: 1})
	gone := func(int) error { return xsk.ErrDeviceGone }
	k.tx(0).fail.Store(&gone)
	short, long := flow(1, 1), flow(2, 1)
	var err error
	if long.Options, err = long.Options.AppendPE("sip", make([]byte, 150)); err != nil {
		t.Fatal(err)
	}
	const rounds = 50
	for range rounds {
		for _, c := range []*Conn{&short, &long} {
			if err := s.Publish(c); err != nil {
				t.Fatal(err)
			}
		}
	}
	ctx := t.Context()
	if err := s.Flush(ctx); !errors.Is(err, ErrLost) {
		t.Errorf("Flush: %v", err)
	}
	st := s.Stats()
	checkSender(t, st)
	if st.Reopened != 1 || st.Sent == 0 || st.Sent+st.Dropped[DropTransport] != 2*rounds || k.empty.Load() != 0 {
		t.Errorf("%d empty messages: %+v", k.empty.Load(), st)
	}
	// It is well again, and does not spin.
	for s.ports[0].alarm.state.Load() != asleep {
		runtime.Gosched()
	}
	before := s.Stats().Ports[0].Turns
	for busy := time.Now(); time.Since(busy) < 20*time.Millisecond; {
		runtime.Gosched()
	}
	if after := s.Stats().Ports[0].Turns; after != before {
		t.Errorf("%d turns while there was nothing to do", after-before)
	}
	_ = s.Close()
	s.closeErr = nil
}

// A message that stayed open without a record does not hold up the next one.
func TestEmptyOpenMessage(t *testing.T) {
	k := &sink{sizes: []int{encoder.DefaultMaxSize, 100}}
	s := newMemSender(t, k, SenderConfig{Shards: 1})
	gone := func(int) error { return xsk.ErrDeviceGone }
	k.tx(0).fail.Store(&gone)
	short, long := flow(1, 1), flow(2, 1)
	var err error
	if long.Options, err = long.Options.AppendPE("sip", make([]byte, 150)); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(&short); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	until := func(what string, is func(SenderStats) bool) {
		for !is(s.Stats()) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %+v", what, s.Stats())
			}
			runtime.Gosched()
		}
	}
	until("reopened", func(st SenderStats) bool { return st.Reopened == 1 })
	if err := s.Publish(&long); err != nil {
		t.Fatal(err)
	}
	// Lost are the long one and what lay in the old transport.
	until("long one dropped", func(st SenderStats) bool { return st.Sent+st.Dropped[DropTransport] == 2 })
	for s.ports[0].alarm.state.Load() != asleep {
		runtime.Gosched()
	}
	sent := s.Stats().Sent
	if err := s.Publish(&short); err != nil {
		t.Fatal(err)
	}
	until("sent without Flush", func(st SenderStats) bool { return st.Sent == sent+1 })
	_ = s.Close()
	s.closeErr = nil
}

// What was merged in a window that never left is counted, too.
func TestMergedAtClose(t *testing.T) {
	k := &sink{}
	s := newMemSender(t, k, SenderConfig{Shards: 1, Coalesce: minWindow, CloseTimeout: 20 * time.Millisecond})
	k.block(true)
	n := uint64(0)
	publish := func(f int) {
		c := flow(f, uint32(n)+1)
		if err := s.Publish(&c); err != nil {
			t.Fatal(err)
		}
		n++
	}
	// One message after the other, until the transport has no frame.
	deadline := time.Now().Add(20 * time.Second)
	for f := 0; s.Stats().Messages < 8; f++ {
		publish(f)
		for taken := n; s.Stats().Shards[0].Taken < taken || s.Stats().Messages < min(uint64(f+1), 8); {
			if time.Now().After(deadline) {
				t.Fatalf("%+v", s.Stats())
			}
			runtime.Gosched()
		}
	}
	for range 1000 {
		publish(1 << 20)
	}
	_ = s.Close()
	s.closeErr = nil
	if st := s.Stats(); st.Published != n || st.Coalesced < 900 {
		t.Errorf("%d published: %+v", n, st)
	}
}

// closingTx notes that it was closed.
type closingTx struct {
	*memTx
	closed bool
}

func (c *closingTx) Close() error {
	c.closed = true
	return c.memTx.Close()
}

// The old transport is closed before the new one is opened: an AF_XDP queue has
// room for one.
func TestReopenNeedsTheQueue(t *testing.T) {
	k := &sink{}
	var old *closingTx
	s, err := NewSender(SenderConfig{Shards: 1, OpenTx: func(port int, lost func([]byte)) (xsk.Tx, error) {
		if old != nil && !old.closed {
			return nil, xsk.ErrQueueBusy
		}
		tx, err := k.openTx(port, lost)
		old = &closingTx{memTx: tx.(*memTx)}
		return old, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	gone := func(int) error { return xsk.ErrBroken }
	k.tx(0).fail.Store(&gone)
	deadline := time.Now().Add(20 * time.Second)
	for n := 0; s.Stats().Sent == 0; n++ {
		c := flow(n, 1)
		_ = s.Publish(&c)
		if time.Now().After(deadline) {
			t.Fatalf("%+v", s.Stats())
		}
		runtime.Gosched()
	}
	_ = s.Close()
	checkSender(t, s.Stats())
}

// Callers of Flush that gave up while the link was down hold nothing up, and an
// error that is over is not told any more.
func TestFlushGivenUp(t *testing.T) {
	k := &sink{}
	s := newMemSender(t, k, SenderConfig{Shards: 1})
	down := func(int) error { return xsk.ErrLinkDown }
	k.tx(0).fail.Store(&down)
	c := flow(1, 1)
	if err := s.Publish(&c); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if err := s.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, xsk.ErrLinkDown) {
			t.Errorf("%v", err)
		}
		cancel()
	}
	k.tx(0).fail.Store(nil)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.ports[0].lastError(); err != nil {
		t.Errorf("%v, after it is well again", err)
	}
}
