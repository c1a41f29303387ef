//go:build (amd64 || arm64) && !race && !purego

package ipvsync

// publishWords writes an entry so that a concurrent reader notices: it sets the
// lowest bit of dst[0], stores src[1:n] to dst[1:n], and then src[0], of which
// the lowest bit is clear. Each store is of a whole word, and they become visible
// in this order: plain MOVs on amd64, where stores are never reordered with other
// stores; a DMB ISHST and an STLR on arm64. dst[0] has one writer at a time. The
// argument is in docs/memory-model.md.
//
//go:noescape
func publishWords(dst, src *uint64, n int)

// storeWord stores v at p; who loads it by an atomic load sees everything that
// was stored before.
//
//go:noescape
func storeWord(p *uint64, v uint64)

// prefetchLines asks for the cache lines at the n addresses that begin at lines.
// An address that is not mapped does no harm.
//
//go:noescape
func prefetchLines(lines *uintptr, n int)

// onHeap puts a table's memory on Go's heap.
const onHeap = false
