package ring

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// headerSize is what precedes each record: one word, the length of the
	// record in the lower half, and how far it is to the next header in the upper.
	headerSize = 8
	// alignment of records and their headers.
	alignment = 8
	// skip stands for a length: there is no record up to the next header.
	skip = 1<<32 - 1
	// falseSharing is the distance between words of different writers: two
	// lines of 64 bytes, because amd64 fetches them in pairs, and because some
	// arm64 have lines of 128.
	falseSharing = 128
)

// Limits of a ring's memory, in bytes.
const (
	MinSize = 64
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

// FramedSize is the memory that a record of n bytes takes in a ring.
func FramedSize(n int) int { return (headerSize + n + alignment - 1) &^ (alignment - 1) }

func header(length, stride uint64) uint64 { return stride<<32 | length }

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
//	r.Release(&run)
type Run struct {
	b    []byte
	used int // bytes of b that Advance has gone over
}

// Peek lends the next record; ok is false at the end of the run.
func (x *Run) Peek() (record []byte, ok bool) {
	for x.used < len(x.b) {
		h := binary.NativeEndian.Uint64(x.b[x.used:])
		if n := int(uint32(h)); n != skip {
			at := x.used + headerSize
			return x.b[at : at+n : at+n], true
		}
		x.used += int(h >> 32)
	}
	return nil, false
}

// Advance goes over the record that Peek returned.
func (x *Run) Advance() {
	x.used += int(binary.NativeEndian.Uint64(x.b[x.used:]) >> 32)
}

// Len is the number of bytes that Advance has not gone over, headers included.
func (x *Run) Len() int { return len(x.b) - x.used }
