package ipvsync

import (
	"sync/atomic"

	"github.com/ipvsync/ipvsync/ring"
)

// alarm wakes the transmit loop, and only if it sleeps, so that a producer pays
// one load of a word that seldom changes.
//
// The loop announces that it goes to sleep, then looks at the rings once more,
// then sleeps; a producer publishes, then looks at the announcement. Go's
// atomics are sequentially consistent, so at least one of the two sees the
// other, and no record is left lying.
type alarm struct {
	state atomic.Uint32
	bell  chan struct{} // capacity 1; a token may be stale, the loop then turns once for nothing
}

// States of the loop. Who announces: the loop. Who withdraws: the loop, or one
// producer by compare-and-swap.
const (
	awake   = iota // turning; will see whatever is published
	napping        // a message is open; wake it only when a ring fills up
	asleep         // wake it for anything
)

func newAlarm() alarm { return alarm{bell: make(chan struct{}, 1)} }

// published is called by a producer after it has published into r.
func (a *alarm) published(r *ring.SPSC) {
	state := a.state.Load()
	if state == awake || state == napping && 2*r.Len() < r.Cap() {
		return
	}
	if a.state.CompareAndSwap(state, awake) {
		a.ring()
	}
}

// ring wakes the loop whatever it does.
func (a *alarm) ring() {
	select {
	case a.bell <- struct{}{}:
	default:
	}
}
