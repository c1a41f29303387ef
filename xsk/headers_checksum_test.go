package xsk

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
)

// slowSum is the checksum's sum as RFC 1071 defines it: 16 bits at a time, in
// network order.
func slowSum(b []byte, sum uint32) uint16 {
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		sum += w
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// fastSum is the same by sum64, as a number in network order.
func fastSum(b []byte, sum uint64) uint16 {
	var out [2]byte
	putSum(out[:], fold16(sum64(b, sum)))
	return binary.BigEndian.Uint16(out[:])
}

// TestChecksum compares the fast sum with the slow one over all sizes and
// alignments that matter, with random bytes and with the extremes.
func TestChecksum(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	buf := make([]byte, 2100)
	for _, fill := range []func() byte{
		func() byte { return byte(rng.Uint32()) }, func() byte { return 0xff }, func() byte { return 0 },
	} {
		for i := range buf {
			buf[i] = fill()
		}
		for n := 0; n <= 2050; n++ {
			for off := range 8 {
				if n > 300 && off > 1 {
					break
				}
				start := uint16(rng.Uint32())
				b := buf[off : off+n]
				fast, slow := fastSum(b, sum16(start)), slowSum(b, uint32(start))
				// 0 and 0xffff are the same number.
				generic := fold16(sumGeneric(b, sum16(start)))
				if fast != slow && !(fast%0xffff == 0 && slow%0xffff == 0) {
					t.Fatalf("%d bytes from %d: %#04x, want %#04x", n, off, fast, slow)
				}
				if got := fold16(sum64(b, sum16(start))); got%0xffff != generic%0xffff {
					t.Fatalf("%d bytes from %d: %#04x, the generic one says %#04x", n, off, got, generic)
				}
			}
		}
	}
}

func TestChecksumCarries(t *testing.T) {
	for _, sum := range []uint64{0, 1, 0xffff, 0x10000, 1<<32 - 1, 1 << 32, 1<<64 - 1, 1<<63 + 1<<31} {
		want := uint16(0)
		if m := sum % 0xffff; sum != 0 {
			want = uint16(m)
			if m == 0 {
				want = 0xffff
			}
		}
		if got := fold16(sum); got != want {
			t.Errorf("fold16(%#x) = %#04x, want %#04x", sum, got, want)
		}
	}
}

var sumSink uint64

func BenchmarkChecksum(b *testing.B) {
	for _, n := range []int{40, 576, 1448} {
		b.Run(fmt.Sprintf("bytes=%d", n), func(b *testing.B) {
			buf := pattern(n)
			b.SetBytes(int64(n))
			for b.Loop() {
				sumSink += sum64(buf, 0)
			}
		})
		b.Run(fmt.Sprintf("generic/bytes=%d", n), func(b *testing.B) {
			buf := pattern(n)
			b.SetBytes(int64(n))
			for b.Loop() {
				sumSink += sumGeneric(buf, 0)
			}
		})
	}
}
