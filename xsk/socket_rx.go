package xsk

import "golang.org/x/sys/unix"

// RxQueue is the receiving half of a Socket. One goroutine uses it at a time.
//
//	kernel ──► RX ring ──► Take ──► read ──► Put ──► Refill ──► fill ring ──► kernel
type RxQueue struct {
	pool framePool
	ring consRing[unix.XDPDesc]
	fill prodRing[uint64]

	wake  func() // wakes a driver that waits for the fill ring
	taken bool   // entries of the RX ring were taken and not given back

	invalid uint64 // descriptors that are not of a frame that the kernel had
}

// Ready returns how many packets may be taken without asking the kernel.
func (q *RxQueue) Ready() int { return int(q.ring.ready()) }

// Take lends the next packet. ok is false if there is none.
func (q *RxQueue) Take() (frame uint32, packet []byte, ok bool) {
	for q.ring.ready() > 0 {
		d := q.ring.take()
		q.taken = true
		// The address is that of the data: behind XDP_PACKET_HEADROOM, and
		// wherever a program moved the start of the packet to.
		f, ok := q.pool.frame(d.Addr)
		if !ok || q.pool.state[f] != frameKernel {
			q.invalid++
			continue
		}
		buf := q.pool.bytes(f)
		off := int(d.Addr - q.pool.addr(f))
		if int64(off)+int64(d.Len) > int64(len(buf)) {
			q.invalid++
			q.pool.put(f, frameKernel)
			continue
		}
		q.pool.state[f] = frameLent
		return f, buf[off : off+int(d.Len) : off+int(d.Len)], true
	}
	return 0, nil, false
}

// Put gives a lent packet back. The kernel gets its frame by Refill.
func (q *RxQueue) Put(frame uint32) { q.pool.put(frame, frameLent) }

// Refill gives the RX ring's entries and all free frames back to the kernel.
func (q *RxQueue) Refill() {
	if q.taken {
		q.ring.release()
		q.taken = false
	}
	put := false
	for len(q.pool.free) > 0 && q.fill.room(1) {
		f, _ := q.pool.get()
		q.pool.state[f] = frameKernel
		q.fill.put(q.pool.addr(f))
		put = true
	}
	if put {
		q.fill.publish()
		q.wakeDriver()
	}
}

// wakeDriver has a driver that waits for the fill ring look at it. One that found it
// empty says so a moment later, perhaps after Refill has asked: whoever is about to
// wait asks again. poll does it by itself, but a poller that is told of edges polls
// only once something has come.
func (q *RxQueue) wakeDriver() {
	if q.wake != nil && q.fill.needWakeup() {
		q.wake()
	}
}
