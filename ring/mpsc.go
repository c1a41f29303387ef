package ring

import (
	"encoding/binary"
	"sync/atomic"
)

// claimUnit is the grain of claims: each has a mark of its own for every unit.
const claimUnit = 16

// MPSC is a ring of variable-size records for any number of producers and one
// consumer. NewMPSC makes one. Claim and Commit may be called from any
// goroutine, Look and Release by the consumer; Len, Head and Tail by anybody.
//
// A producer claims room by moving claimed forward, fills it at its leisure, and
// commits it by a mark of its own. Between the two nobody waits for it: others
// claim and commit behind it. The consumer, though, takes claims in order: a
// producer that is slow holds up what lies behind its claim, and nothing else.
//
//		     tail                                claimed
//		───────▼─────────┬─────────┬────────────────▼──────
//		 free  │committed│ claimed │ committed      │ free
//		───────┴─────────┴─────────┴────────────────┴──────
//		       └─ Look ──┘ the consumer comes no further
//
//	  - claimed is written by producers, by compare-and-swap. It publishes
//	    nothing: room becomes records by its mark.
//	  - marks[u] belongs to whoever claimed unit u, until Commit stores into it.
//	    That store publishes the bytes of the claim and pairs with the load in
//	    Look. It says how long the claim is and in which lap it was made, so that
//	    a mark of an earlier lap is never taken for one of this.
//	  - tail is written by the consumer alone, in Release. The store hands the
//	    room back and pairs with the load in Claim.
type MPSC struct {
	block []byte
	mask  uint64
	shift uint     // log2 of the size: index >> shift is the lap
	marks []uint64 // one for each unit of the block: the lap in the upper half, a length in the lower

	_       [falseSharing]byte
	claimed uint64

	_     [falseSharing]byte
	tail  uint64
	read  uint64 // advanced over up to here; the consumer's own
	ready uint64 // seen to be committed up to here; the consumer's own

	_ [falseSharing]byte
}

// NewMPSC makes a ring over size bytes, a power of two from MinSize to MaxSize,
// and half as many for the marks; else ErrSize.
func NewMPSC(size int) (*MPSC, error) {
	if err := checkSize(size); err != nil {
		return nil, err
	}
	r := &MPSC{block: make([]byte, size), mask: uint64(size - 1), marks: make([]uint64, size/claimUnit)}
	for 1<<r.shift < size {
		r.shift++
	}
	return r, nil
}

// startAt makes the indices begin at i, for tests of their wrap-around.
func (r *MPSC) startAt(i uint64) {
	i &^= r.mask
	r.claimed, r.tail, r.read, r.ready = i, i, i, i
	clear(r.marks)
}

// MaxRecord is the most bytes that a claim for one record can have.
func (r *MPSC) MaxRecord() int { return len(r.block)/2 - headerSize }

// Cap is the memory of the ring in bytes, headers included, marks not.
func (r *MPSC) Cap() int { return len(r.block) }

// Len is the number of bytes in use or claimed.
func (r *MPSC) Len() int {
	tail := atomic.LoadUint64(&r.tail)
	return int(atomic.LoadUint64(&r.claimed) - tail)
}

// Head is the index up to which room is claimed, Tail the one up to which it is
// released; as with SPSC.
func (r *MPSC) Head() uint64 { return atomic.LoadUint64(&r.claimed) }

// Tail: see Head.
func (r *MPSC) Tail() uint64 { return atomic.LoadUint64(&r.tail) }

// Claim is room for records in an MPSC, from its Claim to its Commit, which must
// follow. It belongs to one producer.
type Claim struct {
	room []byte
	used int // bytes of room that records have been laid out in
	last int // where the last record's header lies
	mark *uint64
	done uint64 // what Commit stores there
}

// Claim claims room for records whose FramedSize adds up to size bytes; ok is
// false if the ring has no room for them below limit bytes in use, or never has.
func (r *MPSC) Claim(size, limit int) (c Claim, ok bool) {
	if uint(size-1) >= uint(len(r.block)/2) {
		return Claim{}, false
	}
	need := (uint64(size) + claimUnit - 1) &^ (claimUnit - 1)
	bound := uint64(min(limit, len(r.block)))
	for {
		// tail first: then claimed can only be too new for it, which looks like
		// less room than there is.
		tail := atomic.LoadUint64(&r.tail) // pairs with the store in Release
		claimed := atomic.LoadUint64(&r.claimed)
		at, over := claimed&r.mask, uint64(0)
		if rest := uint64(len(r.block)) - at; need > rest {
			over = rest
		}
		if claimed+over+need-tail > bound {
			return Claim{}, false
		}
		if !atomic.CompareAndSwapUint64(&r.claimed, claimed, claimed+over+need) {
			continue
		}
		if over != 0 {
			// What is left of the block is a claim of its own, without a record.
			binary.NativeEndian.PutUint64(r.block[at:], header(skip, over))
			storeRelease(&r.marks[at/claimUnit], r.markOf(claimed, over))
			claimed += over
			at = 0
		}
		return Claim{
			room: r.block[at : at+need : at+need],
			mark: &r.marks[at/claimUnit],
			done: r.markOf(claimed, need),
		}, true
	}
}

// lapOf is the lap of index i in the form of a mark: never 0, so that a unit in
// which no claim ever began has the mark of none.
func (r *MPSC) lapOf(i uint64) uint64 { return (i>>r.shift<<1 | 1) << 32 }

// markOf is the mark of a claim of n bytes at index i.
func (r *MPSC) markOf(i, n uint64) uint64 { return r.lapOf(i) | n }

// Reserve lends n bytes for the next record of the claim; nil if they do not fit
// into what was claimed.
func (c *Claim) Reserve(n int) []byte {
	at := c.used + headerSize
	if n < 0 || at+n > len(c.room) {
		return nil
	}
	stride := FramedSize(n)
	binary.NativeEndian.PutUint64(c.room[c.used:], header(uint64(n), uint64(stride)))
	c.last = c.used
	c.used += stride
	return c.room[at : at+n : at+n]
}

// Commit makes the records of the claim visible, by one store. A claim without a
// record is fine.
func (c *Claim) Commit() {
	switch {
	case c.used == len(c.room):
	case c.used == 0:
		binary.NativeEndian.PutUint64(c.room, header(skip, uint64(len(c.room))))
	default: // what is left goes with the last record
		h := binary.NativeEndian.Uint64(c.room[c.last:])
		binary.NativeEndian.PutUint64(c.room[c.last:], header(uint64(uint32(h)), uint64(len(c.room)-c.last)))
	}
	storeRelease(c.mark, c.done) // publishes the bytes written; pairs with the load in Look
}

// Cancel commits the claim without its records.
func (c *Claim) Cancel() {
	c.used = 0
	c.Commit()
}

// Look lends the consumer the records that are there, up to the first claim that
// is not committed, as far as they lie in one piece: at the end of the block a
// further Look may find more. A Look before Release lends the same records again.
func (r *MPSC) Look() Run {
	blockEnd := (r.read | r.mask) + 1
	for r.ready != blockEnd {
		mark := atomic.LoadUint64(&r.marks[r.ready&r.mask/claimUnit]) // pairs with the store in Commit
		if mark&^(1<<32-1) != r.lapOf(r.ready) {
			break
		}
		r.ready += mark & (1<<32 - 1)
	}
	return lend(r.block, r.mask, r.read, r.ready)
}

// Release gives back the records of run that Advance has gone over, by one
// store. The run is empty afterwards.
func (r *MPSC) Release(run *Run) {
	run.Peek() // goes over a skip at the end, too
	r.read += uint64(run.used)
	*run = Run{}
	storeRelease(&r.tail, r.read) // hands the room back; pairs with the load in Claim
}
