package ipvsync

import (
	"bytes"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"github.com/ipvsync/ipvsync/encoder"
)

// sideStore keeps the options of the few entries that have some: sequence data,
// and a template's engine. They lie on Go's heap. What is stored is never
// changed, only replaced, under another number.
type sideStore struct {
	chunks atomic.Pointer[[]*sideChunk] // replaced when it grows
	used   uint32                       // numbers ever used, from 1 on
	free   []uint32
}

const sideChunkSize = 256

type sideChunk [sideChunkSize]atomic.Pointer[encoder.Options]

// get is what has number n; nil for 0 and for a number that is not in use. The
// bytes must not be changed. Anybody may call it.
func (d *sideStore) get(n uint32) encoder.Options {
	chunks := d.chunks.Load()
	if n == 0 || chunks == nil || int(n/sideChunkSize) >= len(*chunks) {
		return nil
	}
	if o := (*chunks)[n/sideChunkSize][n%sideChunkSize].Load(); o != nil {
		return *o
	}
	return nil
}

// keep stores options and gives their number; 0 for none.
func (d *sideStore) keep(o encoder.Options) uint32 {
	if len(o) == 0 {
		return 0
	}
	var n uint32
	if last := len(d.free) - 1; last >= 0 {
		n, d.free = d.free[last], d.free[:last]
	} else {
		d.used++
		n = d.used
	}
	var chunks []*sideChunk
	if c := d.chunks.Load(); c != nil {
		chunks = *c
	}
	if int(n/sideChunkSize) >= len(chunks) {
		grown := append(chunks[:len(chunks):len(chunks)], new(sideChunk))
		d.chunks.Store(&grown)
		chunks = grown
	}
	chunks[n/sideChunkSize][n%sideChunkSize].Store(&o)
	return n
}

// drop forgets number n. No entry that can be read has it any more.
func (d *sideStore) drop(n uint32) {
	if n == 0 {
		return
	}
	(*d.chunks.Load())[n/sideChunkSize][n%sideChunkSize].Store(nil)
	d.free = append(d.free, n)
}

// clear forgets everything.
func (d *sideStore) clear() {
	d.chunks.Store(nil)
	d.used, d.free = 0, nil
}

// engine is the engine part of options n, in the form of engineOf.
func (d *sideStore) engine(n uint32) []byte { return engineOf(d.get(n)) }

func (d *sideStore) hasEngine(n uint32, engine []byte) bool { return bytes.Equal(d.engine(n), engine) }

// engineOf is the part of stored options that is engine data and name: it ends
// them. nil if there is none.
func engineOf(o encoder.Options) []byte {
	if len(o) > 0 && o[0] == byte(encoder.OptionSeq) {
		o = o[seqOption:]
	}
	if len(o) == 0 {
		return nil
	}
	return o
}

const seqOption = 2 + 24 // bytes of sequence data as an option

// appendKept appends what a backup keeps of o: sequence data, and with engine
// the engine's data and name.
func appendKept(dst, o encoder.Options, seq, engine bool) encoder.Options {
	if in, out, ok := o.Seq(); ok && seq {
		dst, _ = dst.AppendSeq(in, out)
	}
	if name, data, _ := o.PE(); engine && len(data) > 0 {
		name, _, _ = bytes.Cut(name, []byte{0})
		dst, _ = dst.AppendPE(string(name), data)
	}
	return dst
}

// sumEngine hashes the key of a template with engine data: without client port.
func (k *flowKey) sumEngine(s *hashSeed, engine []byte) {
	z := *k
	z.ports = k.ports&^0xffff | 1<<63 // apart from a template without
	z.sum(s)
	k.hash = fold(z.hash^s[1], xxhash.Sum64(engine)^s[3])
}
