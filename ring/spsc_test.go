package ring

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"
)

func newSPSC(t testing.TB, size int) *SPSC {
	t.Helper()
	r, err := NewSPSC(size)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSizes(t *testing.T) {
	for _, n := range []int{-1, 0, 1, 32, 63, 65, 96, MaxSize + 1, MaxSize * 2} {
		if _, err := NewSPSC(n); !errors.Is(err, ErrSize) {
			t.Errorf("size %d: %v", n, err)
		}
	}
	r := newSPSC(t, 1024)
	if r.Cap() != 1024 || r.MaxRecord() != 504 {
		t.Errorf("capacity %d, longest record %d", r.Cap(), r.MaxRecord())
	}
	for _, n := range []int{-1, 505, 1 << 40} {
		if r.Reserve(n) != nil {
			t.Errorf("a record of %d bytes was reserved", n)
		}
	}
}

// A random program against a slice: what the ring says of its contents is
// what a slice of records says, from many starting points, the wrap of the
// indices among them.
func TestModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	starts := []uint64{0, 1<<32 - 512, 1<<32 - 8192, 1<<64 - 512, 1<<64 - 8192}
	for _, start := range starts {
		for range 20 {
			model(t, rng, 256<<rng.IntN(5), start)
		}
	}
}

func model(t *testing.T, rng *rand.Rand, size int, start uint64) {
	r := newSPSC(t, size)
	r.startAt(start)
	var reserved, visible, lent [][]byte
	for step := range 2000 {
		switch rng.IntN(10) {
		case 0, 1, 2, 3:
			n := rng.IntN(r.MaxRecord() + 1)
			if rng.IntN(3) > 0 {
				n = rng.IntN(64)
			}
			b := r.Reserve(n)
			if b == nil {
				if len(reserved)+len(visible)+len(lent) == 0 {
					t.Fatalf("step %d: an empty ring of %d has no room for %d bytes", step, size, n)
				}
				continue
			}
			if len(b) != n || cap(b) != n {
				t.Fatalf("step %d: %d bytes, capacity %d, want %d", step, len(b), cap(b), n)
			}
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
			reserved = append(reserved, bytes.Clone(b))
		case 4, 5:
			r.Publish()
			visible = append(visible, reserved...)
			reserved = nil
		case 6:
			if rng.IntN(8) == 0 {
				r.Cancel()
				reserved = nil
			}
		case 7, 8:
			b, ok := r.Next()
			if ok != (len(visible) > 0) {
				t.Fatalf("step %d: Next says %v, %d records are visible", step, ok, len(visible))
			}
			if !ok {
				continue
			}
			if !bytes.Equal(b, visible[0]) {
				t.Fatalf("step %d: got %x, want %x", step, b, visible[0])
			}
			if rng.IntN(4) == 0 {
				r.Unread(len(b))
				continue
			}
			lent, visible = append(lent, visible[0]), visible[1:]
		case 9:
			r.Release()
			lent = nil
			if len(visible) == 0 && len(reserved) == 0 && r.Len() != 0 {
				t.Fatalf("step %d: %d bytes in an empty ring", step, r.Len())
			}
		}
		if n := r.Len(); n < 0 || n > size {
			t.Fatalf("step %d: %d bytes in a ring of %d", step, n, size)
		}
	}
}

// Two goroutines: every record arrives once, in order, whole.
func TestConservationAndOrder(t *testing.T) {
	for _, procs := range []int{1, 2, 4} {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
		const total = 200000
		r := newSPSC(t, 4096)
		r.startAt(1<<64 - 8192)
		refused := make(chan uint64)
		go func() {
			var full uint64
			rng := rand.New(rand.NewPCG(1, 2))
			for i := range uint64(total) {
				n := 16 + rng.IntN(100)
				b := r.Reserve(n)
				for b == nil {
					full++
					r.Publish()
					runtime.Gosched()
					b = r.Reserve(n)
				}
				binary.NativeEndian.PutUint64(b, i)
				for j := 8; j < n; j++ {
					b[j] = byte(i)
				}
				if i%7 == 0 {
					r.Publish()
				}
			}
			r.Publish()
			refused <- full
		}()
		rng := rand.New(rand.NewPCG(1, 2))
		for want := uint64(0); want < total; {
			b, ok := r.Next()
			if !ok {
				r.Release()
				runtime.Gosched()
				continue
			}
			if n := 16 + rng.IntN(100); len(b) != n {
				t.Fatalf("record %d has %d bytes, want %d", want, len(b), n)
			}
			if got := binary.NativeEndian.Uint64(b); got != want {
				t.Fatalf("record %d came in place of %d", got, want)
			}
			for _, x := range b[8:] {
				if x != byte(want) {
					t.Fatalf("record %d is torn", want)
				}
			}
			want++
			if want%5 == 0 {
				r.Release()
			}
		}
		t.Logf("GOMAXPROCS %d: full %d times", procs, <-refused)
		if _, ok := r.Next(); ok {
			t.Error("one record too many")
		}
	}
}

func TestNoAllocations(t *testing.T) {
	r := newSPSC(t, 4096)
	if n := testing.AllocsPerRun(100, func() { cycle(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func cycle(r *SPSC) {
	for range 32 {
		copy(r.Reserve(36), "................................")
	}
	r.Publish()
	for range 32 {
		r.Next()
	}
	r.Release()
}

func BenchmarkSPSC(b *testing.B) {
	b.Run("batches of 32 of 36 bytes, one goroutine", func(b *testing.B) {
		r := newSPSC(b, 1<<16)
		b.ReportAllocs()
		for b.Loop() {
			cycle(r)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/32, "ns/record")
	})
}
