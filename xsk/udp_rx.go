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
	lastCheck time.Time
	poll      [2]unix.PollFd // socket, event
	count     [8]byte        // what is read from the event
	mem       [unix.SK_MEMINFO_VARS]uint32
	memLen    uint32
	lastDrops uint32
	n         RxStats

	closed atomic.Bool // set once by Close; Receive looks at it after each wait

	wakeMu sync.Mutex // guards event against being closed while Wake writes to it
	event  int        // eventfd, -1 when closed

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
func OpenUDPRx(cfg UDPConfig) (_ *UDPRx, err error) {
	r := &UDPRx{cfg: cfg, fd: -1, event: -1}
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
	if r.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		r.event = -1
		return nil, explain("make an eventfd", err)
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
	r.poll = [2]unix.PollFd{
		{Fd: int32(r.fd), Events: unix.POLLIN},
		{Fd: int32(r.event), Events: unix.POLLIN},
	}
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
	var start time.Time
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
			return r.batch, nil
		case errno == unix.EINTR:
			continue
		case errno != 0 && errno != unix.EAGAIN:
			r.n.Errors++
			return nil, &Error{Op: "receive", Interface: r.info.Interface, Err: classify(errno)}
		}
		r.countDrops()
		now := time.Now()
		if start.IsZero() {
			start = now
		}
		if now.Sub(r.lastCheck) >= rxLiveness {
			r.lastCheck = now
			if err := r.link.check(r.fd); err != nil {
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
		woken, err := r.wait(left)
		switch {
		case r.closed.Load():
			return nil, ErrClosed
		case err != nil:
			return nil, err
		case woken:
			return nil, nil
		}
	}
}

// wait waits until the socket may have something, Wake or Close, or d is over.
func (r *UDPRx) wait(d time.Duration) (woken bool, err error) {
	r.n.Waits++
	r.n.Syscalls++
	r.publish()
	ts := unix.NsecToTimespec(int64(d))
	if _, err := ppoll(r.poll[:], &ts); err != nil {
		if err == unix.EINTR {
			return false, nil
		}
		return false, &Error{Op: "wait to receive", Interface: r.info.Interface, Err: err}
	}
	if r.poll[1].Revents == 0 {
		return false, nil
	}
	// Resets the event, which is open as long as mu is held. It cannot fail in
	// a way that matters.
	_, _ = unix.Read(int(r.poll[1].Fd), r.count[:])
	return true, nil
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

// wakeValue is what is written to the event: not 0 in either byte order, and
// less than the count that would block.
var wakeValue = [8]byte{3: 1, 4: 1}

// Wake implements Rx.
func (r *UDPRx) Wake() {
	r.wakeMu.Lock()
	defer r.wakeMu.Unlock()
	if r.event >= 0 {
		_, _ = unix.Write(r.event, wakeValue[:]) // EAGAIN: it is set already
	}
}

// Close implements Rx. Its store to closed comes before its write to the event,
// and pairs with the load in Receive after the wait that the event ends.
func (r *UDPRx) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	r.Wake()
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	if r.fd >= 0 {
		if e := unix.Close(r.fd); e != nil {
			err = &Error{Op: "close UDP receiver", Interface: r.info.Interface, Err: e}
		}
		r.fd = -1
	}
	r.wakeMu.Lock()
	defer r.wakeMu.Unlock()
	if r.event >= 0 {
		unix.Close(r.event)
		r.event = -1
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
