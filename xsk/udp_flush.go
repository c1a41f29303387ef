package xsk

// The way of a message from Commit to the kernel:
//
//  1. Flush looks at the link, if it is time to, and sends nothing while it is down.
//  2. Each destination gets what it has not got yet, by one sendmmsg if nothing
//     comes between. Its entries are trains of messages, and messages that
//     match no other; see udp_gso.go. What stops one destination does not stop
//     the next.
//  3. An errno is about the link (everything stays queued), about an earlier
//     packet (count the notice, try again), about the queue being full (stay
//     queued), or about this entry: a train is taken apart, a single packet is
//     given up and counted.
//  4. Frames that all destinations are through with are free.
//
// All of it runs on the one goroutine that uses the sender. Only Wait blocks.

import (
	"time"

	"golang.org/x/sys/unix"
)

// maxNotices bounds how often one packet is tried again because a notice about
// an earlier one came in its place.
const maxNotices = 16

// enobufsWait is how long Wait waits where no event of the kernel says when to
// go on: the queue of the interface was full, or memory short.
const enobufsWait = 200 * time.Microsecond

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
		t.failed = make([]int, len(t.slots)) // not before it is needed
	}
	t.failed[message&t.mask]++
	t.anyFailed = true
}

// reportLost tells the messages before end that reached nobody.
func (t *UDPTx) reportLost(end uint64) {
	if !t.anyFailed {
		return
	}
	for i := t.head; i < end; i++ {
		failed := &t.failed[i&t.mask]
		if *failed == len(t.dests) && t.cfg.Lost != nil {
			t.cfg.Lost(t.message(i))
		}
		*failed = 0
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
				return t.isDown(t.noAddress(now))
			}
			t.useGSO(&t.dests[i], t.knowsGSO) // it may be another path now
		}
		t.down = false
	}
	return nil
}

// noAddress says what is wrong with an interface that is up, and by which no
// route leads to a group: for a while, that it has no address yet.
func (t *UDPTx) noAddress(now time.Time) error {
	if t.lostAddress.IsZero() {
		t.lostAddress = now
	}
	if now.Sub(t.lostAddress) > addressPatience {
		return t.link.readdressed
	}
	return t.link.noAddress
}

func (t *UDPTx) isDown(err error) error {
	t.down = true
	t.n.LinkDown++
	return err
}

// flushDest sends what d has not got yet. Each turn of the loop either gets a
// packet out of the way, or takes a train apart, or takes one of at most
// maxNotices notices, or returns.
func (t *UDPTx) flushDest(d *dest) error {
	var first error // of packets given up
	notices := 0
	d.blocked = 0
	e, entries := 0, 0
	for d.next < t.tail {
		if e == entries {
			e, entries = 0, t.entries(d)
		}
		n, errno := t.send(d.fd, t.frames.msgs[e:entries])
		t.n.Syscalls++
		if n > 0 {
			t.took(d, e, e+n)
			e += n
			notices = 0
			if e < entries {
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
		if n := t.count[e]; n > 1 {
			t.refuseTrain(d, uint64(n), errno)
			e, entries = 0, 0
			continue
		}
		// This packet will not do. Give it up, so that it is not in the way.
		t.verdict(d, false)
		t.giveUp(d.next)
		d.next++
		e++
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

// took counts the messages of the entries from…to, which the kernel took.
func (t *UDPTx) took(d *dest, from, to int) {
	t.lostAddress = time.Time{}
	t.verdict(d, true)
	var packets, segmented uint64
	for _, n := range t.count[from:to] {
		packets += uint64(n)
		if n > 1 {
			segmented += uint64(n)
		}
	}
	d.next += packets
	t.n.Packets += packets
	t.n.Segmented += segmented
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
	case isLinkDown(errno):
		return t.link.down
	case isNoRoute(errno) && d.addr.Addr().IsMulticast():
		return t.noAddress(time.Now())
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
