package ring

import (
	"encoding/binary"
	"sync/atomic"
)

// MPSC is a ring of variable-size records for any number of producers and one
// consumer. NewMPSC makes one. Claim may be called from any goroutine, Look and
// Release by the consumer; Len, Head and Tail by anybody.
//
// A producer claims room by moving claimed forward, fills it at its leisure, and
// commits it. Between the two nobody waits for it: others claim and commit
// behind it. The consumer, though, takes claims in order: a producer that is
// slow holds up what lies behind its claim, and nothing else.
//
//		     tail                                claimed
//		───────▼─────────┬─────────┬────────────────▼──────
//		 free  │committed│ claimed │ committed      │ free
//		───────┴─────────┴─────────┴────────────────┴──────
//		       └─ Look ──┘ the consumer comes no further
//
//	  - claimed is written by producers, by compare-and-swap. It publishes
//	    nothing: room becomes records by a header.
//	  - the first header of a claim belongs to whoever made the claim, until
//	    Commit stores it. That store publishes the bytes of the claim and pairs
//	    with the load in Look, which knows the header by its lap.
//	  - tail is written by the consumer alone, in Release. The store hands the
//	    room back and pairs with the load in Claim.
//	  - tailSeen is what some producer last loaded of tail, so that the line of
//	    tail is seldom fetched. Any of them may write it; an old value only looks
//	    like less room.
//
// Claims begin at a unit. Where one may begin next, the consumer must not take
// what an earlier lap left there for a header of this lap. Therefore the first
// word of every free unit is either 0 or a header of the lap before: the
// consumer wipes those of the units inside a record when it goes over it, and
// the others are first headers of claims.
type MPSC struct {
	words   []uint64 // the block, by which headers are stored and loaded
	block   []byte   // the same memory
	mask    uint64
	shift   uint // log2 of the size: index >> shift is the lap
	longest int  // MaxRecord

	_        [falseSharing]byte
	claimed  uint64
	tailSeen uint64

	_     [falseSharing]byte
	tail  uint64
	read  uint64 // advanced over up to here; the consumer's own
	ready uint64 // seen to be committed up to here; the consumer's own
	in    int    // bytes of records gone over in the group at read; the consumer's own

	_ [falseSharing]byte
}

// NewMPSC makes a ring over size bytes, a power of two from MinSize to MaxSize;
// else ErrSize.
func NewMPSC(size int) (*MPSC, error) {
	if err := checkSize(size); err != nil {
		return nil, err
	}
	r := &MPSC{words: make([]uint64, size/8), mask: uint64(size - 1), longest: maxRecord(size)}
	r.block = bytesOf(r.words)
	for 1<<r.shift < size {
		r.shift++
	}
	return r, nil
}

// startAt makes the indices begin at i, for tests of their wrap-around.
func (r *MPSC) startAt(i uint64) {
	i &^= r.mask
	r.claimed, r.tailSeen, r.tail, r.read, r.ready = i, i, i, i, i
	clear(r.words)
}

// MaxRecord is the most bytes that a claim for one record can have.
func (r *MPSC) MaxRecord() int { return r.longest }

// Cap is the memory of the ring in bytes, headers included.
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

// lap is that of index i, as headers have it.
func (r *MPSC) lap(i uint64) uint64 { return i>>r.shift&0x7fff<<1 | 1 }

// Claim is room for records in an MPSC, from its Claim to its Commit, which must
// follow. It belongs to one producer.
type Claim struct {
	room  []byte
	word  *uint64 // of the first header
	first uint64  // what Commit stores there
	lap   uint64
	used  int // bytes of room that records have been laid out in
	last  int // where the last record's header lies
}

// Claim claims room for records whose FramedSize adds up to size bytes; ok is
// false if the ring has no room for them below limit bytes in use, or never has.
func (r *MPSC) Claim(size, limit int) (c Claim, ok bool) {
	at, need, lap, ok := r.claim(size, limit)
	if !ok {
		return Claim{}, false
	}
	return Claim{room: r.block[at : at+need : at+need], word: &r.words[at/8], lap: lap}, true
}

// claim claims size bytes, which become need, at the index at of the block.
func (r *MPSC) claim(size, limit int) (at, need, lap uint64, ok bool) {
	if uint(size-1) >= uint(headerSize+r.longest) {
		return 0, 0, 0, false
	}
	need = (uint64(size) + claimUnit - 1) &^ (claimUnit - 1)
	bound := uint64(max(min(limit, len(r.block)), 0))
	for {
		// The tail first: then claimed can only be too new for it, which looks
		// like less room than there is.
		tail := atomic.LoadUint64(&r.tailSeen)
		claimed := atomic.LoadUint64(&r.claimed)
		over := uint64(0)
		at = claimed & r.mask
		if rest := uint64(len(r.block)) - at; need > rest {
			over = rest
		}
		if claimed+over+need-tail > bound {
			now := atomic.LoadUint64(&r.tail) // pairs with the store in Release
			if now == tail {
				return 0, 0, 0, false
			}
			atomic.StoreUint64(&r.tailSeen, now)
			continue
		}
		if !atomic.CompareAndSwapUint64(&r.claimed, claimed, claimed+over+need) {
			stayAway()
			continue
		}
		if over != 0 {
			// What is left of the block is a claim of its own, without a record.
			storeRelease(&r.words[at/8], header(skip, over, r.lap(claimed)))
			claimed += over
			at = 0
		}
		return at, need, r.lap(claimed), true
	}
}

// Reserve lends n bytes for the next record of the claim; nil if they do not fit
// into what was claimed.
func (c *Claim) Reserve(n int) []byte {
	at := c.used + headerSize
	if n < 0 || at+n > len(c.room) {
		return nil
	}
	stride := FramedSize(n)
	c.put(c.used, header(uint64(n), uint64(stride), c.lap))
	c.last = c.used
	c.used += stride
	return c.room[at : at+n : at+n]
}

// put lays down the header at at; the first one is kept for Commit.
func (c *Claim) put(at int, h uint64) {
	if at == 0 {
		c.first = h
		return
	}
	binary.NativeEndian.PutUint64(c.room[at:], h)
}

// Commit makes the records of the claim visible, by one store. A claim without a
// record is fine.
func (c *Claim) Commit() {
	if c.used != len(c.room) {
		// What is left goes with the last record.
		length := uint64(skip)
		if c.used > 0 {
			h := c.first
			if c.last > 0 {
				h = binary.NativeEndian.Uint64(c.room[c.last:])
			}
			length = uint64(lengthOf(h))
		}
		c.put(c.last, header(length, uint64(len(c.room)-c.last), c.lap))
	}
	storeRelease(c.word, c.first) // publishes the bytes written; pairs with the load in Look
}

// Cancel commits the claim without its records.
func (c *Claim) Cancel() {
	c.used, c.last = 0, 0
	c.Commit()
}

// Look lends the consumer the records that are there, up to the first claim that
// is not committed, as far as they lie in one piece: at the end of the block a
// further Look may find more. A Look before any Advance lends the same records
// again.
func (r *MPSC) Look() Run {
	run := r.look()
	if len(run.b) == 0 && r.read != r.tail {
		run = r.look() // there was nothing but skips up to the end of the block
	}
	return run
}

func (r *MPSC) look() Run {
	// To the end of the block that read is in.
	blockEnd := (r.read | r.mask) + 1
	lap := r.lap(r.read)
	for r.ready != blockEnd {
		h := atomic.LoadUint64(&r.words[r.ready&r.mask/8]) // pairs with the store in Commit
		if lapIn(h) != lap {
			break
		}
		r.ready += uint64(strideOf(h))
	}
	run := lend(r.block, &r.read, r.ready, true)
	run.in = r.in
	return run
}

// Release gives back the records of run that Advance has gone over, by one
// store. The run must not be used afterwards.
func (r *MPSC) Release(run Run) {
	run.Peek() // goes over what is no record, too
	r.read += uint64(run.used)
	r.in = run.in
	storeRelease(&r.tail, r.read) // hands the room back; pairs with the load in Claim
}
