//go:build !purego

package xsk

import "golang.org/x/sys/cpu"

// sumBlocks adds up blocks of 64 bytes from p on, of which there must be at
// least one and at most maxBlocks. It needs AVX2.
//
//go:noescape
func sumBlocks(p *byte, blocks int) uint64

var hasAVX2 = cpu.X86.HasAVX2

// maxBlocks keeps sumBlocks from overflowing, by far.
const maxBlocks = 1 << 20

// sum64 adds b to a partial sum.
func sum64(b []byte, sum uint64) uint64 {
	if n := len(b) / 64; n >= 4 && n <= maxBlocks && hasAVX2 {
		blocks := sumBlocks(&b[0], n) // below 2^54
		return sumGeneric(b[n*64:], addSums(blocks, sum))
	}
	return sumGeneric(b, sum)
}
