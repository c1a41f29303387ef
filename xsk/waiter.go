package xsk

import "time"

// A waiter lets one goroutine wait for sockets, which stay with its maker and are
// closed after it.
type waiter interface {
	// wait calls try until that is ok: at once, and whenever a socket may have
	// something. It ends before that at the time end, and by wake. One goroutine may
	// wait at a time.
	wait(end time.Time, try func() bool) (ok, woken bool, err error)

	// wake ends the wait under way, or the next one. Safe from any goroutine, also
	// after close.
	wake()

	// pause is called by a goroutine that rests otherwise until its next wait.
	pause()

	// close may be called when nobody waits.
	close()
}

// newWaiter makes a waiter for a goroutine with a thread of its own, or without.
func newWaiter(ownThread, pauses bool, sockets ...int) (waiter, error) {
	var w waiter
	var err error
	switch {
	case ownThread:
		w, err = newThreadWaiter(sockets)
	case pauses || len(sockets) != 1:
		w, err = pollAll(sockets)
	default:
		w, err = pollOne(sockets[0])
	}
	if err != nil {
		return nil, err
	}
	return w, nil
}
