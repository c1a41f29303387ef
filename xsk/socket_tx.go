package xsk

import (
	"golang.org/x/sys/unix"
)

// copyBudget is how many frames one system call sends at most in copy mode,
// unless XDP_MAX_TX_SKB_BUDGET raises it: TX_BATCH_SIZE of net/xdp/xsk.c.
const copyBudget = 32

// TxQueue is the sending half of a Socket. One goroutine uses it at a time.
//
//	Get ──► write ──► Queue ──► Flush ──► kernel ──► completion ring ──► Get
//
// A frame is free, lent by Get, or with the kernel since Queue. Frames that were
// sent come back by Reap, in any order, which Get and Flush call by themselves.
type TxQueue struct {
	pool framePool
	ring prodRing[unix.XDPDesc]
	comp consRing[uint64]

	// kick makes the kernel send: sendto, or a kernel made of Go in tests.
	kick func() unix.Errno
	zc   bool // the driver takes frames by itself: a kick only wakes it

	hidden uint32 // frames that the kernel dropped, and whose consumption it has not shown yet

	n txQueueCounters
}

// txQueueCounters belong to the goroutine that uses the queue.
type txQueueCounters struct {
	kicks        uint64
	backPressure uint64
	invalid      uint64 // completions of frames that the kernel did not have
}

// Get lends a free frame, whole. ok is false if all are in flight.
func (q *TxQueue) Get() (frame uint32, buf []byte, ok bool) {
	f, ok := q.pool.get()
	if !ok {
		if q.Reap() == 0 {
			return 0, nil, false
		}
		f, _ = q.pool.get()
	}
	return f, q.pool.bytes(f), true
}

// Put gives a lent frame back unsent.
func (q *TxQueue) Put(frame uint32) { q.pool.put(frame, frameLent) }

// Room reports whether n more packets may be queued.
func (q *TxQueue) Room(n int) bool { return q.ring.room(uint32(n)) }

// Queue queues n bytes of a lent frame, from offset off on, as one packet. It
// reports false, and queues nothing, if there is no room, the frame is not
// lent, or the bytes are not all in the frame: the kernel would block the ring
// on such a descriptor (xskq_cons_is_valid_desc), so that it never sees one.
func (q *TxQueue) Queue(frame uint32, off, n int) bool {
	return q.queue(frame, off, n, 0)
}

// QueueMeta is Queue for a packet in front of which TX metadata lie, which
// are checked no further. Only with Socket.TxMetadata, else the kernel blocks the ring.
func (q *TxQueue) QueueMeta(frame uint32, off, n int) bool {
	return off >= txMetadataLen && q.queue(frame, off, n, unix.XDP_TX_METADATA)
}

func (q *TxQueue) queue(frame uint32, off, n int, options uint32) bool {
	if off < 0 || n <= 0 || off+n > 1<<q.pool.shift || int(frame) >= len(q.pool.state) ||
		q.pool.state[frame] != frameLent || !q.ring.room(1) {
		return false
	}
	q.pool.state[frame] = frameKernel
	q.ring.put(unix.XDPDesc{Addr: q.pool.addr(frame) + uint64(off), Len: uint32(n), Options: options})
	return true
}

// Pending returns how many queued packets the kernel has not taken yet.
func (q *TxQueue) Pending() int {
	q.ring.refresh()
	return int(q.ring.outstanding())
}

// Reap takes back frames that were sent, and returns how many.
func (q *TxQueue) Reap() int {
	n := q.comp.ready()
	if n == 0 {
		return 0
	}
	for range n {
		f, ok := q.pool.frame(q.comp.take())
		if !ok || !q.pool.put(f, frameKernel) {
			q.n.invalid++
		}
	}
	q.comp.release()
	return int(n)
}

// Flush hands the queued packets to the kernel, with as many kicks as it takes.
// It returns 0 if the kernel has them all, or a driver is at work on them;
// EAGAIN or another back-pressure errno if it takes no more for now; and any
// other errno as it came. dropped is called with the ring index of each packet
// that the driver refused: it was taken, and is lost.
//
// The loop ends: each turn either makes progress, which is bounded by what is
// queued, or counts down idle. Progress is the kernel's index or a completion.
// Up to Linux 6.16 the index moves only once the whole batch is through
// (xskq_cons_get_entries), so some kicks without any are allowed: one for each
// copyBudget frames.
func (q *TxQueue) Flush(dropped func(index uint32)) unix.Errno {
	q.ring.publish()
	q.Reap()
	q.ring.refresh()
	idle := int(q.ring.outstanding())/copyBudget + 1
	for q.ring.outstanding() > 0 && q.ring.needWakeup() {
		errno := q.kick()
		q.n.kicks++
		moved := q.ring.refresh()
		if moved {
			q.hidden = 0
		}
		if errno == unix.EBUSY && dropped != nil {
			// Completed, but not sent: __xsk_generic_xmit. It is the last
			// one taken, which the kernel's index shows only if one before
			// it in the same call was sent.
			if moved {
				dropped(q.ring.seen - 1)
			} else {
				dropped(q.ring.seen + q.hidden)
				q.hidden++
			}
		}
		moved = q.Reap() > 0 || moved
		switch {
		case errno != 0 && errno != unix.EINTR && !isBackPressure(errno):
			return errno
		case q.ring.outstanding() == 0:
			return 0
		case errno == unix.EBUSY: // the driver is full: more would be lost
			q.n.backPressure++
			return errno
		case q.zc && errno == 0:
			return 0 // it is awake
		case moved:
		default:
			if idle--; idle < 0 {
				q.n.backPressure++
				return unix.EAGAIN
			}
		}
	}
	return 0
}
