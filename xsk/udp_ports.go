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
	mu    sync.Mutex
	rx    []*UDPRx
	poll  []unix.PollFd // the sockets in the order of rx, and the event
	turn  int           // port to look at first
	count [8]byte       // what is read from the event
	lent  *UDPRx        // whose batch is lent
	last  *UDPRx        // that had something; it may have more of it, which no poll shows

	closed atomic.Bool
	wakeMu sync.Mutex
	event  int // eventfd, -1 when closed

	syscalls, waits atomic.Uint64 // of the polls; Receive is their only writer
}

// openUDPRx opens a receiver for the ports of cfg up to last.
func openUDPRx(cfg UDPConfig, last int) (_ Rx, err error) {
	if last <= cfg.Port {
		return rxOrNil(OpenUDPRx(cfg))
	}
	r := &udpRxPorts{event: -1}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	for port := cfg.Port; port <= last; port++ {
		c := cfg
		c.Port = port
		rx, err := OpenUDPRx(c)
		if err != nil {
			return nil, err
		}
		r.rx = append(r.rx, rx)
		r.poll = append(r.poll, unix.PollFd{Fd: int32(rx.fd), Events: unix.POLLIN})
	}
	if r.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		r.event = -1
		return nil, &Error{Op: opOpenRx, Interface: cfg.Interface, Err: explain("make an eventfd", err)}
	}
	r.poll = append(r.poll, unix.PollFd{Fd: int32(r.event), Events: unix.POLLIN})
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
	start := time.Now()
	left := time.Duration(0) // first a look at all, without waiting
	for {
		woken, err := r.ppoll(left)
		switch {
		case r.closed.Load():
			return nil, ErrClosed
		case err != nil:
			return nil, err
		}
		for i := range r.rx {
			at := (r.turn + i) % len(r.rx)
			if r.poll[at].Revents == 0 && left < rxLiveness {
				continue
			}
			// Ready, or nothing happened for long: it looks after its counters
			// and its link.
			if batch, err := r.rx[at].Receive(0); len(batch) > 0 || err != nil {
				r.turn, r.lent, r.last = at+1, r.rx[at], r.rx[at]
				return batch, err
			}
		}
		left = rxLiveness
		if wait >= 0 {
			left = min(left, wait-time.Since(start))
		}
		if woken || left <= 0 {
			return nil, nil
		}
	}
}

// ppoll waits for a socket or the event.
func (r *udpRxPorts) ppoll(d time.Duration) (woken bool, err error) {
	r.syscalls.Store(r.syscalls.Load() + 1)
	if d > 0 {
		r.waits.Store(r.waits.Load() + 1)
	}
	ts := unix.NsecToTimespec(int64(d))
	if _, err := ppoll(r.poll, &ts); err != nil {
		if err == unix.EINTR {
			return false, nil
		}
		return false, &Error{Op: "wait to receive", Interface: r.rx[0].info.Interface, Err: err}
	}
	event := &r.poll[len(r.poll)-1]
	if event.Revents == 0 {
		return false, nil
	}
	_, _ = unix.Read(int(event.Fd), r.count[:]) // resets it; open as long as mu is held
	return true, nil
}

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
func (r *udpRxPorts) Wake() {
	r.wakeMu.Lock()
	defer r.wakeMu.Unlock()
	if r.event >= 0 {
		_, _ = unix.Write(r.event, wakeValue[:]) // EAGAIN: it is set already
	}
}

// Close implements Rx.
func (r *udpRxPorts) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	r.Wake()
	r.mu.Lock()
	defer r.mu.Unlock()
	var first error
	for _, rx := range r.rx {
		if err := rx.Close(); first == nil {
			first = err
		}
	}
	r.wakeMu.Lock()
	defer r.wakeMu.Unlock()
	if r.event >= 0 {
		unix.Close(r.event)
		r.event = -1
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
