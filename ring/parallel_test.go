package ring

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
)

// record fills b, at least 16 bytes, with record i of a producer, and check says
// whether a record is whole and which it is.
func fill(b []byte, producer, i uint64) {
	binary.NativeEndian.PutUint64(b, producer)
	binary.NativeEndian.PutUint64(b[8:], i)
	for j := 16; j < len(b); j++ {
		b[j] = byte(i + producer)
	}
}

func check(t *testing.T, b []byte) (producer, i uint64) {
	t.Helper()
	producer, i = binary.NativeEndian.Uint64(b), binary.NativeEndian.Uint64(b[8:])
	for _, x := range b[16:] {
		if x != byte(i+producer) {
			t.Fatalf("record %d of producer %d is torn: %x", i, producer, b)
		}
	}
	return producer, i
}

func atProcs(t *testing.T, test func(t *testing.T)) {
	for _, procs := range []int{1, 2, 4} {
		old := runtime.GOMAXPROCS(procs)
		test(t)
		runtime.GOMAXPROCS(old)
	}
}

// consume takes records until want[p] of every producer p have come, each
// producer's in order.
func consume(t *testing.T, look func() Run, release func(Run), producers int, each uint64) {
	t.Helper()
	next := make([]uint64, producers)
	for left := uint64(producers) * each; left > 0; {
		run := look()
		n := 0
		for b, ok := run.Peek(); ok && n < 50; b, ok = run.Peek() {
			p, i := check(t, b)
			if p >= uint64(producers) || i != next[p] {
				t.Fatalf("record %d of producer %d came in place of %d", i, p, next[p])
			}
			next[p]++
			left--
			n++
			run.Advance()
		}
		release(run)
		if n == 0 {
			runtime.Gosched()
		}
	}
	if run := look(); len(run.b) > 0 {
		t.Error("one record too many")
	}
}

func perProducer() uint64 {
	if raceEnabled {
		return 20_000
	}
	return 200_000
}

func TestSPSCInParallel(t *testing.T) {
	atProcs(t, func(t *testing.T) {
		r := newSPSC(t, 4096)
		r.startAt(1<<64 - 8192)
		each := perProducer()
		var wg sync.WaitGroup
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, 2))
			for i := range each {
				n := 16 + rng.IntN(100)
				b := r.Reserve(n)
				for b == nil {
					r.Publish()
					runtime.Gosched()
					b = r.Reserve(n)
				}
				fill(b, 0, i)
				if i%7 == 0 {
					r.Publish()
				}
			}
			r.Publish()
		})
		consume(t, r.Look, r.Release, 1, each)
		wg.Wait()
	})
}

// untilRoom claims until there is room.
func untilRoom(claim func() ([]byte, Slot)) ([]byte, Slot) {
	for {
		if b, slot := claim(); b != nil {
			return b, slot
		}
		runtime.Gosched()
	}
}

// claimSeveral fills a claim of k records of different sizes.
func claimSeveral(r *MPSC, rng *rand.Rand, p uint64, i *uint64, k uint64) *Claim {
	sizes, total := make([]int, k), headerSize
	for j := range sizes {
		sizes[j] = 16 + rng.IntN(100)
		total += FramedSize(sizes[j])
	}
	c, ok := r.Claim(total, r.Cap())
	for !ok {
		runtime.Gosched()
		c, ok = r.Claim(total, r.Cap())
	}
	for _, n := range sizes {
		fill(c.Reserve(n), p, *i)
		*i++
	}
	return &c
}

// claimGroup fills a group of k records, or of one.
func claimGroup(r *MPSC, rng *rand.Rand, p uint64, i *uint64, k uint64) Slot {
	n, count := 16+rng.IntN(100), max(int(k), 1)
	room, slot := untilRoom(func() ([]byte, Slot) { return r.ClaimMany(n, count, r.Cap()) })
	for j := range count {
		fill(room[j*n:][:n:n], p, *i)
		*i++
	}
	return slot
}

func TestMPSCInParallel(t *testing.T) {
	atProcs(t, func(t *testing.T) {
		const producers = 4
		r := newMPSC(t, 4096)
		r.startAt(1<<64 - 8192)
		each := perProducer() / producers
		var wg sync.WaitGroup
		for p := range uint64(producers) {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(p, 2))
				for i := uint64(0); i < each; {
					k := min(1+rng.Uint64N(4), each-i)
					if rng.IntN(50) == 0 {
						k = 0 // claims that come to nothing
					}
					var c interface{ Commit() }
					switch rng.IntN(3) {
					case 0:
						c = claimSeveral(r, rng, p, &i, k)
					case 1:
						c = claimGroup(r, rng, p, &i, k)
					default:
						b, slot := untilRoom(func() ([]byte, Slot) { return r.ClaimOne(40, r.Cap()) })
						fill(b, p, i)
						i++
						c = slot
					}
					if rng.IntN(20) == 0 {
						runtime.Gosched() // slow between claim and commit
					}
					c.Commit()
				}
			})
		}
		consume(t, r.Look, r.Release, producers, each)
		wg.Wait()
	})
}
