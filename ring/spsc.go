package ring

import (
	"encoding/binary"
	"sync/atomic"
)

// SPSC is a ring of variable-size records for one producer and one consumer.
// NewSPSC makes one. Reserve, ReserveMany, Publish and Cancel belong to the producer, Look
// and Release to the consumer; Len, Head and Tail may be called by anybody.
//
// Indices run freely, in bytes, and are masked only to find a place; their
// difference is what lies in the ring. Each has one writer:
//
//   - head is written by the producer alone, in Publish. The store publishes
//     the bytes of all records before it; it pairs with the load in Look.
//   - tail is written by the consumer alone, in Release. The store hands the
//     room back; it pairs with the loads in ReserveBelow and ReserveMany.
//
// The producer owns [next, tail+size), the consumer [read, head).
type SPSC struct {
	block []byte
	mask  uint64
	guard guard // of the producer; empty but for the build tag ringdebug

	_        [falseSharing]byte
	head     uint64 // published up to here; written by the producer
	next     uint64 // reserved up to here; the producer's own
	tailSeen uint64 // tail when the producer last looked

	_    [falseSharing]byte
	tail uint64 // released up to here; written by the consumer
	read uint64 // looked at up to here; the consumer's own
	in   int    // bytes of the group there that are gone over; the consumer's own

	_ [falseSharing]byte
}

// NewSPSC makes a ring over size bytes, a power of two from MinSize to MaxSize;
// else ErrSize.
func NewSPSC(size int) (*SPSC, error) {
	if err := checkSize(size); err != nil {
		return nil, err
	}
	return &SPSC{block: make([]byte, size), mask: uint64(size - 1)}, nil
}

// startAt makes the indices begin at i, for tests of their wrap-around.
func (r *SPSC) startAt(i uint64) {
	i &^= r.mask
	r.head, r.next, r.tailSeen, r.tail, r.read = i, i, i, i, i
}

// MaxRecord is the most bytes a record can have.
func (r *SPSC) MaxRecord() int { return maxRecord(len(r.block)) }

// Cap is the memory of the ring in bytes, headers included.
func (r *SPSC) Cap() int { return len(r.block) }

// Len is the number of bytes in use, headers and skipped space included. The
// producer gets an upper bound, the consumer a lower one.
func (r *SPSC) Len() int {
	tail := atomic.LoadUint64(&r.tail) // first, so that the difference is never negative
	return int(atomic.LoadUint64(&r.head) - tail)
}

// Head is the index up to which records are published, and Tail the one up to
// which they are released: when Tail has come to a Head that was read before,
// everything published until then has been released. Compare by difference.
func (r *SPSC) Head() uint64 { return atomic.LoadUint64(&r.head) }

// Tail: see Head.
func (r *SPSC) Tail() uint64 { return atomic.LoadUint64(&r.tail) }

// Reserve lends n bytes for the next record, which the producer fills before
// Publish; nil if the ring has no room for it, or never has (n < 0, n >
// MaxRecord). Reserved records become visible together, in order, at Publish.
// The bytes hold whatever an earlier record left.
func (r *SPSC) Reserve(n int) []byte { return r.ReserveBelow(n, len(r.block)) }

// ReserveBelow is Reserve that also refuses if more than limit bytes would then
// be in use, for records that must leave room for more important ones.
func (r *SPSC) ReserveBelow(n, limit int) []byte {
	r.guard.enter()
	limit = max(min(limit, len(r.block)), 0)
	at := r.next & r.mask
	end := r.next + (uint64(n)+headerSize+alignment-1)&^(alignment-1)
	// One comparison each: does it fit before the end of the block, is there
	// room as far as the producer knows, does the length make sense?
	if (r.next^(end-1))&^r.mask != 0 || end-r.tailSeen > uint64(limit) || uint(n) > uint(r.MaxRecord()) {
		return r.reserveSlow(n, limit)
	}
	binary.NativeEndian.PutUint64(r.block[at:], header(uint64(n), end-r.next, 0))
	r.next = end
	at += headerSize
	return r.block[at : at+uint64(n) : at+uint64(n)]
}

func (r *SPSC) reserveSlow(n, limit int) []byte {
	if uint(n) > uint(r.MaxRecord()) {
		r.leaveIfEmpty()
		return nil
	}
	at, need, over := r.next&r.mask, uint64(FramedSize(n)), uint64(0)
	if rest := uint64(len(r.block)) - at; need > rest {
		over = rest
	}
	end := r.next + over + need
	if end-r.tailSeen > uint64(limit) {
		r.tailSeen = atomic.LoadUint64(&r.tail) // pairs with the store in Release
		if end-r.tailSeen > uint64(limit) {
			r.leaveIfEmpty()
			return nil
		}
	}
	if over != 0 {
		binary.NativeEndian.PutUint64(r.block[at:], header(skip, over, 0))
		at = 0
	}
	binary.NativeEndian.PutUint64(r.block[at:], header(uint64(n), need, 0))
	r.next = end
	at += headerSize
	return r.block[at : at+uint64(n) : at+uint64(n)]
}

// Unreserve takes back the record of n bytes that was reserved last, and not
// published yet.
func (r *SPSC) Unreserve(n int) {
	r.next -= uint64(FramedSize(n))
	if r.next&r.mask == 0 && r.next != r.head {
		// It may have begun the block, behind a skip with nothing reserved before.
		h := binary.NativeEndian.Uint64(r.block[r.head&r.mask:])
		if lengthOf(h) == skip && r.head+uint64(strideOf(h)) == r.next {
			r.next = r.head
		}
	}
	r.leaveIfEmpty()
}

// leaveIfEmpty lets the ring change hands when nothing is reserved.
func (r *SPSC) leaveIfEmpty() {
	if r.next == r.head {
		r.guard.leave()
	}
}

// Cancel takes back every record reserved since the last Publish.
func (r *SPSC) Cancel() {
	r.next = r.head
	r.guard.leave()
}

// Publish makes all reserved records visible to the consumer, by one store. A
// producer that then looks at whether the consumer sleeps must know that the
// store may still be on its way: see PublishIsFence.
func (r *SPSC) Publish() {
	storeRelease(&r.head, r.next) // publishes the bytes written; pairs with the load in Look
	r.guard.leave()
}

// Look lends the consumer the records that are there, as far as they lie in one
// piece: at the end of the block a further Look may find more. A Look before
// Release lends the same records again.
func (r *SPSC) Look() Run {
	head := atomic.LoadUint64(&r.head) // pairs with the store in Publish
	run := lend(r.block, &r.read, head, false)
	run.in = r.in
	return run
}

// lend is the run from index read to index end, up to the end of the block. It
// is empty only if there is no record at all: what is no record it goes over.
func lend(block []byte, read *uint64, end uint64, wipe bool) Run {
	for {
		at := *read & uint64(len(block)-1)
		to := min(at+end-*read, uint64(len(block)))
		run := Run{b: block[at:to:to], wipe: wipe}
		if _, ok := run.Peek(); ok || len(run.b) == 0 {
			return run
		}
		*read += uint64(run.used)
	}
}

// Release gives back the records of run that Advance has gone over, by one
// store. The run must not be used afterwards.
func (r *SPSC) Release(run Run) {
	run.Peek() // goes over a skip at the end, too
	r.read += uint64(run.used)
	r.in = run.in
	storeRelease(&r.tail, r.read) // hands the room back; pairs with the load in reserveSlow
}
