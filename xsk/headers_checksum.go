package xsk

import (
	"encoding/binary"
	"math/bits"
)

// The Internet checksum, RFC 1071: the one's complement of the one's complement
// sum of 16-bit words. Sums here are in the byte order of this machine, and of
// any width that folds to 16 bits at the end: the sum does not care about byte
// order as long as it is put back the way it was taken. sum64 is in
// headers_sum_*.go.

// sumGeneric is sum64 without instructions of a particular processor: 64 bits at
// a time, with the carry brought round.
func sumGeneric(b []byte, sum uint64) uint64 {
	var c uint64
	for len(b) >= 64 {
		w := (*[64]byte)(b)
		sum, c = bits.Add64(sum, native.Uint64(w[0:8]), 0)
		sum, c = bits.Add64(sum, native.Uint64(w[8:16]), c)
		sum, c = bits.Add64(sum, native.Uint64(w[16:24]), c)
		sum, c = bits.Add64(sum, native.Uint64(w[24:32]), c)
		sum, c = bits.Add64(sum, native.Uint64(w[32:40]), c)
		sum, c = bits.Add64(sum, native.Uint64(w[40:48]), c)
		sum, c = bits.Add64(sum, native.Uint64(w[48:56]), c)
		sum, c = bits.Add64(sum, native.Uint64(w[56:64]), c)
		sum, c = bits.Add64(sum, 0, c)
		sum += c
		b = b[64:]
	}
	if len(b) >= 32 {
		w := (*[32]byte)(b)
		sum, c = bits.Add64(sum, native.Uint64(w[0:8]), 0)
		sum, c = bits.Add64(sum, native.Uint64(w[8:16]), c)
		sum, c = bits.Add64(sum, native.Uint64(w[16:24]), c)
		sum, c = bits.Add64(sum, native.Uint64(w[24:32]), c)
		sum, c = bits.Add64(sum, 0, c)
		sum += c
		b = b[32:]
	}
	for len(b) >= 8 {
		sum, c = bits.Add64(sum, native.Uint64(b), 0)
		sum += c
		b = b[8:]
	}
	if len(b) >= 4 {
		sum, c = bits.Add64(sum, uint64(native.Uint32(b)), 0)
		sum += c
		b = b[4:]
	}
	if len(b) >= 2 {
		sum, c = bits.Add64(sum, uint64(native.Uint16(b)), 0)
		sum += c
		b = b[2:]
	}
	if len(b) == 1 {
		last := [2]byte{b[0], 0}
		sum, c = bits.Add64(sum, uint64(native.Uint16(last[:])), 0)
		sum += c
	}
	return sum
}

// fold16 brings a sum down to 16 bits.
func fold16(sum uint64) uint16 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return uint16(sum)
}

// sum16 is what a 16-bit value adds to a sum: v as it lies in a header.
func sum16(v uint16) uint64 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return uint64(native.Uint16(b[:]))
}

// putSum writes a folded sum, or its complement, the way sums were taken.
func putSum(b []byte, v uint16) { native.PutUint16(b, v) }
