package xsk

import (
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// hookedWaiter calls functions before and after each wait.
type hookedWaiter struct {
	waiter
	before, after func()
}

func (w *hookedWaiter) wait(end time.Time, try func() bool) (ok, woken bool, err error) {
	w.before()
	defer w.after()
	return w.waiter.wait(end, try)
}

// TestXDPCloseAfterWait has Close come between the end of a wait and the return of
// Receive: what the wait has taken, and counted, is delivered.
func TestXDPCloseAfterWait(t *testing.T) {
	a, b := xsktest.VethPair(t)
	cfg := XDPConfig{Group: group4, Port: port}
	tx, rx := openXDPTx(t, a, cfg), openXDPRx(t, b, cfg)
	closed := make(chan error, 1)
	rx.waiter = &hookedWaiter{waiter: rx.waiter,
		before: func() { sendAll(t, tx, []byte("last")) },
		after: func() {
			go func() { closed <- rx.Close() }()
			waitFor(t, rx.closed.Load)
		},
	}
	batch, err := rx.Receive(patience)
	if err != nil || len(batch) != 1 || string(batch[0].Payload) != "last" {
		t.Errorf("%d messages, %v; %+v", len(batch), err, rx.Stats())
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	rx.Release()
	if _, err := rx.Receive(0); err != ErrClosed {
		t.Errorf("after Close: %v", err)
	}
	if rx.queues[0].umem.mem != nil {
		t.Error("the packet memory is still mapped")
	}
}

// TestXDPRxWakesDriver: a driver that asks for a wake-up after the last refill gets it
// from whoever is about to wait.
func TestXDPRxWakesDriver(t *testing.T) {
	_, b := xsktest.VethPair(t)
	rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port})
	q := rx.queues[0].q
	var flags uint32
	woken := 0
	q.fill.flags, q.wake = &flags, func() { woken++ }
	for range 2 {
		if _, err := rx.Receive(time.Nanosecond); err != nil {
			t.Fatal(err)
		}
	}
	if woken != 0 {
		t.Errorf("woken %d times, and had not asked", woken)
	}
	atomic.StoreUint32(&flags, unix.XDP_RING_NEED_WAKEUP)
	if _, err := rx.Receive(time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if woken != 1 {
		t.Errorf("woken %d times, want 1", woken)
	}
}
