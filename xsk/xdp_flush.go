package xsk

// The way of a message from Commit to the wire:
//
//  1. Commit writes the headers in front of the message, for each destination
//     that the network knows, and puts descriptors into the TX ring: unseen by
//     the kernel so far.
//  2. Flush looks at the link, and at routes and neighbours, when it is time to,
//     and sends nothing while the link is down.
//  3. It publishes the ring and kicks the kernel until that has all of it, or
//     takes no more (TxQueue.Flush).
//  4. Messages are through when the kernel's index has passed their last packet.
//     Their frames come back on their own, in any order, by the completion ring.
//
// All of it runs on the one goroutine that uses the sender. Only Wait blocks.

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// How long Wait sleeps: AF_XDP has no event for "try again" in copy mode. poll
// would not do, because it sends, and swallows the errors (xsk_poll).
const xdpBackOff = 50 * time.Microsecond

// peersInterval is how often routes and neighbours are looked at, and
// unresolvedInterval while one is missing.
const (
	peersInterval      = time.Second
	unresolvedInterval = 20 * time.Millisecond
)

// Flush implements Tx.
func (t *XDPTx) Flush() error {
	switch {
	case t.closed:
		return ErrClosed
	case t.broken != nil:
		return t.broken
	case t.tail == t.head:
		return nil
	}
	err := t.check()
	if err == nil {
		err = t.flush()
	}
	t.publish()
	return err
}

func (t *XDPTx) flush() error {
	kicks := t.q.n.kicks
	t.dropSeen = false
	errno := t.q.Flush(t.onDrop)
	t.n.Syscalls += t.q.n.kicks - kicks
	t.settle()
	switch {
	case errno == 0, errno == unix.EBUSY: // EBUSY: see onDrop
	case isBackPressure(errno):
		t.n.BackPressure++
	case isLinkDown(errno):
		return t.isDown(t.link.down)
	case isDeviceGone(errno):
		return t.isDown(t.link.gone)
	default:
		// EINVAL: a descriptor that the kernel does not like, which must not
		// be, stays in the way for good (xskq_cons_is_valid_desc).
		t.broken = &Error{Op: "send", Interface: t.info.Interface, Err: fmt.Errorf("%w (%w)", ErrBroken, errno)}
		return t.broken
	}
	var err error
	if t.dropSeen {
		// A device without carrier drops: __dev_direct_xmit.
		if err := t.look(); err != nil {
			return t.isDown(err)
		}
		err = t.errDropped
	}
	for i := range t.dests {
		d := &t.dests[i]
		if d.tooBig > 0 {
			err = d.errTooBig
		} else if d.missed > 0 && err == nil {
			err = d.errUnresolved
		}
		d.tooBig, d.missed = 0, 0
	}
	return err
}

func (t *XDPTx) isDown(err error) error {
	t.down = true
	t.n.LinkDown++
	return err
}

// onDrop is told the ring index of a packet that the driver dropped. A message
// that nobody gets is reported at once, while its frame is untouched: it is the
// frame of its last packet.
func (t *XDPTx) onDrop(index uint32) {
	t.dropSeen = true
	t.drops++
	for i := t.head; i != t.tail; i++ {
		m := t.msg(i)
		if m.packets > 0 && m.end-1-index < uint32(m.packets) {
			m.failed++
			if int(m.failed) == len(t.dests) {
				t.lost(m)
			}
			return
		}
	}
}

func (t *XDPTx) msg(i uint32) *xdpMessage { return &t.msgs[i&uint32(len(t.msgs)-1)] }

func (t *XDPTx) lost(m *xdpMessage) {
	if t.cfg.Lost != nil {
		t.cfg.Lost(t.q.pool.bytes(m.frame)[headerRoom : headerRoom+int(m.size)])
	}
}

// settle counts the packets that the kernel has taken, and finishes the messages
// that are through.
func (t *XDPTx) settle() {
	taken := t.q.ring.seen
	n := taken - t.settled
	dropped := min(n, t.drops) // those that the kernel's index shows by now
	t.settled = taken
	t.drops -= dropped
	t.n.Packets += uint64(n - dropped)
	t.n.Errors += uint64(dropped)
	for t.head != t.tail {
		m := t.msg(t.head)
		if int32(m.end-taken) > 0 {
			return
		}
		if m.packets == 0 { // no destination to send it to
			t.lost(m)
			t.q.Put(m.frame)
		}
		t.head++
	}
}

// discard gives up what the kernel has not taken, at Close.
func (t *XDPTx) discard() {
	taken := t.q.ring.seen
	t.n.Discarded += uint64(t.q.ring.outstanding() - t.drops)
	t.n.Errors += uint64(t.drops)
	for ; t.head != t.tail; t.head++ {
		m := t.msg(t.head)
		left := min(m.end-taken, uint32(m.packets))
		if int(m.failed) < len(t.dests) && int(left)+int(m.failed) >= len(t.dests) {
			t.lost(m)
		}
	}
}

// check looks at what is around the socket now and then: the link, each time
// while it is down, and the ways to the peers.
func (t *XDPTx) check() error {
	now := time.Now()
	if t.down || now.Sub(t.lastCheck) >= txLiveness {
		t.lastCheck = now
		if err := t.look(); err != nil {
			return t.isDown(err)
		}
		if t.down || now.Sub(t.lastDial) >= peersInterval {
			t.lastDial = now
			if err := t.checkSources(now); err != nil {
				return t.isDown(err)
			}
		}
		if t.down {
			t.down, t.lastPeers = false, time.Time{}
		}
		for i := range t.dests {
			t.drain(&t.dests[i])
		}
	}
	since := now.Sub(t.lastPeers)
	if t.peers && (since >= peersInterval || t.unresolved > 0 && since >= unresolvedInterval) {
		t.lastPeers = now
		t.resolveAll()
	}
	return nil
}

// lookAtLink looks at the flags of the interface, and at what else may have
// changed about it: the MTU, and the Ethernet address.
func (t *XDPTx) lookAtLink() error {
	if err := t.link.check(t.dests[0].fd); err != nil {
		return err
	}
	s, err := t.nl.linkState(t.info.Index)
	if err != nil {
		return nil // the flags were fine a moment ago; the next look will tell
	}
	if !s.carrier {
		return t.link.noCarrier
	}
	t.mtu = s.mtu
	for i := range t.dests {
		if d := &t.dests[i]; d.head.srcMAC != s.mac {
			d.head.srcMAC = s.mac
			t.remake(d)
		}
	}
	return nil
}

// drain counts the notices that came back for packets of d: its ordinary socket
// has their port.
func (t *XDPTx) drain(d *xdpDest) {
	for range maxDrain {
		errno, icmp, ok := t.errq.next(d.fd)
		switch {
		case !ok:
			return
		case !icmp:
		case errno == unix.ECONNREFUSED:
			t.n.Refused++
		default:
			t.n.Unreachable++
		}
	}
}

// Wait implements Tx.
func (t *XDPTx) Wait(d time.Duration) error {
	if t.closed {
		return ErrClosed
	}
	idle := t.tail == t.head && (len(t.q.pool.free) >= len(t.dests) || t.q.Reap() > 0)
	if idle || d <= 0 {
		return nil
	}
	if t.down {
		d = min(d, txLiveness)
	} else {
		d = min(d, xdpBackOff)
	}
	ts := unix.NsecToTimespec(int64(d))
	if _, err := ppoll(nil, &ts); err != nil && err != unix.EINTR {
		return &Error{Op: "wait to send", Interface: t.info.Interface, Err: err}
	}
	return nil
}
