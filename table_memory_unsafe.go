package ipvsync

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// region is a piece of memory of which the garbage collector knows nothing:
// no pointers in it, and none of Go's into it but the one here. It is reserved
// whole and takes memory only where it has been written, so what lies in it
// never moves. Words of it that are shared are stored by publishWords and
// storeWord and loaded atomically; see docs/memory-model.md.
type region struct {
	base unsafe.Pointer
	size uintptr // bytes
	mem  []byte  // the mapping
}

const (
	lineBytes = 64 // what the layouts below are made for
	hugePage  = 2 << 20
)

// word is the word of the region at a byte offset that is a multiple of 8.
func (r *region) word(offset uintptr) *uint64 {
	return (*uint64)(unsafe.Add(r.base, offset))
}

// newRegion reserves size bytes of zeroes.
func newRegion(size uintptr) (region, error) {
	if onHeap {
		words := make([]uint64, (size+lineBytes)/8)
		base := unsafe.Pointer(unsafe.SliceData(words))
		base = unsafe.Add(base, -uintptr(base)&(lineBytes-1))
		return region{base: base, size: size}, nil
	}
	// A huge page more, to begin at one.
	mem, err := unix.Mmap(-1, 0, int(size+hugePage), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return region{}, fmt.Errorf("reserve %d MB of address space for the table: %w; a smaller MaxEntries takes less", size>>20, err)
	}
	base := unsafe.Pointer(unsafe.SliceData(mem))
	base = unsafe.Add(base, -uintptr(base)&(hugePage-1))
	if size >= hugePage {
		// Random access to gigabytes in pages of 4 KB misses the TLB each time.
		// A kernel without huge pages refuses, and is only slower.
		_ = unix.Madvise(mem, unix.MADV_HUGEPAGE)
	}
	return region{base: base, size: size, mem: mem}, nil
}

// clear gives the memory back. The region stays readable, as zeroes: readers
// that are still at it find nothing.
func (r *region) clear() {
	if r.mem != nil {
		_ = unix.Madvise(r.mem, unix.MADV_DONTNEED)
		return
	}
	for i := uintptr(0); i < r.size; i += 8 {
		storeWord(r.word(i), 0)
	}
}

// unmap gives the address space back too. Nobody may use the region any more.
func (r *region) unmap() {
	if r.mem != nil {
		_ = unix.Munmap(r.mem)
	}
}

// wordAfter is the n-th word after p.
func wordAfter(p *uint64, n int) *uint64 {
	return (*uint64)(unsafe.Add(unsafe.Pointer(p), 8*n))
}

// addressOf is where p points, as a number: a table's memory may be unmapped
// while a batch in a pool still has it.
func addressOf(p *uint64) uintptr { return uintptr(unsafe.Pointer(p)) }
