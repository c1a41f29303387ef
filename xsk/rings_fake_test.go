package xsk

import (
	"math/rand/v2"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// heapRing makes a ring in heap memory whose indices start at start.
func heapRing[T ringEntry](n int, start uint32) ringView[T] {
	v := ringView[T]{producer: new(uint32), consumer: new(uint32), flags: new(uint32), entries: make([]T, n)}
	*v.producer, *v.consumer, *v.flags = start, start, unix.XDP_RING_NEED_WAKEUP
	return v
}

// fakeTx is the kernel's side of a sending half: a consumer of descriptors and
// a producer of completions.
type fakeTx struct {
	tx       ringView[unix.XDPDesc]
	comp     ringView[uint64]
	at       uint32   // its index into tx, which it may not have shown
	inFlight []uint64 // addresses taken and not completed
	sent     []uint64 // all that were taken, in order
	rng      *rand.Rand
	next     unix.Errno // what the next kick says, before anything is sent
	mood     int        // 0: plain; 1: shows its index late, as up to Linux 6.16; 2: drops some
	budget   int
	dropped  []uint32 // ring indices
}

func newFakeTx(frames, ring, compRing int, start uint32, rng *rand.Rand) (*TxQueue, *fakeTx) {
	k := &fakeTx{tx: heapRing[unix.XDPDesc](ring, start), comp: heapRing[uint64](compRing, start), at: start, rng: rng, budget: copyBudget}
	q := &TxQueue{pool: newFramePool(make([]byte, frames*2048), 0, 2048, frames)}
	q.ring, q.comp = newProdRing(k.tx), newConsRing(k.comp)
	q.kick = k.kick
	return q, k
}

func (k *fakeTx) compRoom() int {
	return len(k.comp.entries) - int(*k.comp.producer-atomic.LoadUint32(k.comp.consumer)) - len(k.inFlight)
}

// kick does what __xsk_generic_xmit does.
func (k *fakeTx) kick() unix.Errno {
	if e := k.next; e != 0 {
		k.next = 0
		return e
	}
	budget := k.budget
	sent := false
	defer func() { k.complete(k.rng.IntN(len(k.inFlight) + 1)) }()
	for k.at != atomic.LoadUint32(k.tx.producer) {
		if budget == 0 || k.compRoom() == 0 {
			if sent && k.mood != 1 {
				atomic.StoreUint32(k.tx.consumer, k.at)
			}
			return unix.EAGAIN
		}
		budget--
		d := k.tx.entries[k.at&uint32(len(k.tx.entries)-1)]
		k.inFlight = append(k.inFlight, d.Addr)
		k.sent = append(k.sent, d.Addr)
		k.at++
		if k.mood == 2 && k.rng.IntN(20) == 0 {
			k.dropped = append(k.dropped, k.at-1)
			if sent {
				atomic.StoreUint32(k.tx.consumer, k.at)
			}
			return unix.EBUSY
		}
		sent = true
	}
	atomic.StoreUint32(k.tx.consumer, k.at)
	return 0
}

// complete completes n of the frames in flight, in any order.
func (k *fakeTx) complete(n int) {
	p := *k.comp.producer
	for range n {
		i := k.rng.IntN(len(k.inFlight))
		k.comp.entries[p&uint32(len(k.comp.entries)-1)] = k.inFlight[i]
		k.inFlight[i] = k.inFlight[len(k.inFlight)-1]
		k.inFlight = k.inFlight[:len(k.inFlight)-1]
		p++
	}
	atomic.StoreUint32(k.comp.producer, p)
}

// fakeRx is the kernel's side of a receiving half.
type fakeRx struct {
	rx   ringView[unix.XDPDesc]
	fill ringView[uint64]
	at   uint32 // its index into fill
}

func newFakeRx(frames, ring, fillRing int, start uint32) (*RxQueue, *fakeRx) {
	k := &fakeRx{rx: heapRing[unix.XDPDesc](ring, start), fill: heapRing[uint64](fillRing, start), at: start}
	const base = 7 << 11 // frames of a sending half are in front
	q := &RxQueue{pool: newFramePool(make([]byte, frames*2048), base, 2048, frames)}
	q.ring, q.fill = newConsRing(k.rx), newProdRing(k.fill)
	return q, k
}

// deliver puts one packet into a frame of the fill ring. It reports false if
// there is no frame, or no room.
func (k *fakeRx) deliver(n uint32) bool {
	if k.at == atomic.LoadUint32(k.fill.producer) || *k.rx.producer-atomic.LoadUint32(k.rx.consumer) == uint32(len(k.rx.entries)) {
		return false
	}
	addr := k.fill.entries[k.at&uint32(len(k.fill.entries)-1)]
	k.at++
	atomic.StoreUint32(k.fill.consumer, k.at)
	p := *k.rx.producer
	k.rx.entries[p&uint32(len(k.rx.entries)-1)] = unix.XDPDesc{Addr: addr + 256, Len: n}
	atomic.StoreUint32(k.rx.producer, p+1)
	return true
}
