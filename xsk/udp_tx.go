package xsk

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// UDPTx is a Tx over UDP sockets, one for each destination. See Tx for who may
// use it. OpenUDPTx makes one; the zero value is not usable.
//
// Messages are numbered from 0 by Commit, and lie back to back; see udp_gso.go.
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

	trains
	pos        uint32 // of the lent buffer, or else of the next, in the slab
	head, tail uint64
	failed     []int // by slot: how many destinations a message was given up for
	anyFailed  bool
	lent       bool
	closed     bool

	knowsGSO  bool   // the kernel does
	trainMost uint32 // bytes

	down        bool // the link was found down; look before sending
	lastCheck   time.Time
	lostAddress time.Time // when an interface that is up was first found without a usable address

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
	index   int
	fd      int
	next    uint64 // number of the first message not yet sent to it
	blocked unix.Errno

	gso    bool   // send trains
	single uint64 // messages before this one are of a train that was refused: send them one by one
	trial  bool   // message next will tell whether it was refused for being a train
}

// txCounters are TxStats as other goroutines see them. The sending goroutine is
// the only writer of each word.
type txCounters struct {
	messages, bytes, packets, syscalls, backPressure, linkDown, tooBig,
	errors, discarded, refused, unreachable, segmented, withdrawn atomic.Uint64
}

// OpenUDPTx opens a sender. The error is an *Error that is one of ErrConfig,
// ErrInterface, ErrLinkDown, ErrNoAddress, ErrMTU, ErrNoRoute, ErrPermission,
// ErrUnsupported, or something unforeseen.
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
		t.dests = append(t.dests, dest{addr: addr, fd: fd, index: len(t.dests)})
		s := socket{fd: fd}
		t.info.Local = append(t.info.Local, localAddr(fd))
		t.info.SndBuf, t.info.RcvBuf = s.get(unix.SO_SNDBUF), s.get(unix.SO_RCVBUF)
	}
	use, err := probeGSO(t.dests[0].fd, t.cfg.GSO)
	if err != nil {
		return nil, err
	}
	t.start(use)
	t.poll = make([]unix.PollFd, 0, len(t.dests))
	t.lastCheck = time.Now()
	t.send = sendmmsg
	t.notice = t.errq.next
	t.look = func() error { return t.link.check(t.dests[0].fd) }
	t.redial = func(d *dest) error { return connect(d.fd, d.addr, t.info.Index) }
	return t, nil
}

// start makes the frames, and has trains sent if gso is true.
func (t *UDPTx) start(gso bool) {
	t.trains = newTrains(t.cfg.Batch, t.cfg.MaxPayload)
	t.trains.gso = make([]atomic.Bool, len(t.dests))
	t.knowsGSO = gso
	t.trainMost = trainBytes - Overhead4
	for i := range t.dests {
		if t.dests[i].addr.Addr().Is6() {
			t.trainMost = trainBytes - Overhead6
		}
		t.useGSO(&t.dests[i], gso)
	}
}

// Info tells what was chosen and what was got. Safe from any goroutine.
func (t *UDPTx) Info() UDPInfo {
	info := t.info
	info.GSO = make([]bool, len(t.trains.gso))
	for i := range info.GSO {
		info.GSO[i] = t.trains.gso[i].Load()
	}
	return info
}

// MaxPayload implements Tx.
func (t *UDPTx) MaxPayload() int { return t.cfg.MaxPayload }

// Next implements Tx.
func (t *UDPTx) Next() ([]byte, error) {
	if t.closed {
		return nil, ErrClosed
	}
	size := uint32(t.cfg.MaxPayload)
	if !t.lent {
		if t.tail-t.head == uint64(t.cfg.Batch) {
			return nil, ErrNoFrame
		}
		if t.tail == t.head || t.pos+size > uint32(len(t.frames.slab)) {
			t.pos = 0
		}
		t.lent = true
	}
	return t.frames.slab[t.pos : t.pos+size : t.pos+size], nil
}

// Commit implements Tx.
func (t *UDPTx) Commit(n int) {
	if !t.lent {
		panic("xsk: Commit without a buffer lent by Next")
	}
	if n < 0 || n > t.cfg.MaxPayload {
		panic(fmt.Sprintf("xsk: Commit of %d bytes, a message may have 0 to %d", n, t.cfg.MaxPayload))
	}
	t.lent = false
	t.slots[t.tail&t.mask] = slot{t.pos, uint32(n)}
	t.pos += uint32(n)
	t.tail++
	t.n.Messages++
	t.n.Bytes += uint64(n)
}

// Pending implements Tx.
func (t *UDPTx) Pending() int { return int(t.tail - t.head) }

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
	p.segmented.Store(n.Segmented)
	if n.BackPressure+n.LinkDown+n.TooBig+n.Errors+n.Discarded+n.Refused+n.Unreachable+n.Withdrawn == 0 {
		return // all still zero
	}
	p.backPressure.Store(n.BackPressure)
	p.linkDown.Store(n.LinkDown)
	p.tooBig.Store(n.TooBig)
	p.errors.Store(n.Errors)
	p.discarded.Store(n.Discarded)
	p.refused.Store(n.Refused)
	p.unreachable.Store(n.Unreachable)
	p.withdrawn.Store(n.Withdrawn)
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
		Segmented:    p.segmented.Load(),
		Withdrawn:    p.withdrawn.Load(),
	}
}
