package xsk

import (
	"fmt"
	"net"
	"slices"
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
	queues    []xdpRxQueue
	start     int // queue to begin with
	batch     []Datagram
	lent      []lentFrame
	lastCheck time.Time
	poll      []unix.PollFd // sockets, event
	count     [8]byte       // what is read from the event
	stats     unix.XDPStatistics
	n         RxStats
	countedAt uint64 // messages when drops were last counted
	torn      bool   // Close has let the sockets go

	closed atomic.Bool // set once by Close; Receive looks at it after each wait

	wakeMu sync.Mutex // guards event against being closed while Wake writes to it
	event  int        // eventfd, -1 when closed

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

// OpenXDPRx opens a receiver. The error is an *Error that is one of ErrConfig,
// ErrInterface, ErrLinkDown, ErrNoAddress, ErrPermission, ErrUnsupported,
// ErrProgramBusy (*ForeignProgramError), ErrZeroCopy, ErrQueueBusy, ErrMemlock,
// or something unforeseen.
func OpenXDPRx(cfg XDPConfig) (_ *XDPRx, err error) {
	r := &XDPRx{cfg: cfg, member: -1, event: -1}
	defer func() {
		if err != nil {
			r.Close()
			err = &Error{Op: opOpenXDPRx, Interface: cfg.Interface, Err: err}
		}
	}()
	c := &r.cfg
	if err := c.check(false); err != nil {
		return nil, err
	}
	ifi, err := findInterface(c.Interface)
	if err != nil {
		return nil, err
	}
	if _, err := sourceMAC(ifi); err != nil {
		return nil, err
	}
	if c.MaxPayload == 0 {
		c.MaxPayload = max(min(ifi.MTU, c.FrameSize-xdpHeadroom-etherLen)-Overhead4, 1)
	}
	if r.link, err = newLink("receive", ifi); err != nil {
		return nil, err
	}
	local, err := c.locals(ifi)
	if err != nil {
		return nil, err
	}
	r.filter = rxFilter{group: c.Group, local: local, anyLocal: c.AnyLocal,
		first: uint16(c.Port), last: uint16(c.LastPort), vlan: c.VLAN}
	if r.member, err = joinGroup(c, ifi); err != nil {
		return nil, err
	}
	if r.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		r.event = -1
		return nil, explain("make an eventfd", err)
	}
	facts, err := device(ifi.Index)
	if err != nil {
		return nil, err
	}
	prog := c.Program
	if prog == nil {
		prog, err = OpenProgram(ProgramConfig{
			Interface: c.Interface, Group: c.Group, Local: local, AnyLocal: c.AnyLocal,
			FirstPort: c.Port, LastPort: c.LastPort, VLAN: c.VLAN,
			Generic: c.Generic, GenericOnly: c.GenericOnly, PinnedMap: c.PinnedMap,
		})
		if err != nil {
			return nil, err
		}
		r.prog = prog
	} else if prog.info.Index != ifi.Index {
		return nil, fmt.Errorf("%w: Program is for interface %s", ErrConfig, prog.info.Interface)
	}
	if err := r.openSockets(prog, facts); err != nil {
		return nil, err
	}
	r.info = XDPInfo{
		Interface: ifi.Name, Index: ifi.Index, MTU: ifi.MTU, MaxPayload: c.MaxPayload,
		Program: prog.Info(), FrameSize: c.FrameSize, Frames: c.RxFrames, ZeroCopy: true,
	}
	for _, q := range r.queues {
		r.info.Queues = append(r.info.Queues, q.Queue())
		r.info.ZeroCopy = r.info.ZeroCopy && q.ZeroCopy()
		r.poll = append(r.poll, unix.PollFd{Fd: int32(q.fd), Events: unix.POLLIN})
	}
	r.info.WhyCopy = whyCopy(c, facts, r.info.ZeroCopy)
	r.poll = append(r.poll, unix.PollFd{Fd: int32(r.event), Events: unix.POLLIN})
	r.batch = make([]Datagram, 0, c.Batch)
	r.lent = make([]lentFrame, 0, c.Batch)
	r.lastCheck = time.Now()
	return r, nil
}

// openSockets opens a socket for each queue that was asked for, or all there are.
func (r *XDPRx) openSockets(prog *Program, facts deviceFacts) error {
	c := &r.cfg
	queues := slices.Clone(c.Queues)
	for q := range max(facts.RxQueues, 1) {
		if len(c.Queues) == 0 {
			queues = append(queues, q)
		}
	}
	for _, queue := range queues {
		if facts.RxQueues > 0 && queue >= facts.RxQueues {
			return fmt.Errorf("%w: queue %d: the device has %d to receive", ErrConfig, queue, facts.RxQueues)
		}
		s, err := OpenSocket(SocketConfig{
			Interface: c.Interface, Queue: queue, RxFrames: c.RxFrames, FrameSize: c.FrameSize,
			Mode: c.Mode, BusyPoll: c.BusyPoll, Program: prog,
		})
		if err != nil {
			return err
		}
		r.queues = append(r.queues, xdpRxQueue{Socket: s, q: s.Rx(), fd: s.Fd()})
	}
	return nil
}

// joinGroup makes an ordinary socket that is a member of the group, so that the
// device and the switches deliver it. It is bound to no port and receives
// nothing. It also serves to look at the interface.
func joinGroup(c *XDPConfig, ifi *net.Interface) (int, error) {
	s := newSocket(c.Group.IsValid() && c.Group.Is6())
	if c.Group.IsValid() {
		s.step("join "+c.Group.String(), func() error {
			if c.Group.Is6() {
				return unix.SetsockoptIPv6Mreq(s.fd, unix.IPPROTO_IPV6, unix.IPV6_ADD_MEMBERSHIP,
					&unix.IPv6Mreq{Multiaddr: c.Group.As16(), Interface: uint32(ifi.Index)})
			}
			return unix.SetsockoptIPMreqn(s.fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
				&unix.IPMreqn{Multiaddr: c.Group.As4(), Ifindex: int32(ifi.Index)})
		})
	}
	return s.done()
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
		if r.collect(); len(r.batch) > 0 {
			if len(r.batch) == cap(r.batch) {
				if r.n.Messages-r.countedAt >= countEvery {
					r.countDrops() // there may be no quiet moment for long
				}
			}
			return r.batch, nil
		}
		r.countDrops()
		now := time.Now()
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

// wait waits until a socket has something, Wake or Close, or d is over. A
// deleted device wakes nobody: d is never more than rxLiveness.
func (r *XDPRx) wait(d time.Duration) (woken bool, err error) {
	r.n.Waits++
	r.n.Syscalls++
	r.publish()
	ts := unix.NsecToTimespec(int64(d))
	if _, err := ppoll(r.poll, &ts); err != nil {
		if err == unix.EINTR {
			return false, nil
		}
		return false, &Error{Op: "wait to receive", Interface: r.info.Interface, Err: err}
	}
	event := &r.poll[len(r.poll)-1]
	if event.Revents == 0 {
		return false, nil
	}
	_, _ = unix.Read(int(event.Fd), r.count[:]) // resets it; open as long as mu is held
	return true, nil
}

// collect fills the batch from the queues, beginning with another one each time.
func (r *XDPRx) collect() {
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
func (r *XDPRx) Wake() {
	r.wakeMu.Lock()
	defer r.wakeMu.Unlock()
	if r.event >= 0 {
		_, _ = unix.Write(r.event, wakeValue[:]) // EAGAIN: it is set already
	}
}

// Close implements Rx. Its store to closed comes before its write to the event,
// and pairs with the load in Receive after the wait that the event ends. The
// packet memory goes with the Release of the last batch, or at once.
func (r *XDPRx) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	r.Wake()
	r.mu.Lock()
	defer r.mu.Unlock()
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
	if r.member >= 0 { // leaves the group
		if err := unix.Close(r.member); err != nil {
			note(&Error{Op: "close AF_XDP receiver", Interface: r.info.Interface, Err: err})
		}
		r.member = -1
	}
	r.publish()
	r.wakeMu.Lock()
	defer r.wakeMu.Unlock()
	if r.event >= 0 {
		unix.Close(r.event)
		r.event = -1
	}
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
