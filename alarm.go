package ipvsync

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync/ring"
)

// alarm wakes a transmit loop, and only if it sleeps, so that a producer pays
// one load of a word that seldom changes.
//
// The loop announces that it goes to sleep, then looks at the rings once more,
// then sleeps; a producer publishes, then looks at the announcement. At least
// one of the two must see the other, or a record would be left lying. For that,
// each side's store must come before its load. The loop has all the time in the
// world for that, the producer has not: its publishing store is a plain one
// (ring.PublishIsFence). So the loop, between its two steps, has the kernel
// make every running thread of the process pass a memory barrier: membarrier(2).
type alarm struct {
	state atomic.Uint32
	bell  chan struct{} // capacity 1; a token may be stale, the loop then turns once for nothing
}

// States of a loop. Who announces: the loop. Who withdraws: the loop, or one
// producer by compare-and-swap.
const (
	awake   = iota // turning; will see whatever is published
	napping        // a message is open; wake it only when a ring fills up
	asleep         // wake it for anything
)

func newAlarm() alarm { return alarm{bell: make(chan struct{}, 1)} }

// filling is what an alarm asks of a ring.
type filling interface {
	Len() int
	Cap() int
}

// wake is called by a producer that has published into r and then found the
// loop in another state than awake.
func (a *alarm) wake(state uint32, r filling) {
	if state == napping && 2*r.Len() < r.Cap() {
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

// announce says that the loop is about to sleep. When it returns, whatever was
// published by a producer that did not see it can be seen by the loop. It
// returns false if that cannot be had: then the loop must not sleep for long.
func (a *alarm) announce(state uint32) bool {
	a.state.Store(state)
	return ring.PublishIsFence || membarrier()
}

// Commands of membarrier(2), include/uapi/linux/membarrier.h, Linux 4.14.
const (
	membarrierPrivateExpedited         = 1 << 3
	membarrierRegisterPrivateExpedited = 1 << 4
)

// membarrierRegistered says whether the kernel offers barriers to this process.
var membarrierRegistered = sync.OnceValue(func() bool {
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierRegisterPrivateExpedited, 0, 0)
	return errno == 0
})

func membarrier() bool {
	if !membarrierRegistered() {
		return false
	}
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierPrivateExpedited, 0, 0)
	return errno == 0
}
