package ipvsync

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/cespare/xxhash/v2"
)

// xxhash16 is the library's hash.
func TestXxhash16(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range 10_000 {
		a, b := rng.Uint64(), rng.Uint64()
		if i < 64 { // one bit alone
			a, b = 1<<i, 0
		} else if i < 128 {
			a, b = 0, 1<<(i-64)
		}
		var key [16]byte
		binary.LittleEndian.PutUint64(key[0:], a)
		binary.LittleEndian.PutUint64(key[8:], b)
		if got, want := xxhash16(a, b), xxhash.Sum64(key[:]); got != want {
			t.Fatalf("xxhash16(%#x, %#x) is %#x, want %#x", a, b, got, want)
		}
	}
}

// Flows that differ in little spread over the shards evenly, whatever their
// number, and in either family.
func TestFlowsSpreadOverShards(t *testing.T) {
	const flows = 1 << 14
	for _, shards := range []int{1, 2, 3, 8, 64} {
		s := benchSender(t, shards)
		for _, v6 := range []bool{false, true} {
			counts := make([]int, shards)
			for i := range flows {
				c := flow(i, 0)
				if v6 {
					c = flow6(i, 0)
				}
				counts[s.shardOf(&c)]++
			}
			for i, n := range counts {
				if want := flows / shards; n < want*3/4 || n > want*5/4 {
					t.Errorf("shard %d of %d has %d flows, want about %d (IPv6: %v)", i, shards, n, want, v6)
				}
			}
		}
	}
}
