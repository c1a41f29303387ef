package xsk

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// XDPRx is an Rx over AF_XDP sockets, one for each queue of the device. See Rx
// for who may use it. OpenXDPRx makes one; the zero value is not usable.
//
//	device ─► XDP program ─┬─ queue 0 ─► RX ring ─► check headers ─┬─► batch
//	                       └─ queue 1 ─► RX ring ─► check headers ─┘
//
// Messages of one queue come in order. A device sends all packets of one source
// and destination to one queue, unless it is told otherwise.
type XDPRx struct {
	cfg    XDPConfig
	info   XDPInfo
	filter rxFilter

	// mu is held by Receive all along, so that Close lets the sockets go only
	// when nobody uses them. What follows belongs to the holder.
	mu        sync.Mutex
	prog      *Program // our own, or nil
	member    int      // ordinary socket that holds the membership of the group
	link      *link
	nl, genl  *nlConn // to look at what may change
	unicast   bool    // the program takes the addresses that there are
	allQueues bool    // no queues were named
	lastLook  time.Time
	outdated  error // to be told when the rings are empty
	queues    []xdpRxQueue
	start     int // queue to begin with
	batch     []Datagram
	lent      []lentFrame
	lastCheck time.Time
	waiter    waiter
	collects  func() bool // collect, for the waiter
	stats     unix.XDPStatistics
	n         RxStats
	countedAt uint64 // messages when drops were last counted
	waitedAt  uint64 // messages when Receive last waited
	torn      bool   // Close has let the sockets go

	closed atomic.Bool // set once by Close; Receive looks at it after each wait

	pub shown[RxStats]
}

// xdpRxQueue is one socket of a receiver.
type xdpRxQueue struct {
	*Socket
	q     *RxQueue
	fd    int
	drops uint64 // by the kernel, as last counted
}

// lentFrame is a frame whose message is in the batch.
type lentFrame struct {
	q     *RxQueue
	frame uint32
}

// Info tells what was chosen and what was got. Safe from any goroutine.
func (r *XDPRx) Info() XDPInfo { return r.info }

// KernelStats returns the kernel's counters of the socket of each queue, in the
// order of Info().Queues. Safe from any goroutine, also after Close.
func (r *XDPRx) KernelStats() []KernelStats {
	all := make([]KernelStats, len(r.queues))
	for i := range r.queues {
		all[i] = r.queues[i].Stats()
	}
	return all
}

// Receive implements Rx.
func (r *XDPRx) Receive(wait time.Duration) ([]Datagram, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed.Load() {
		return nil, ErrClosed
	}
	defer r.publish()
	r.release()
	var start time.Time
	for {
		got := r.collect()
		if !got && r.cfg.BusyPoll.Time > 0 && r.busyPoll() {
			got = r.collect()
		}
		if got {
			if r.n.Messages-r.countedAt >= countEvery {
				r.countDrops() // there may be no quiet moment for long
				if err := r.lookAround(time.Now()); err != nil {
					r.takeNoMore(err) // else a quiet moment will tell
				}
			}
			return r.batch, nil
		}
		r.countDrops()
		if err := r.outdated; err != nil {
			r.outdated = nil
			return nil, err
		}
		now := time.Now()
		if err := r.lookAround(now); err != nil {
			if r.takeNoMore(err) {
				continue
			}
			return nil, err
		}
		if start.IsZero() {
			start = now
		}
		if now.Sub(r.lastCheck) >= rxLiveness {
			r.lastCheck = now
			if err := r.link.check(r.member); err != nil {
				r.n.LinkDown++
				return nil, err
			}
		}
		left := rxLiveness
		if wait >= 0 {
			if left = min(left, wait-now.Sub(start)); left <= 0 {
				return nil, nil
			}
		}
		woken, err := r.wait(now, left)
		switch {
		case len(r.batch) > 0: // counted, and so delivered, also if Close was called
			continue
		case r.closed.Load():
			return nil, ErrClosed
		case err != nil:
			return nil, err
		case woken:
			return nil, nil
		}
	}
}

// busyPoll runs the driver's polling loop for each queue, and reports whether
// that found something.
func (r *XDPRx) busyPoll() (found bool) {
	for i := range r.queues {
		receiveKick(r.queues[i].fd)
		r.n.Syscalls++
		found = found || r.queues[i].q.Ready() > 0
	}
	return found
}

// A receiver that got napAfter messages or more since it last waited is in the
// midst of a stream. It sleeps for napTime, unseen by its sockets: to wake it for
// every few packets costs whoever delivers them, on a virtual link the sender,
// more than the packets do.
const (
	napAfter = 16
	napTime  = 20 * time.Microsecond // and what the kernel adds, some 50: PR_SET_TIMERSLACK
)

// wait waits until the queues have something, which it collects, or Wake or Close,
// or d is over. A deleted device wakes nobody: d is never more than rxLiveness.
func (r *XDPRx) wait(now time.Time, d time.Duration) (woken bool, err error) {
	inMidstream := r.n.Messages-r.waitedAt >= napAfter
	r.waitedAt = r.n.Messages
	r.n.Waits++
	r.publish()
	if inMidstream && r.cfg.BusyPoll.Time == 0 {
		r.waiter.pause()
		r.n.Syscalls++
		nap := unix.NsecToTimespec(int64(min(d, napTime)))
		_, _ = ppoll(nil, &nap) // EINTR: no matter
		return false, nil
	}
	for i := range r.queues {
		r.queues[i].q.wakeDriver() // it may have asked after the last refill
	}
	_, woken, err = r.waiter.wait(now.Add(d), r.collects)
	if err != nil {
		err = &Error{Op: "wait to receive", Interface: r.info.Interface, Err: err}
	}
	return woken, err
}

// collect fills the batch from the queues, beginning with another one each time, and
// reports whether there is something in it.
func (r *XDPRx) collect() bool {
	for i := range r.queues {
		at := r.start + i
		if at >= len(r.queues) {
			at -= len(r.queues)
		}
		q := r.queues[at].q
		refused := false
		for len(r.batch) < cap(r.batch) {
			frame, packet, ok := q.Take()
			if !ok {
				break
			}
			payload, src, v := r.filter.parse(packet)
			if !r.accept(v, len(payload)) {
				q.Put(frame)
				refused = true
				continue
			}
			r.batch = append(r.batch, Datagram{Payload: payload, Src: src})
			r.lent = append(r.lent, lentFrame{q, frame})
			r.n.Messages++
			r.n.Bytes += uint64(len(payload))
		}
		if refused || q.invalid > 0 {
			q.Refill()
			r.n.Errors += q.invalid
			q.invalid = 0
		}
	}
	if r.start++; r.start >= len(r.queues) {
		r.start = 0
	}
	return len(r.batch) > 0
}

// accept counts what was found out about a packet, and reports whether its
// message is delivered.
func (r *XDPRx) accept(v verdict, size int) bool {
	switch v {
	case verdictOK:
	case verdictUnfinished:
		r.n.Unfinished++
	case verdictForeign:
		r.n.Foreign++
		return false
	case verdictLength:
		r.n.BadLength++
		return false
	case verdictIPChecksum:
		r.n.BadHeader++
		return false
	case verdictFragment:
		r.n.Fragments++
		return false
	case verdictUDPChecksum:
		r.n.BadChecksum++
		return false
	case verdictNoChecksum:
		r.n.NoChecksum++
		return false
	}
	if size > r.cfg.MaxPayload {
		r.n.Truncated++
		return false
	}
	return true
}

// countEvery is how many messages may go by until drops are counted, when there
// is no pause.
const countEvery = 4096

// countDrops adds what the kernel has dropped since the last time.
func (r *XDPRx) countDrops() {
	r.countedAt = r.n.Messages
	for i := range r.queues {
		q := &r.queues[i]
		r.n.Syscalls++
		if xdpStatistics(q.fd, &r.stats) == nil {
			drops := r.stats.Rx_dropped + r.stats.Rx_ring_full
			r.n.SocketDrops += drops - q.drops
			q.drops = drops
		}
	}
}

// Release implements Rx.
func (r *XDPRx) Release() {
	r.mu.Lock()
	r.release()
	r.mu.Unlock()
}

func (r *XDPRx) release() {
	if r.closed.Load() && r.torn {
		r.batch, r.lent = r.batch[:0], r.lent[:0]
		r.unmap()
		return
	}
	var last *RxQueue
	for i := range r.lent {
		l := &r.lent[i]
		l.q.Put(l.frame)
		if last != nil && last != l.q {
			last.Refill()
		}
		last = l.q
	}
	if last != nil {
		last.Refill()
	}
	r.batch, r.lent = r.batch[:0], r.lent[:0]
}

// Wake implements Rx.
func (r *XDPRx) Wake() { r.waiter.wake() }

// Close implements Rx. Its store to closed comes before it ends the wait, and pairs
// with the load in Receive after that. The packet memory goes with the Release of
// the last batch, or at once.
func (r *XDPRx) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	if r.waiter != nil {
		r.waiter.wake()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiter != nil {
		r.waiter.close()
	}
	var first error
	note := func(err error) {
		if err != nil && first == nil {
			first = err
		}
	}
	if len(r.queues) > 0 && r.info.Index != 0 {
		r.countDrops()
	}
	// The program first: a packet that it passes is no loss, and one that
	// reaches a socket that nobody reads is.
	if r.prog != nil {
		note(r.prog.Close())
	}
	for i := range r.queues {
		note(r.queues[i].Close())
		r.queues[i].q = nil
	}
	r.torn = true
	if len(r.lent) == 0 {
		r.unmap()
	}
	r.nl.close()
	r.genl.close()
	if r.member >= 0 { // leaves the group
		if err := unix.Close(r.member); err != nil {
			note(&Error{Op: "close AF_XDP receiver", Interface: r.info.Interface, Err: err})
		}
		r.member = -1
	}
	r.publish()
	return first
}

func (r *XDPRx) unmap() {
	for i := range r.queues {
		r.queues[i].Unmap()
	}
}

// publish shows the counters to other goroutines.
func (r *XDPRx) publish() { r.pub.set(&r.n) }

// Stats implements Rx.
func (r *XDPRx) Stats() RxStats { return r.pub.get() }

var _ Rx = (*XDPRx)(nil)
