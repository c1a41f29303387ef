package ipvsync

import (
	"math/bits"
	"sync/atomic"
)

// The index of a shard finds entries by hash: open addressing over buckets of
// eight slots, one cache line. A slot is one word, so that it changes at once:
//
//	ref (32), tag from the hash (24), in slot 0 the bucket's overflow (8)
//
// A key has one slot, at the newest of its entries; older ones hang behind it.
// A key that finds its bucket full goes to the next one that is not, and counts
// in the overflow of each bucket that it passed. Who looks for it stops at a
// bucket of overflow 0. A count that reached 255 stays.
const (
	bucketSlots   = 8
	bucketBytes   = bucketSlots * 8
	slotTag       = 0xffffff << 32
	slotBits      = 1<<56 - 1
	overflowOne   = 1 << 56
	overflowMax   = 255
	bucketFilling = 5 // slots used in each, if all entries of a table are
)

type index struct {
	region
	buckets uint64
}

func newIndex(entries uint64) (index, error) {
	n := entries/bucketFilling + 2
	r, err := newRegion(uintptr(n) * bucketBytes)
	return index{r, n}, err
}

// home is the bucket of a hash. The highest byte chose the shard.
func (x *index) home(hash uint64) uint64 {
	hi, _ := bits.Mul64(hash<<8, x.buckets)
	return hi
}

func (x *index) bucket(b uint64) *uint64 { return x.word(uintptr(b) * bucketBytes) }

func (x *index) next(b uint64) uint64 {
	if b++; b == x.buckets {
		return 0
	}
	return b
}

func tagOf(hash uint64) uint64 { return hash << 32 & slotTag }

// guess is the entry that the hash's home bucket has for its tag, most likely
// that of the key: worth to be fetched.
func (x *index) guess(hash uint64) ref {
	tag, p := tagOf(hash), x.bucket(x.home(hash))
	for i := range bucketSlots {
		w := atomic.LoadUint64(wordAfter(p, i))
		if w&slotTag == tag && uint32(w) != 0 {
			return ref(w)
		}
	}
	return 0
}

// put takes a free slot for r. The caller holds the mutex and knows that the key has none.
// It fails when every slot is taken, which the index's size rules out.
func (x *index) put(hash uint64, r ref) bool {
	b := x.home(hash)
	for n := x.buckets; n > 0; n-- {
		p := x.bucket(b)
		for i := range bucketSlots {
			q := wordAfter(p, i)
			if w := *q; uint32(w) == 0 {
				storeWord(q, w&^slotBits|tagOf(hash)|uint64(r))
				return true
			}
		}
		if *p>>56 < overflowMax {
			storeWord(p, *p+overflowOne)
		}
		b = x.next(b)
	}
	return false
}

// set lets the slot of old name r, or be free for 0. The caller holds the mutex
// and knows that old is there.
func (x *index) set(hash uint64, old, r ref) {
	home := x.home(hash)
	for b := home; ; b = x.next(b) {
		p := x.bucket(b)
		for i := range bucketSlots {
			q := wordAfter(p, i)
			w := *q
			if ref(w) != old {
				continue
			}
			if r != 0 {
				storeWord(q, w&^0xffffffff|uint64(r))
				return
			}
			storeWord(q, w&^slotBits)
			for ; home != b; home = x.next(home) {
				if p := x.bucket(home); *p>>56 < overflowMax {
					storeWord(p, *p-overflowOne)
				}
			}
			return
		}
	}
}
