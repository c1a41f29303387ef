package xsk

// The four rings of an AF_XDP socket. A ring lies in memory that the kernel and
// this process share: two indices, a word of flags, and a power of two entries.
//
//	       consumer                      producer
//	          │ the consumer owns           │ the producer owns
//	──────────┼─────────────────────────────┼──────────────────────
//	  free    │ entries to be taken         │ free
//
// Indices run freely through all of uint32 and wrap; index & mask is the entry.
// Each index has one writer: the producer writes producer, the consumer
// consumer. Of TX and fill this process is the producer and the kernel the
// consumer; of RX and completion it is the other way round. The same code runs
// over heap memory in tests, against a kernel made of Go.
//
// Each side keeps its own index, and what it last saw of the other's, in private
// memory, and touches the shared words once per batch:
//
//   - prodRing.publish stores producer. It publishes all entries written before,
//     and pairs with the kernel's load in __xskq_cons_peek (net/xdp/xsk_queue.h).
//     Go's atomics are sequentially consistent, so the load of the flags in
//     needWakeup cannot move up past it: either the kernel sees the entries, or
//     this side sees that it has to wake the kernel.
//   - prodRing.refresh loads consumer, and pairs with __xskq_cons_release: the
//     entries before it are free to be written again.
//   - consRing.ready loads producer, and pairs with __xskq_prod_submit: the
//     entries before it are complete.
//   - consRing.release stores consumer, which gives the entries read before back
//     to the kernel (xskq_prod_nb_free).

import (
	"math/bits"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ringEntry is what a ring holds: descriptors (RX, TX) or addresses of frames
// (fill, completion). struct xdp_desc and __u64 of include/uapi/linux/if_xdp.h.
type ringEntry interface{ unix.XDPDesc | uint64 }

// ringView is the shared memory of a ring.
type ringView[T ringEntry] struct {
	producer, consumer *uint32
	flags              *uint32
	entries            []T
}

// prodRing is a ring that this process fills. One goroutine uses it.
type prodRing[T ringEntry] struct {
	ringView[T]
	mask uint32
	next uint32 // index of the next entry to write; what is before it and not published is private
	seen uint32 // the kernel's index, as last seen
}

func newProdRing[T ringEntry](v ringView[T]) prodRing[T] {
	return prodRing[T]{
		ringView: v, mask: uint32(len(v.entries) - 1),
		next: atomic.LoadUint32(v.producer), seen: atomic.LoadUint32(v.consumer),
	}
}

// room reports whether n more entries may be put. It looks at the kernel's
// index only if what it last saw does not do.
func (r *prodRing[T]) room(n uint32) bool {
	return uint32(len(r.entries))-(r.next-r.seen) >= n || r.refresh() && uint32(len(r.entries))-(r.next-r.seen) >= n
}

// put writes one entry, for which there must be room.
func (r *prodRing[T]) put(e T) {
	r.entries[r.next&r.mask] = e
	r.next++
}

// publish hands everything put so far to the kernel.
func (r *prodRing[T]) publish() { atomic.StoreUint32(r.producer, r.next) }

// refresh looks at the kernel's index and reports whether it moved. An index
// outside of what was published is not believed: only a kernel gone wrong, or
// memory overwritten, would show one.
func (r *prodRing[T]) refresh() bool {
	c := atomic.LoadUint32(r.consumer)
	if c == r.seen || c-r.seen > r.next-r.seen {
		return false
	}
	r.seen = c
	return true
}

// outstanding returns how many entries the kernel has not taken yet, as far as
// it was last looked at.
func (r *prodRing[T]) outstanding() uint32 { return r.next - r.seen }

// needWakeup reports whether the kernel waits for a system call.
func (r *prodRing[T]) needWakeup() bool {
	return atomic.LoadUint32(r.flags)&unix.XDP_RING_NEED_WAKEUP != 0
}

// consRing is a ring that the kernel fills. One goroutine uses it.
type consRing[T ringEntry] struct {
	ringView[T]
	mask uint32
	next uint32 // index of the next entry to take
	seen uint32 // the kernel's index, as last seen
}

func newConsRing[T ringEntry](v ringView[T]) consRing[T] {
	return consRing[T]{
		ringView: v, mask: uint32(len(v.entries) - 1),
		next: atomic.LoadUint32(v.consumer), seen: atomic.LoadUint32(v.producer),
	}
}

// ready returns how many entries may be taken. It looks at the kernel's index
// only if none is left of what it last saw.
func (r *consRing[T]) ready() uint32 {
	if r.seen == r.next {
		r.seen = atomic.LoadUint32(r.producer)
	}
	return min(r.seen-r.next, uint32(len(r.entries))) // the kernel's word, bounded
}

// take returns the next entry, of which there must be one ready.
func (r *consRing[T]) take() T {
	e := r.entries[r.next&r.mask]
	r.next++
	return e
}

// release gives the entries taken so far back to the kernel.
func (r *consRing[T]) release() { atomic.StoreUint32(r.consumer, r.next) }

func isPowerOfTwo(n int) bool { return n > 0 && bits.OnesCount(uint(n)) == 1 }

func powerOfTwoAtLeast(n int) int {
	if n <= 1 {
		return 1
	}
	return 1 << bits.Len(uint(n-1))
}
