package xsk

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// UDPRx is an Rx over a UDP socket. See Rx for who may use it. OpenUDPRx makes
// one; the zero value is not usable.
type UDPRx struct {
	cfg  UDPConfig
	info UDPInfo

	// mu is held by Receive all along, so that Close lets the socket go only
	// when nobody uses it. What follows belongs to the holder.
	mu     sync.Mutex
	fd     int
	link   *link
	frames *udpRxFrames
	ask    int // frames that the next recvmmsg may fill
	used   int // frames that the last one filled
	splitter
	batch     []Datagram
	failed    error // of the last take
	lastCheck time.Time
	waiter    waiter      // nil of one among several ports
	orWait    func() bool // takeOrWait
	mem       [unix.SK_MEMINFO_VARS]uint32
	memLen    uint32
	lastDrops uint32
	n         RxStats

	closed atomic.Bool // set once by Close; Receive looks at it after each wait

	pub rxCounters
}

// rxCounters are RxStats as other goroutines see them. The receiving goroutine
// is the only writer of each word.
type rxCounters struct {
	messages, bytes, truncated, socketDrops, syscalls, waits, linkDown, errors, coalesced atomic.Uint64
}

// OpenUDPRx opens a receiver. The error is an *Error that is one of ErrConfig,
// ErrInterface, ErrLinkDown, ErrInUse, ErrPermission, ErrUnsupported, or
// something unforeseen.
//
// MaxPayload is not compared with the MTU: the kernel puts fragments together.
func OpenUDPRx(cfg UDPConfig) (*UDPRx, error) {
	r, err := openUDPRxSocket(cfg)
	if err != nil {
		return nil, err
	}
	if r.waiter, err = newWaiter(cfg.OwnThread, false, r.fd); err != nil {
		r.Close()
		return nil, &Error{Op: opOpenRx, Interface: cfg.Interface, Err: err}
	}
	r.orWait = r.takeOrWait
	return r, nil
}

// openUDPRxSocket opens a receiver that cannot wait, Receive(0) alone is of use.
func openUDPRxSocket(cfg UDPConfig) (_ *UDPRx, err error) {
	r := &UDPRx{cfg: cfg, fd: -1}
	defer func() {
		if err != nil {
			r.Close()
			err = &Error{Op: opOpenRx, Interface: cfg.Interface, Err: err}
		}
	}()
	if err := r.cfg.check(false); err != nil {
		return nil, err
	}
	ifi, err := findInterface(r.cfg.Interface)
	if err != nil {
		return nil, err
	}
	if r.cfg.MaxPayload == 0 {
		r.cfg.MaxPayload = max(min(ifi.MTU, maxDatagram)-Overhead4, 1)
	}
	if r.link, err = newLink("receive", ifi); err != nil {
		return nil, err
	}
	if r.fd, err = openRxSocket(&r.cfg, ifi); err != nil {
		return nil, err
	}
	s := socket{fd: r.fd}
	r.info = UDPInfo{
		Interface: ifi.Name, Index: ifi.Index, MTU: ifi.MTU,
		MaxPayload: r.cfg.MaxPayload, Batch: r.cfg.Batch,
		SndBuf: s.get(unix.SO_SNDBUF), RcvBuf: s.get(unix.SO_RCVBUF),
	}
	r.info.Local = append(r.info.Local, localAddr(r.fd))
	if r.info.GRO, err = enableGRO(r.fd, r.cfg.GRO); err != nil {
		return nil, err
	}
	r.frames = groFrames(r.cfg.Batch, r.cfg.MaxPayload, r.info.GRO)
	r.ask = len(r.frames.msgs)
	r.batch = make([]Datagram, 0, r.cfg.Batch)
	r.lastCheck = time.Now()
	return r, nil
}

// Info tells what was chosen and what was got. Safe from any goroutine.
func (r *UDPRx) Info() UDPInfo { return r.info }

// Receive implements Rx.
func (r *UDPRx) Receive(wait time.Duration) ([]Datagram, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed.Load() {
		return nil, ErrClosed
	}
	defer r.publish()
	r.release()
	if r.split(); len(r.batch) > 0 {
		return r.batch, nil // of what came before
	}
	var end time.Time // of the wait
	if wait > 0 {
		end = time.Now().Add(wait)
	}
	for {
		took, woken, err := r.await(wait, end)
		switch {
		case took:
			return r.batch, r.failed
		case r.closed.Load():
			return nil, ErrClosed
		case err != nil:
			return nil, &Error{Op: "wait to receive", Interface: r.info.Interface, Err: err}
		}
		now := time.Now()
		if now.Sub(r.lastCheck) >= rxLiveness {
			r.lastCheck = now
			if err := r.link.check(r.fd); err != nil {
				r.n.LinkDown++
				return nil, err
			}
		}
		if woken || wait >= 0 && !now.Before(end) {
			return nil, nil
		}
	}
}

// await takes what there is, and waits for it unless wait is 0: until end, if wait
// is more than 0, but not longer than until it is time to look at the link.
func (r *UDPRx) await(wait time.Duration, end time.Time) (took, woken bool, err error) {
	if wait == 0 {
		return r.take(), false, nil
	}
	look := r.lastCheck.Add(rxLiveness)
	if wait < 0 || look.Before(end) {
		end = look
	}
	return r.waiter.wait(end, r.orWait)
}

// take receives what there is, without waiting, into the batch, or finds out in
// failed why it cannot; false if there is nothing.
func (r *UDPRx) take() bool {
	for {
		r.frames.rearm(r.used)
		r.used, r.next = 0, 0
		n, errno := recvmmsg(r.fd, r.frames.msgs[:r.ask])
		r.n.Syscalls++
		switch {
		case n > 0:
			if n == r.ask {
				r.countDrops() // there may be more, and no quiet moment for long
			}
			r.used = n
			r.adapt(n)
			r.split()
			r.failed = nil
			return true
		case errno == unix.EINTR:
			continue
		case errno != 0 && errno != unix.EAGAIN:
			r.n.Errors++
			r.failed = &Error{Op: "receive", Interface: r.info.Interface, Err: classify(errno)}
			return true
		}
		r.countDrops()
		return false
	}
}

// takeOrWait is take, for the waiter: false means that it waits now.
func (r *UDPRx) takeOrWait() bool {
	if r.take() {
		return true
	}
	r.n.Waits++
	r.publish()
	return false
}

// countDrops adds what the kernel has dropped since the last time. It is asked
// for the total rather than told with each message (SO_RXQ_OVFL), because a
// message only knows of the drops before it: the last ones would be missing.
func (r *UDPRx) countDrops() {
	drops, errno := socketDrops(r.fd, &r.mem, &r.memLen)
	r.n.Syscalls++
	if errno == 0 {
		r.n.SocketDrops += uint64(drops - r.lastDrops) // both wrap at 2^32
		r.lastDrops = drops
	}
}

// Release implements Rx.
func (r *UDPRx) Release() {
	r.mu.Lock()
	r.release()
	r.mu.Unlock()
}

func (r *UDPRx) release() {
	clear(r.batch)
	r.batch = r.batch[:0]
}

// Wake implements Rx.
func (r *UDPRx) Wake() { r.waiter.wake() }

// Close implements Rx. Its store to closed comes before it ends the wait, and pairs
// with the load in Receive after that.
func (r *UDPRx) Close() error {
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
	var err error
	if r.fd >= 0 {
		if e := unix.Close(r.fd); e != nil {
			err = &Error{Op: "close UDP receiver", Interface: r.info.Interface, Err: e}
		}
		r.fd = -1
	}
	return err
}

// publish shows the counters to other goroutines. Each store pairs with the
// load of the same word in Stats; no order among them is promised.
func (r *UDPRx) publish() {
	p, n := &r.pub, &r.n
	p.messages.Store(n.Messages)
	p.bytes.Store(n.Bytes)
	p.syscalls.Store(n.Syscalls)
	p.waits.Store(n.Waits)
	p.coalesced.Store(n.Coalesced)
	if n.Truncated+n.SocketDrops+n.LinkDown+n.Errors == 0 {
		return // all still zero
	}
	p.truncated.Store(n.Truncated)
	p.socketDrops.Store(n.SocketDrops)
	p.linkDown.Store(n.LinkDown)
	p.errors.Store(n.Errors)
}

// Stats implements Rx.
func (r *UDPRx) Stats() RxStats {
	p := &r.pub
	return RxStats{
		Messages:    p.messages.Load(),
		Bytes:       p.bytes.Load(),
		Truncated:   p.truncated.Load(),
		SocketDrops: p.socketDrops.Load(),
		Syscalls:    p.syscalls.Load(),
		Waits:       p.waits.Load(),
		LinkDown:    p.linkDown.Load(),
		Errors:      p.errors.Load(),
		Coalesced:   p.coalesced.Load(),
	}
}
