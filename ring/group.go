package ring

import (
	"encoding/binary"
	"sync/atomic"
)

// A group is records of one size, back to back, behind one header. What a producer
// publishes in one go a consumer can then move in one go, and less memory has to
// travel from the one's cache to the other's.
//
//	header: lap 16 │ stride/8 24 │ grouped 2, count 10, size 12, then the records
const (
	maxGrouped = 1<<12 - 1 // bytes of a record in a group
	maxCount   = 1<<10 - 2 // records of a group; with one more it might be a skip
)

// groupLength stands for the length of a group.
func groupLength(n, count int) uint64 { return uint64(grouped + count<<12 + n) }

func groupSize(h uint64) int  { return int(h & maxGrouped) }
func groupCount(h uint64) int { return int(h >> 12 & (1<<10 - 1)) }

func isGroup(h uint64) bool { n := lengthOf(h); return n >= grouped && n != skip }

// maxGroup bounds a group to an eighth of the ring, whose room comes back only as
// a whole.
func maxGroup(block int) int { return min(block/8, 1<<16) }

// ReserveMany lends room for up to count records of n bytes each, back to back,
// and returns how many: those for which there is room below limit bytes in use,
// and which lie in one piece. To the consumer they are records like any others;
// PeekMany gives it several of them. 0 leaves it to ReserveBelow to say why.
func (r *SPSC) ReserveMany(n, count, limit int) (room []byte, got int) {
	most := maxGroup(len(r.block)) - headerSize
	if n < alignment || n > min(most, maxGrouped) || count <= 0 {
		return nil, 0
	}
	r.guard.enter()
	count = min(count, most/n, maxCount)
	at := r.next & r.mask
	bound := uint64(max(min(limit, len(r.block)), 0)) &^ (alignment - 1)
	free := int64(r.tailSeen + bound - r.next)
	if free < int64(FramedSize(n*count)) {
		r.tailSeen = atomic.LoadUint64(&r.tail) // pairs with the store in Release
		free = int64(r.tailSeen + bound - r.next)
	}
	free = min(free, int64(uint64(len(r.block))-at)) - headerSize
	if free < int64(n) {
		r.leaveIfEmpty()
		return nil, 0
	}
	got = min(count, int(free)/n)
	stride := FramedSize(n * got)
	binary.NativeEndian.PutUint64(r.block[at:], header(groupLength(n, got), uint64(stride), 0))
	r.next += uint64(stride)
	at += headerSize
	end := at + uint64(n*got)
	return r.block[at:end:end], got
}

// ClaimMany is Claim for count records of n bytes each, which lie back to back in
// room and become visible together; room is nil if the ring has no room for all of
// them, or never has. To the consumer they are records like any others; PeekMany
// gives it several of them.
func (r *MPSC) ClaimMany(n, count, limit int) (room []byte, s Slot) {
	if n < alignment || n > maxGrouped || count <= 0 || count > maxCount || headerSize+n*count > maxGroup(len(r.block)) {
		return nil, Slot{}
	}
	at, need, lap, ok := r.claim(headerSize+n*count, limit)
	if !ok {
		return nil, Slot{}
	}
	from := at + headerSize
	to := from + uint64(n*count)
	return r.block[from:to:to], Slot{&r.words[at/8], header(groupLength(n, count), need, lap)}
}

// group lends what is left of the group that the run is at, whose header is h.
func (x *Run) group(h uint64) (records []byte, size int) {
	size = groupSize(h)
	at := x.used + headerSize
	end := at + groupCount(h)*size
	return x.b[at+x.in : end : end], size
}

// PeekMany lends as many of the next records as lie back to back and have one
// size, until AdvanceMany: all of them are in records, size bytes each. ok is
// false at the end of the run.
func (x *Run) PeekMany() (records []byte, size int, ok bool) {
	for x.used < len(x.b) {
		h := word(x.b, x.used)
		switch n := lengthOf(h); {
		case n < grouped:
			at := x.used + headerSize
			return x.b[at : at+n : at+n], n, true
		case n == skip:
			x.step(h)
		default:
			records, size = x.group(h)
			return records, size, true
		}
	}
	return nil, 0, false
}

// AdvanceMany goes over the first n records that PeekMany returned.
func (x *Run) AdvanceMany(n int) {
	h := word(x.b, x.used)
	if !isGroup(h) {
		if n > 0 {
			x.step(h)
		}
		return
	}
	size := groupSize(h)
	x.in += n * size
	if x.in >= groupCount(h)*size {
		x.in = 0
		x.step(h)
	}
}
