package xsk

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// maxNotices bounds how often one packet is tried again because a notice about
// an earlier one came in its place.
const maxNotices = 16

// enobufsWait is how long Wait waits where no event of the kernel says when to
// go on: the queue of the interface was full, or memory short.
const enobufsWait = 200 * time.Microsecond

// UDPTx is a Tx over UDP sockets, one for each destination. See Tx for who may
// use it. OpenUDPTx makes one; the zero value is not usable.
//
// Messages are numbered from 0 by Commit. Message i lies in frame i mod Batch.
//
//	  head            dests[k].next                     tail
//	    │ sent to some      │ not yet sent to k           │ next Commit
//	────┼───────────────────┼─────────────────────────────┼────
//
// head is the least next of all destinations: what is before it is free.
type UDPTx struct {
	cfg   UDPConfig
	info  UDPInfo
	link  *link
	dests []dest

	frames     *frames
	head, tail uint64
	failed     []int // by slot: how many destinations a message was given up for
	anyFailed  bool
	lent       bool
	closed     bool

	down      bool // the link was found down; look before sending
	lastCheck time.Time

	n   TxStats // counters of the one goroutine
	pub txCounters

	errq errQueue
	poll []unix.PollFd

	// The kernel, replaced in tests.
	send   func(fd int, msgs []mmsghdr) (int, unix.Errno)
	notice func(fd int) (errno unix.Errno, icmp, ok bool)
	look   func() error // at the link
	redial func(d *dest) error
}

// dest is one destination and what it has got.
type dest struct {
	addr    netip.AddrPort
	fd      int
	next    uint64 // number of the first message not yet sent to it
	blocked unix.Errno
}

// txCounters are TxStats as other goroutines see them. The sending goroutine is
// the only writer of each word.
type txCounters struct {
	messages, bytes, packets, syscalls, backPressure, linkDown, tooBig,
	errors, discarded, refused, unreachable atomic.Uint64
}

// OpenUDPTx opens a sender. The error is an *Error that is one of ErrConfig,
// ErrInterface, ErrLinkDown, ErrNoAddress, ErrMTU, ErrNoRoute, ErrPermission,
// or something unforeseen.
func OpenUDPTx(cfg UDPConfig) (_ *UDPTx, err error) {
	t := &UDPTx{cfg: cfg}
	defer func() {
		if err != nil {
			t.Close()
			err = &Error{Op: opOpenTx, Interface: cfg.Interface, Err: err}
		}
	}()
	if err := t.cfg.check(true); err != nil {
		return nil, err
	}
	ifi, err := findInterface(t.cfg.Interface)
	if err != nil {
		return nil, err
	}
	if err := t.cfg.checkMTU(ifi); err != nil {
		return nil, err
	}
	if t.link, err = newLink("send", ifi); err != nil {
		return nil, err
	}
	t.info = UDPInfo{
		Interface: ifi.Name, Index: ifi.Index, MTU: ifi.MTU,
		MaxPayload: t.cfg.MaxPayload, Batch: t.cfg.Batch, Dests: t.cfg.dests(),
	}
	for _, addr := range t.info.Dests {
		fd, err := openTxSocket(&t.cfg, ifi, addr)
		if err != nil {
			return nil, err
		}
		t.dests = append(t.dests, dest{addr: addr, fd: fd})
		s := socket{fd: fd}
		t.info.Local = append(t.info.Local, localAddr(fd))
		t.info.SndBuf, t.info.RcvBuf = s.get(unix.SO_SNDBUF), s.get(unix.SO_RCVBUF)
	}
	t.frames = newFrames(t.cfg.Batch, t.cfg.MaxPayload, false)
	t.poll = make([]unix.PollFd, 0, len(t.dests))
	t.lastCheck = time.Now()
	t.send = sendmmsg
	t.notice = t.errq.next
	t.look = func() error { return t.link.check(t.dests[0].fd) }
	t.redial = func(d *dest) error { return connect(d.fd, d.addr, t.info.Index) }
	return t, nil
}

// Info tells what was chosen and what was got. Safe from any goroutine.
func (t *UDPTx) Info() UDPInfo { return t.info }

// MaxPayload implements Tx.
func (t *UDPTx) MaxPayload() int { return t.cfg.MaxPayload }

// Next implements Tx.
func (t *UDPTx) Next() ([]byte, error) {
	if t.closed {
		return nil, ErrClosed
	}
	if t.tail-t.head == uint64(t.cfg.Batch) {
		return nil, ErrNoFrame
	}
	t.lent = true
	return t.frames.buffer(t.slot(t.tail)), nil
}

func (t *UDPTx) slot(i uint64) int { return int(i % uint64(t.cfg.Batch)) }

// Commit implements Tx.
func (t *UDPTx) Commit(n int) {
	if !t.lent {
		panic("xsk: Commit without a buffer lent by Next")
	}
	if n < 0 || n > t.cfg.MaxPayload {
		panic(fmt.Sprintf("xsk: Commit of %d bytes, a message may have 0 to %d", n, t.cfg.MaxPayload))
	}
	t.lent = false
	t.frames.setLen(t.slot(t.tail), n)
	t.tail++
	t.n.Messages++
	t.n.Bytes += uint64(n)
}

// Pending implements Tx.
func (t *UDPTx) Pending() int { return int(t.tail - t.head) }

// Flush implements Tx.
func (t *UDPTx) Flush() error {
	if t.closed {
		return ErrClosed
	}
	if t.tail == t.head {
		return nil
	}
	err := t.checkLink()
	if err == nil {
		for i := range t.dests {
			if e := t.flushDest(&t.dests[i]); e != nil && err == nil {
				err = e
			}
		}
		t.reclaim()
	}
	t.publish()
	return err
}

// reclaim frees the frames that all destinations are through with.
func (t *UDPTx) reclaim() {
	head := t.tail
	for i := range t.dests {
		head = min(head, t.dests[i].next)
	}
	t.reportLost(head)
	t.head = head
}

// giveUp counts one destination that the message will not reach.
func (t *UDPTx) giveUp(message uint64) {
	if t.failed == nil {
		t.failed = make([]int, t.cfg.Batch) // not before it is needed
	}
	t.failed[t.slot(message)]++
	t.anyFailed = true
}

// reportLost tells the messages before end that reached nobody.
func (t *UDPTx) reportLost(end uint64) {
	if !t.anyFailed {
		return
	}
	for i := t.head; i < end; i++ {
		slot := t.slot(i)
		if t.failed[slot] == len(t.dests) && t.cfg.Lost != nil {
			t.cfg.Lost(t.frames.message(slot))
		}
		t.failed[slot] = 0
	}
	t.anyFailed = end != t.tail
}

// checkLink looks at the link now and then, and each time while it is down,
// since a link without carrier swallows packets without an error.
func (t *UDPTx) checkLink() error {
	now := time.Now()
	if !t.down && now.Sub(t.lastCheck) < txLiveness {
		return nil
	}
	t.lastCheck = now
	if err := t.look(); err != nil {
		return t.isDown(err)
	}
	if t.down {
		// An interface that goes down loses its IPv6 addresses; a source
		// that the kernel had chosen among them must be chosen again.
		for i := range t.dests {
			if err := t.redial(&t.dests[i]); err != nil {
				return t.isDown(t.link.down)
			}
		}
		t.down = false
	}
	return nil
}

func (t *UDPTx) isDown(err error) error {
	t.down = true
	t.n.LinkDown++
	return err
}

// flushDest sends what d has not got yet. Each turn of the loop either gets a
// packet out of the way, or takes one of at most maxNotices notices, or returns.
func (t *UDPTx) flushDest(d *dest) error {
	var first error // of packets given up
	notices := 0
	d.blocked = 0
	for d.next < t.tail {
		slot := t.slot(d.next)
		end := min(slot+int(t.tail-d.next), t.cfg.Batch)
		n, errno := t.send(d.fd, t.frames.msgs[slot:end])
		t.n.Syscalls++
		if n > 0 {
			d.next += uint64(n)
			t.n.Packets += uint64(n)
			notices = 0
			if n < end-slot {
				t.drain(d) // the kernel may have taken a notice for itself
			}
			continue
		}
		if errno == unix.EINTR {
			continue
		}
		if errno == 0 || isBackPressure(errno) {
			return t.block(d, errno, first)
		}
		if isNotice(errno) && t.noticed(d, errno) {
			// About an earlier packet; this one was not tried.
			if notices++; notices > maxNotices {
				return t.block(d, errno, first)
			}
			continue
		}
		if err := t.linkError(d, errno); err != nil {
			return t.isDown(err)
		}
		// This packet will not do. Give it up, so that it is not in the way.
		t.giveUp(d.next)
		d.next++
		if isTooBig(errno) {
			t.n.TooBig++
		} else {
			t.n.Errors++
		}
		if first == nil {
			first = &Error{Op: "send", Interface: t.info.Interface, Dest: d.addr, Err: classify(errno)}
		}
	}
	return first
}

func (t *UDPTx) block(d *dest, errno unix.Errno, first error) error {
	t.n.BackPressure++
	d.blocked = errno
	return first
}

// linkError returns an error if errno means that the interface is down or gone,
// so that the packet should stay.
func (t *UDPTx) linkError(d *dest, errno unix.Errno) error {
	if isTooBig(errno) || isPermission(errno) {
		return nil
	}
	if err := t.look(); err != nil {
		return err
	}
	switch {
	case isDeviceGone(errno) && d.addr.Addr().IsMulticast():
		return t.link.gone
	case isLinkDown(errno), isNoRoute(errno) && d.addr.Addr().IsMulticast():
		return t.link.down
	}
	return nil
}

// noticed takes the notices off d's socket and reports whether there were any,
// so that errno is about an earlier packet.
func (t *UDPTx) noticed(d *dest, errno unix.Errno) bool {
	if t.drain(d) > 0 {
		return true
	}
	if errno != unix.ECONNREFUSED {
		return false // about this packet
	}
	t.n.Refused++ // comes only by ICMP; the error queue had no room
	return true
}

// drain empties the error queue of d's socket, which also clears its pending
// error (sock_dequeue_err_skb), and returns how many notices there were.
func (t *UDPTx) drain(d *dest) (n int) {
	for n < maxDrain {
		errno, icmp, ok := t.notice(d.fd)
		if !ok {
			break
		}
		if !icmp {
			continue // this host's own word on a packet, which send returned too
		}
		n++
		if errno == unix.ECONNREFUSED {
			t.n.Refused++
		} else {
			t.n.Unreachable++
		}
	}
	return n
}

// maxDrain bounds one look at an error queue that fills as fast as it is read.
const maxDrain = 1024

// Wait implements Tx.
func (t *UDPTx) Wait(d time.Duration) error {
	if t.closed {
		return ErrClosed
	}
	if t.tail == t.head || d <= 0 {
		return nil
	}
	t.poll = t.poll[:0]
	switch {
	case t.down:
		d = min(d, txLiveness)
	default:
		for i := range t.dests {
			switch dst := &t.dests[i]; {
			case dst.next == t.tail:
			case dst.blocked == unix.EAGAIN:
				// Writable again with half of the buffer free: sock_writeable.
				t.poll = append(t.poll, unix.PollFd{Fd: int32(dst.fd), Events: unix.POLLOUT})
			case dst.blocked == 0:
				return nil // committed, and not yet tried
			default:
				d = min(d, enobufsWait)
			}
		}
	}
	ts := unix.NsecToTimespec(int64(d))
	n, err := ppoll(t.poll, &ts)
	if err != nil && err != unix.EINTR {
		return &Error{Op: "wait to send", Interface: t.info.Interface, Err: err}
	}
	if n > 0 {
		for _, p := range t.poll {
			if p.Revents&unix.POLLERR != 0 {
				t.drainFd(int(p.Fd))
			}
		}
		t.publish()
	}
	return nil
}

func (t *UDPTx) drainFd(fd int) {
	for i := range t.dests {
		if t.dests[i].fd == fd {
			t.drain(&t.dests[i])
		}
	}
}

// Close implements Tx.
func (t *UDPTx) Close() error {
	if t.closed {
		return nil
	}
	t.closed, t.lent = true, false
	var first error
	for i := range t.dests {
		d := &t.dests[i]
		if t.notice != nil {
			t.drain(d)
		}
		t.n.Discarded += t.tail - d.next
		for ; d.next < t.tail; d.next++ {
			t.giveUp(d.next)
		}
		if err := unix.Close(d.fd); err != nil && first == nil {
			first = &Error{Op: "close UDP sender", Interface: t.info.Interface, Err: err}
		}
	}
	t.reportLost(t.tail)
	t.head = t.tail
	t.publish()
	return first
}

// publish shows the counters to other goroutines. Each store pairs with the
// load of the same word in Stats; no order among them is promised.
func (t *UDPTx) publish() {
	p, n := &t.pub, &t.n
	p.messages.Store(n.Messages)
	p.bytes.Store(n.Bytes)
	p.packets.Store(n.Packets)
	p.syscalls.Store(n.Syscalls)
	if n.BackPressure+n.LinkDown+n.TooBig+n.Errors+n.Discarded+n.Refused+n.Unreachable == 0 {
		return // all still zero
	}
	p.backPressure.Store(n.BackPressure)
	p.linkDown.Store(n.LinkDown)
	p.tooBig.Store(n.TooBig)
	p.errors.Store(n.Errors)
	p.discarded.Store(n.Discarded)
	p.refused.Store(n.Refused)
	p.unreachable.Store(n.Unreachable)
}

// Stats implements Tx.
func (t *UDPTx) Stats() TxStats {
	p := &t.pub
	return TxStats{
		Messages:     p.messages.Load(),
		Bytes:        p.bytes.Load(),
		Packets:      p.packets.Load(),
		Syscalls:     p.syscalls.Load(),
		BackPressure: p.backPressure.Load(),
		LinkDown:     p.linkDown.Load(),
		TooBig:       p.tooBig.Load(),
		Errors:       p.errors.Load(),
		Discarded:    p.discarded.Load(),
		Refused:      p.refused.Load(),
		Unreachable:  p.unreachable.Load(),
	}
}
