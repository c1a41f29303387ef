//go:build race || purego || !(amd64 || arm64)

package ipvsync

import "sync/atomic"

// publishWords is what the assembly is, by sync/atomic: where there is none,
// and under the race detector, which must see the stores.
func publishWords(dst, src *uint64, n int) {
	atomic.StoreUint64(dst, atomic.LoadUint64(dst)|1)
	for i := 1; i < n; i++ {
		atomic.StoreUint64(wordAfter(dst, i), *wordAfter(src, i))
	}
	atomic.StoreUint64(dst, *src)
}

func storeWord(p *uint64, v uint64) { atomic.StoreUint64(p, v) }

func prefetchLines(lines *uintptr, n int) {}

// onHeap puts a table's memory on Go's heap: the race detector sees no other.
const onHeap = true
