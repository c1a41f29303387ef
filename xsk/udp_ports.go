package xsk

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// udpRxPorts is an Rx over several ports, with a UDP socket for each.
type udpRxPorts struct {
	// mu is held by Receive all along, as in UDPRx. What follows belongs to the
	// holder.
	mu        sync.Mutex
	rx        []*UDPRx
	epoll     int // the sockets, by their places in rx; -1 when closed
	waiter    waiter
	orWait    func() bool // takeOrWait
	ready     []unix.EpollEvent
	has       []bool // by port, what ready said
	turn      int    // port to look at first
	lent      *UDPRx // whose batch is lent
	last      *UDPRx // that had something; it may have more of it, which no event shows
	failed    error  // of the last take
	lastCheck time.Time

	closed atomic.Bool

	syscalls, waits atomic.Uint64 // beside those of the ports; Receive is their only writer
}

// openUDPRx opens a receiver for the ports of cfg up to last.
func openUDPRx(cfg UDPConfig, last int) (_ Rx, err error) {
	if last <= cfg.Port {
		return rxOrNil(OpenUDPRx(cfg))
	}
	r := &udpRxPorts{lastCheck: time.Now(), epoll: -1}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	var sockets []int
	for port := cfg.Port; port <= last; port++ {
		c := cfg
		c.Port = port
		rx, err := openUDPRxSocket(c)
		if err != nil {
			return nil, err
		}
		r.rx = append(r.rx, rx)
		sockets = append(sockets, rx.fd)
	}
	if r.epoll, err = newEpoll(sockets); err == nil {
		r.waiter, err = newWaiter(cfg.OwnThread, false, r.epoll)
	}
	if err != nil {
		return nil, &Error{Op: opOpenRx, Interface: cfg.Interface, Err: explain("watch the sockets", err)}
	}
	r.orWait = r.takeOrWait
	r.ready = make([]unix.EpollEvent, len(sockets))
	r.has = make([]bool, len(sockets))
	return r, nil
}

// rxOrNil keeps a nil *UDPRx from becoming an Rx that is not nil.
func rxOrNil(rx *UDPRx, err error) (Rx, error) {
	if err != nil {
		return nil, err
	}
	return rx, nil
}

// Receive implements Rx: the batch of one port, each in turn.
func (r *udpRxPorts) Receive(wait time.Duration) ([]Datagram, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed.Load() {
		return nil, ErrClosed
	}
	r.release()
	if r.last != nil && r.last.unsplit() {
		if batch, err := r.last.Receive(0); len(batch) > 0 || err != nil {
			r.lent = r.last
			return batch, err
		}
	}
	var end time.Time // of the wait
	if wait > 0 {
		end = time.Now().Add(wait)
	}
	for {
		took, woken, err := r.await(wait, end)
		now := time.Now()
		if !took && err == nil && now.Sub(r.lastCheck) >= rxLiveness {
			// Nothing happened for long: each looks after its counters and its link.
			r.lastCheck = now
			took = r.takeOf(func(int) bool { return true })
		}
		switch {
		case took:
			return r.batch(), r.failed
		case r.closed.Load():
			return nil, ErrClosed
		case err != nil:
			return nil, &Error{Op: "wait to receive", Interface: r.rx[0].info.Interface, Err: err}
		case woken || wait >= 0 && !now.Before(end):
			return nil, nil
		}
	}
}

// await is as that of UDPRx.
func (r *udpRxPorts) await(wait time.Duration, end time.Time) (took, woken bool, err error) {
	if wait == 0 {
		return r.take(), false, nil
	}
	look := r.lastCheck.Add(rxLiveness)
	if wait < 0 || look.Before(end) {
		end = look
	}
	return r.waiter.wait(end, r.orWait)
}

// take takes the batch of a port that has something, or finds out in failed why it
// cannot; false if none has.
func (r *udpRxPorts) take() bool {
	r.syscalls.Store(r.syscalls.Load() + 1)
	n := epollReady(r.epoll, r.ready)
	if n == 0 {
		return false
	}
	clear(r.has)
	for _, e := range r.ready[:n] {
		r.has[e.Fd] = true
	}
	return r.takeOf(func(at int) bool { return r.has[at] })
}

// takeOf takes from the first port that has something, of those that are worth a look.
func (r *udpRxPorts) takeOf(worth func(at int) bool) bool {
	for i := range r.rx {
		at := (r.turn + i) % len(r.rx)
		if !worth(at) {
			continue
		}
		// Where all that came was dropped there may be more, of which no event tells.
		if batch, err := r.rx[at].Receive(0); len(batch) > 0 || err != nil || r.rx[at].used > 0 {
			r.turn, r.lent, r.last, r.failed = at+1, r.rx[at], r.rx[at], err
			return true
		}
	}
	return false
}

// takeOrWait is take, for the waiter: false means that it waits now.
func (r *udpRxPorts) takeOrWait() bool {
	if r.take() {
		return true
	}
	r.waits.Store(r.waits.Load() + 1)
	return false
}

// batch is what the last take took.
func (r *udpRxPorts) batch() []Datagram { return r.lent.batch }

// Release implements Rx.
func (r *udpRxPorts) Release() {
	r.mu.Lock()
	r.release()
	r.mu.Unlock()
}

func (r *udpRxPorts) release() {
	if r.lent != nil {
		r.lent.Release()
		r.lent = nil
	}
}

// Wake implements Rx.
func (r *udpRxPorts) Wake() { r.waiter.wake() }

// Close implements Rx.
func (r *udpRxPorts) Close() error {
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
	if r.epoll >= 0 {
		unix.Close(r.epoll)
		r.epoll = -1
	}
	var first error
	for _, rx := range r.rx {
		if err := rx.Close(); first == nil {
			first = err
		}
	}
	return first
}

// Stats implements Rx: the sum of all ports.
func (r *udpRxPorts) Stats() RxStats {
	sum := RxStats{Syscalls: r.syscalls.Load(), Waits: r.waits.Load()}
	for _, rx := range r.rx {
		sum = sum.Plus(rx.Stats())
	}
	return sum
}
