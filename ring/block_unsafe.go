package ring

import "unsafe"

// bytesOf is the memory of words as bytes. Both are without pointers, a byte may
// be aligned anywhere, and the slice keeps the same memory alive; who may write
// which part of it, and when, is the business of the ring.
func bytesOf(words []uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), 8*len(words))
}

// word is the word at offset at of b, a multiple of 8 in memory that begins at a
// word and holds whole words: the bounds check of its first byte covers all of
// it. It is what binary.NativeEndian does, but small enough that Peek and Advance
// can be inlined.
func word(b []byte, at int) uint64 { return *(*uint64)(unsafe.Pointer(&b[at])) }
