package ring

import "sync/atomic"

// Slot is room for one record in an MPSC, or for several of one size, from its
// ClaimOne or ClaimMany to its Commit or Cancel, one of which must follow. It belongs to one producer.
type Slot struct {
	word   *uint64 // of the header
	header uint64  // what Commit stores there
}

// ClaimOne is Claim for one record of n bytes, to be written to record; record is
// nil if the ring has no room for it below limit bytes in use, or never has.
//
// A compare-and-swap lets nothing overlap that comes before and after it. Here is
// as little as can be: it costs half of Claim, Reserve and Commit.
func (r *MPSC) ClaimOne(n, limit int) (record []byte, s Slot) {
	if uint(n) > uint(r.longest) {
		return nil, Slot{}
	}
	need := (uint64(n) + headerSize + claimUnit - 1) &^ (claimUnit - 1)
	for {
		tail := atomic.LoadUint64(&r.tailSeen) // first, as in Claim
		claimed := atomic.LoadUint64(&r.claimed)
		at, end := claimed&r.mask, claimed+need
		room, word := r.block[at:], &r.words[at/8]
		if need > uint64(len(room)) || int64(end-tail) > int64(min(limit, len(r.block))) {
			return r.claimOneSlowly(n, limit)
		}
		if atomic.CompareAndSwapUint64(&r.claimed, claimed, end) {
			return room[headerSize : headerSize+n : headerSize+n], Slot{word, header(uint64(n), need, r.lap(claimed))}
		}
		stayAway()
	}
}

// claimOneSlowly is for the end of the block, and for a ring that seems to be full.
func (r *MPSC) claimOneSlowly(n, limit int) ([]byte, Slot) {
	at, need, lap, ok := r.claim(FramedSize(n), limit)
	if !ok {
		return nil, Slot{}
	}
	from := at + headerSize
	to := from + uint64(n)
	return r.block[from:to:to], Slot{&r.words[at/8], header(uint64(n), need, lap)}
}

// Commit makes what was claimed visible.
func (s Slot) Commit() {
	storeReleaseAhead(s.word, s.header) // publishes the bytes written; pairs with the load in Look
}

// Cancel commits the slot without its records.
func (s Slot) Cancel() { storeRelease(s.word, s.header|skip) }

// awayTurns is how often stayAway turns: one to two microseconds.
const awayTurns = 10_000

// stayAway is what a producer does that lost a race for claimed: it leaves the
// line to the one that won, which makes some sixty claims meanwhile. If both went on,
// each claim of either would wait for the line (BenchmarkTwoProducers). It waits for
// nobody: it ends by itself, whatever the others do.
func stayAway() {
	for range awayTurns {
	}
}
