package ring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
)

const (
	// wordSize is the alignment of records and the size of the length word
	// before each: 4 bytes of length, 4 unused.
	wordSize = 8
	// skipMark stands for a length: the rest of the block is unused.
	skipMark = 1<<32 - 1
	// falseSharing is the distance between words of different writers: two
	// lines of 64 bytes, because amd64 fetches them in pairs.
	falseSharing = 128
	// MinSize and MaxSize bound the memory of a ring, in bytes.
	MinSize = 64
	MaxSize = 1 << 31
)

// ErrSize says that a ring cannot have this size.
var ErrSize = errors.New("ring size out of range")

// SPSC is a ring of variable-size records for one producer and one consumer.
// NewSPSC makes one. Reserve and Publish belong to the producer, Next and
// Release to the consumer; Len may be called by anybody.
//
// Indices run freely and are never masked before use; their difference is the
// number of bytes in the ring. Each has one writer:
//
//   - head is written by the producer alone (Publish). Its store publishes the
//     bytes of all records before it, and pairs with the load in Next.
//   - tail is written by the consumer alone (Release). Its store hands the room
//     back, and pairs with the load in Reserve.
//
// The producer owns [next, tail+size), the consumer [read, head).
type SPSC struct {
	block []byte
	mask  uint64

	_        [falseSharing]byte
	head     atomic.Uint64 // published up to here; written by the producer
	next     uint64        // reserved up to here; the producer's own
	tailSeen uint64        // tail when the producer last looked

	_        [falseSharing]byte
	tail     atomic.Uint64 // released up to here; written by the consumer
	read     uint64        // handed out up to here; the consumer's own
	headSeen uint64        // head when the consumer last looked

	_ [falseSharing]byte
}

// NewSPSC makes a ring over size bytes, a power of two from MinSize to MaxSize;
// else ErrSize.
func NewSPSC(size int) (*SPSC, error) {
	if size < MinSize || size > MaxSize || size&(size-1) != 0 {
		return nil, fmt.Errorf("%w: %d bytes, want a power of two from %d to %d", ErrSize, size, MinSize, MaxSize)
	}
	return &SPSC{block: make([]byte, size), mask: uint64(size - 1)}, nil
}

// startAt makes the indices begin at i, for tests of their wrap-around.
func (r *SPSC) startAt(i uint64) {
	i &^= r.mask
	r.head.Store(i)
	r.tail.Store(i)
	r.next, r.tailSeen, r.read, r.headSeen = i, i, i, i
}

// MaxRecord is the most bytes a record can have: half the block less its length
// word, so that it fits whatever the position, once the ring is empty.
func (r *SPSC) MaxRecord() int { return len(r.block)/2 - wordSize }

// Cap is the memory of the ring in bytes, length words included.
func (r *SPSC) Cap() int { return len(r.block) }

// Len is the number of bytes in use, length words and skipped space included.
// The producer gets an upper bound, the consumer a lower one.
func (r *SPSC) Len() int {
	tail := r.tail.Load() // first, so that the difference is never negative
	return int(r.head.Load() - tail)
}

// Reserve lends n bytes for the next record, which the producer fills before
// Publish; nil if the ring has no room for it, or none for any record of n
// bytes (n < 0 or n > MaxRecord). Reserved records become visible together, in
// order, at Publish. The bytes are those of an earlier record.
func (r *SPSC) Reserve(n int) []byte {
	if uint(n) > uint(r.MaxRecord()) {
		return nil
	}
	need := uint64(n+2*wordSize-1) &^ (wordSize - 1)
	at := r.next & r.mask
	skip := uint64(0)
	if rest := uint64(len(r.block)) - at; need > rest {
		skip = rest
	}
	end := r.next + skip + need
	if end-r.tailSeen > uint64(len(r.block)) {
		r.tailSeen = r.tail.Load() // pairs with the store in Release
		if end-r.tailSeen > uint64(len(r.block)) {
			return nil
		}
	}
	if skip != 0 {
		binary.NativeEndian.PutUint32(r.block[at:], skipMark)
		at = 0
	}
	r.next = end
	binary.NativeEndian.PutUint32(r.block[at:], uint32(n))
	at += wordSize
	return r.block[at : at+uint64(n) : at+uint64(n)]
}

// Cancel takes back every record reserved since the last Publish.
func (r *SPSC) Cancel() { r.next = r.head.Load() }

// Publish makes all reserved records visible to the consumer, by one store.
func (r *SPSC) Publish() {
	r.head.Store(r.next) // publishes the bytes written; pairs with the load in Next
}

// Next lends the next record to the consumer until Release; ok is false when
// there is none.
func (r *SPSC) Next() (record []byte, ok bool) {
	for {
		if r.read == r.headSeen {
			r.headSeen = r.head.Load() // pairs with the store in Publish
			if r.read == r.headSeen {
				return nil, false
			}
		}
		at := r.read & r.mask
		n := binary.NativeEndian.Uint32(r.block[at:])
		if n == skipMark {
			r.read += uint64(len(r.block)) - at
			continue
		}
		r.read += (uint64(n) + 2*wordSize - 1) &^ (wordSize - 1)
		at += wordSize
		return r.block[at : at+uint64(n) : at+uint64(n)], true
	}
}

// Unread takes back the last record that Next lent, n bytes long, so that Next
// lends it again. At most one record, and not one that was released.
func (r *SPSC) Unread(n int) {
	r.read -= (uint64(n) + 2*wordSize - 1) &^ (wordSize - 1)
}

// Release gives back every record that Next lent, by one store.
func (r *SPSC) Release() {
	r.tail.Store(r.read) // hands the room back; pairs with the load in Reserve
}

// Head is the index up to which records are published, and Tail the one up to
// which they are released: Tail reaches a Head read earlier when everything
// published before that moment has been released. Compare by difference.
func (r *SPSC) Head() uint64 { return r.head.Load() }

// Tail: see Head.
func (r *SPSC) Tail() uint64 { return r.tail.Load() }
