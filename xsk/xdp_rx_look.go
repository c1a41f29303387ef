package xsk

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// What may change about the device of a receiver, and would make it miss messages
// without a trace. It is looked at once a second.

// lookAround follows the addresses, and finds a receiver outdated, as ErrDeviceGone,
// if it has to be opened anew: for more queues than it has sockets, if it is to
// receive from all, and for an MTU for which its frames were not made.
func (r *XDPRx) lookAround(now time.Time) error {
	if now.Sub(r.lastLook) < rxLiveness || r.outdated != nil {
		return nil
	}
	r.lastLook = now
	outdated := func(format string, args ...any) error {
		return &Error{Op: "receive", Interface: r.info.Interface,
			Err: fmt.Errorf("%w as it was: %s: open the receiver anew", ErrDeviceGone, fmt.Sprintf(format, args...))}
	}
	if s, err := r.nl.linkState(r.info.Index); err == nil && s.mtu > r.info.MTU {
		return outdated("its MTU was %d, now %d", r.info.MTU, s.mtu)
	}
	if r.allQueues {
		if facts, err := r.genl.deviceFacts(r.info.Index); err == nil && facts.RxQueues > len(r.queues) {
			return outdated("it received by %d queues, now by %d", len(r.queues), facts.RxQueues)
		}
	}
	return r.readdress()
}

// takeNoMore detaches the program of a receiver that err finds outdated, if it is
// the receiver's own, so that what lies in the rings can be delivered before Receive
// tells the error: closing the receiver would lose that without a counter.
func (r *XDPRx) takeNoMore(err error) bool {
	if r.prog == nil || !errors.Is(err, ErrDeviceGone) {
		return false
	}
	_ = r.prog.Close() // Close does it again
	r.outdated = err
	return true
}

// readdress takes messages to the addresses that there are now, if the receiver
// takes unicast messages by a program of its own.
func (r *XDPRx) readdress() error {
	if !r.unicast {
		return nil
	}
	local, err := r.nl.addresses(r.info.Index)
	if err != nil || len(local) == 0 || slices.Equal(local, r.filter.local) {
		return nil // without any, those of before may come back
	}
	if err = checkLocals(local); err == nil {
		err = r.prog.setLocal(local)
	}
	if err != nil {
		return &Error{Op: "follow the addresses", Interface: r.info.Interface, Err: err}
	}
	r.filter.local = local
	return nil
}
