package ring

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// headerSize is what precedes each record: one word.
	headerSize = 8
	// alignment of records and their headers.
	alignment = 8
	// skip stands for a length: there is no record up to the next header.
	skip = 1<<24 - 1
	// grouped and what is above it, up to skip, stands for a length, too: there
	// is a group. See group.go.
	grouped = 3 << 22
	// falseSharing is the distance between words of different writers: two
	// lines of 64 bytes, because amd64 fetches them in pairs, and because some
	// arm64 have lines of 128.
	falseSharing = 128
	// claimUnit is the grain of claims in an MPSC, a cache line: producers that
	// fill neighbouring claims do not disturb each other.
	claimUnit = 64
)

// Limits of a ring's memory, in bytes.
const (
	MinSize = 256
	MaxSize = 1 << 31
)

// ErrSize says that a ring cannot have this size.
var ErrSize = errors.New("ring size out of range")

func checkSize(size int) error {
	if size < MinSize || size > MaxSize || size&(size-1) != 0 {
		return fmt.Errorf("%w: %d bytes, want a power of two from %d to %d", ErrSize, size, MinSize, MaxSize)
	}
	return nil
}

// maxRecord is half the block, with its header: so a record fits whatever the
// position, once the ring is empty. Its length must fit a header, too.
func maxRecord(size int) int { return min(size/2-headerSize, grouped-claimUnit) }

// FramedSize is the memory that a record of n bytes takes in a ring.
func FramedSize(n int) int { return (headerSize + n + alignment - 1) &^ (alignment - 1) }

// A header says how long its record is, how far it is to the next header, and in
// an MPSC in which lap it was written, which is never 0:
//
//	lap 16 │ stride/8 24 │ length 24
//
// A length from grouped on is none.
func header(length, stride, lap uint64) uint64 { return lap<<48 | stride/alignment<<24 | length }

func lengthOf(h uint64) int { return int(h & (1<<24 - 1)) }
func strideOf(h uint64) int { return int(h >> 24 & (1<<24 - 1) * alignment) }
func lapIn(h uint64) uint64 { return h >> 48 }

// Run is a run of records that a consumer looks at in place: those that a ring
// lent by Look, in order. Its zero value is empty. It belongs to the consumer.
//
//	run := r.Look()
//	for {
//		rec, ok := run.Peek()
//		if !ok || !use(rec) {
//			break // a record that was not used comes again
//		}
//		run.Advance()
//	}
//	r.Release(run)
type Run struct {
	b    []byte
	used int  // bytes of b that Advance has gone over, up to a header
	in   int  // bytes of records that it has gone over in the group there
	wipe bool // of an MPSC
}

// Peek lends the next record, until Advance; ok is false at the end of the run.
func (x *Run) Peek() (record []byte, ok bool) {
	if x.used >= len(x.b) {
		return nil, false
	}
	n := lengthOf(word(x.b, x.used))
	if n >= grouped {
		return x.peekOther(n)
	}
	at := x.used + headerSize
	return x.b[at : at+n : at+n], true
}

// peekOther is Peek where there is a group, or a skip to go over.
func (x *Run) peekOther(n int) ([]byte, bool) {
	h := word(x.b, x.used)
	if n != skip {
		many, size := x.group(h)
		return many[:size:size], true
	}
	x.step(h)
	return x.Peek()
}

// Advance goes over the record that Peek returned.
func (x *Run) Advance() {
	h := word(x.b, x.used)
	if isGroup(h) {
		x.AdvanceMany(1)
		return
	}
	stride := strideOf(h) // step, which is too long to be inlined
	if x.wipe {
		x.wipeFor(stride)
	}
	x.used += stride
}

// step goes to the next header, from the one that is h.
func (x *Run) step(h uint64) {
	stride := strideOf(h)
	if x.wipe {
		x.wipeFor(stride)
	}
	x.used += stride
}

// wipeFor is for a step in an MPSC: does a unit begin inside the record? Units
// count from the end of the run, which is the end of a claim.
func (x *Run) wipeFor(stride int) {
	if stride > (len(x.b)-x.used-1)&(claimUnit-1)+1 {
		x.wipeUnits(x.used, x.used+stride)
	}
}

// wipeUnits clears the first word of every unit that begins between from and to,
// where bytes of a record may look like a header. See MPSC.
func (x *Run) wipeUnits(from, to int) {
	// A run ends where a claim ends, at a unit: count from there.
	first := len(x.b) - (len(x.b)-from-1)&^(claimUnit-1)
	for at := first; at < to; at += claimUnit {
		binary.NativeEndian.PutUint64(x.b[at:], 0)
	}
}

// Len is the number of bytes not gone over, headers included.
func (x *Run) Len() int { return len(x.b) - x.used }
