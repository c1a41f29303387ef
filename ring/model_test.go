package ring

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// testRing is what the model asks of a ring, SPSC or MPSC.
type testRing struct {
	name    string
	many    func(n, count int) (room []byte, got int) // nil: not offered
	reserve func(n int) []byte                        // nil: full
	publish func()
	cancel  func()
	look    func() Run
	release func(Run)
	used    func() int
	max     int
}

func newSPSC(t testing.TB, size int) *SPSC {
	t.Helper()
	r, err := NewSPSC(size)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func newMPSC(t testing.TB, size int) *MPSC {
	t.Helper()
	r, err := NewMPSC(size)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func testRings(t *testing.T, size int, start uint64) []testRing {
	s, m := newSPSC(t, size), newMPSC(t, size)
	s.startAt(start)
	m.startAt(start)
	// What is reserved in an MPSC is a claim of its own each time, of any of the
	// three kinds.
	var claims []interface{ Commit() }
	var kind int
	type canceler interface{ Cancel() }
	end := func(do func(interface{ Commit() })) func() {
		return func() {
			for _, c := range claims {
				do(c)
			}
			claims = nil
		}
	}
	return []testRing{
		{"SPSC", func(n, count int) ([]byte, int) { return s.ReserveMany(n, count, size) }, s.Reserve, s.Publish, s.Cancel, s.Look, s.Release, s.Len, s.MaxRecord()},
		{"MPSC", func(n, count int) ([]byte, int) {
			room, slot := m.ClaimMany(n, count, size)
			if room == nil {
				return nil, 0
			}
			claims = append(claims, slot)
			return room, count
		}, func(n int) []byte {
			if kind++; kind%3 > 0 {
				b, slot := m.ClaimOne(n, size)
				if b != nil {
					claims = append(claims, slot)
				}
				return b
			}
			c, ok := m.Claim(FramedSize(n), size)
			if !ok {
				return nil
			}
			b := c.Reserve(n)
			claims = append(claims, &c)
			return b
		}, end(func(c interface{ Commit() }) { c.Commit() }), end(func(c interface{ Commit() }) { c.(canceler).Cancel() }), m.Look, m.Release, m.Len, m.MaxRecord()},
	}
}

func TestSizes(t *testing.T) {
	for _, n := range []int{-1, 0, 1, 128, 255, 257, 384, MaxSize + 1, MaxSize * 2} {
		if _, err := NewSPSC(n); !errors.Is(err, ErrSize) {
			t.Errorf("SPSC of %d: %v", n, err)
		}
		if _, err := NewMPSC(n); !errors.Is(err, ErrSize) {
			t.Errorf("MPSC of %d: %v", n, err)
		}
	}
	for _, r := range testRings(t, 1024, 0) {
		if r.max != 504 {
			t.Errorf("%s: longest record %d", r.name, r.max)
		}
		for _, n := range []int{-1, 505, 1 << 40} {
			if b := r.reserve(n); b != nil {
				t.Errorf("%s: a record of %d bytes was reserved", r.name, n)
			}
		}
	}
}

// A random program against a slice: what the ring says of its contents is what
// a slice of records says, from many starting points, the wrap of the indices
// among them.
func TestModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, start := range []uint64{0, 1<<32 - 512, 1<<32 - 8192, 1<<64 - 512, 1<<64 - 8192} {
		for range 20 {
			size := 256 << rng.IntN(5)
			for _, r := range testRings(t, size, start) {
				model(t, rng, r, size)
			}
		}
	}
}

func model(t *testing.T, rng *rand.Rand, r testRing, size int) {
	var reserved, visible [][]byte
	for step := range 2000 {
		switch rng.IntN(8) {
		case 0, 1, 2, 3:
			n := rng.IntN(r.max + 1)
			if rng.IntN(3) > 0 {
				n = rng.IntN(64)
			}
			b := r.reserve(n)
			if b == nil {
				if r.used() == 0 && len(reserved) == 0 {
					t.Fatalf("%s, step %d: an empty ring of %d has no room for %d bytes", r.name, step, size, n)
				}
				continue
			}
			if len(b) != n || cap(b) != n {
				t.Fatalf("%s, step %d: %d bytes, capacity %d, want %d", r.name, step, len(b), cap(b), n)
			}
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
			reserved = append(reserved, bytes.Clone(b))
			if r.many == nil || rng.IntN(2) == 0 {
				continue
			}
			n = rng.IntN(64)
			room, got := r.many(n, rng.IntN(8))
			for i := range got {
				b := room[i*n:][:n]
				for j := range b {
					b[j] = byte(rng.Uint32())
				}
				reserved = append(reserved, bytes.Clone(b))
			}
		case 4, 5:
			if rng.IntN(8) == 0 {
				r.cancel()
			} else {
				r.publish()
				visible = append(visible, reserved...)
			}
			reserved = nil
		case 6, 7:
			// Some of what is there, perhaps looking twice, perhaps in two runs.
			run := r.look()
			if rng.IntN(4) == 0 {
				run = r.look()
			}
			for n := rng.IntN(10); n > 0; n-- {
				if rng.IntN(3) == 0 {
					visible = visible[many(t, rng, r.name, &run, visible):]
					continue
				}
				b, ok := run.Peek()
				if !ok {
					break
				}
				if len(visible) == 0 {
					t.Fatalf("%s, step %d: got %x, nothing is visible", r.name, step, b)
				}
				if !bytes.Equal(b, visible[0]) {
					t.Fatalf("%s, step %d: got %x, want %x", r.name, step, b, visible[0])
				}
				run.Advance()
				visible = visible[1:]
			}
			r.release(run)
		}
		if n := r.used(); n < 0 || n > size {
			t.Fatalf("%s, step %d: %d bytes in a ring of %d", r.name, step, n, size)
		}
	}
	// What is left comes out, and then the ring is empty.
	r.cancel()
	for range 4 {
		run := r.look()
		for b, ok := run.Peek(); ok; b, ok = run.Peek() {
			if len(visible) == 0 || !bytes.Equal(b, visible[0]) {
				t.Fatalf("%s, at the end: got %x", r.name, b)
			}
			run.Advance()
			visible = visible[1:]
		}
		r.release(run)
	}
	if len(visible) != 0 || r.used() != 0 {
		t.Fatalf("%s, at the end: %d records and %d bytes are left", r.name, len(visible), r.used())
	}
}

// many takes some of the records that PeekMany lends, and returns how many.
func many(t *testing.T, rng *rand.Rand, name string, run *Run, visible [][]byte) int {
	records, size, ok := run.PeekMany()
	if !ok {
		return 0
	}
	n := 1
	if size > 0 {
		n = len(records) / size
	}
	if n > len(visible) || n == 0 || len(records) != n*size {
		t.Fatalf("%s: %d records of %d bytes in %d, %d are visible", name, n, size, len(records), len(visible))
	}
	for i, want := range visible[:n] {
		if b := records[i*size:][:size]; !bytes.Equal(b, want) {
			t.Fatalf("%s: record %d of %d is %x, want %x", name, i, n, b, want)
		}
	}
	n = rng.IntN(n + 1)
	run.AdvanceMany(n)
	return n
}

// A limit keeps room for others.
func TestReserveBelow(t *testing.T) {
	s, m := newSPSC(t, 1024), newMPSC(t, 1024)
	for i := range 16 {
		if s.ReserveBelow(40, 768) == nil {
			t.Fatalf("SPSC: record %d is refused", i)
		}
		if c, ok := m.Claim(FramedSize(40), 768); ok != (i < 768/claimUnit) {
			t.Fatalf("MPSC: record %d: %v", i, ok)
		} else if ok {
			c.Commit()
		}
	}
	if s.ReserveBelow(40, 768) != nil {
		t.Error("SPSC: reserved above the limit")
	}
	if _, ok := m.Claim(48, 768); ok {
		t.Error("MPSC: claimed above the limit")
	}
	if b, _ := m.ClaimOne(40, 768); b != nil {
		t.Error("MPSC: claimed one above the limit")
	}
	if b, _ := m.ClaimMany(8, 2, 768); b != nil {
		t.Error("MPSC: claimed many above the limit")
	}
	if s.Reserve(40) == nil {
		t.Error("SPSC: full below its size")
	}
	if c, ok := m.Claim(48, 1024); !ok {
		t.Error("MPSC: full below its size")
	} else {
		c.Cancel()
	}
	s.Publish()
	run := s.Look()
	for _, ok := run.Peek(); ok; _, ok = run.Peek() {
		run.Advance()
	}
	s.Release(run)
	if s.ReserveBelow(40, 768) == nil {
		t.Error("SPSC: the room that came free is not seen")
	}
}

// Several records in one claim become visible together.
func TestClaimOfSeveral(t *testing.T) {
	m := newMPSC(t, 1024)
	c, ok := m.Claim(FramedSize(1)+FramedSize(2)+FramedSize(3), 1024)
	if !ok {
		t.Fatal("an empty ring is full")
	}
	for n := range 3 {
		copy(c.Reserve(n+1), "abc")
	}
	if c.Reserve(9) != nil {
		t.Error("more than was claimed")
	}
	late, _ := m.Claim(FramedSize(1), 1024)
	copy(late.Reserve(1), "x")
	early := c
	late.Commit()
	if run := m.Look(); len(run.b) != 0 {
		t.Error("a record before an uncommitted one is visible")
	}
	early.Commit()
	var got []string
	run := m.Look()
	for b, ok := run.Peek(); ok; b, ok = run.Peek() {
		got = append(got, string(b))
		run.Advance()
	}
	m.Release(run)
	if want := []string{"a", "ab", "abc", "x"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What a record leaves at the beginning of a unit is never taken for a header,
// whatever it is, and wherever in a claim the record lay.
func TestUnitsAreWiped(t *testing.T) {
	for size := 8; size < 120; size += 8 {
		for committed := range 8 {
			wiped(t, size, committed, false)
			if headerSize+3*size <= maxGroup(2048) {
				wiped(t, size, committed, true)
			}
		}
	}
}

func wiped(t *testing.T, size, committed int, group bool) {
	const block = 2048
	r := newMPSC(t, block)
	var c interface{ Commit() }
	var records []byte
	if group {
		b, slot := r.ClaimMany(size, 3, block)
		if b == nil {
			t.Fatalf("no room for 3 records of %d bytes", size)
		}
		records, c = b, slot
	} else {
		claim, ok := r.Claim(3*FramedSize(size), block)
		if !ok {
			t.Fatalf("no room for 3 records of %d bytes", size)
		}
		c = &claim
	}
	for i := range 3 {
		var b []byte
		if group {
			b = records[i*size:][:size]
		} else {
			b = c.(*Claim).Reserve(size)
		}
		for i := 0; i+8 <= len(b); i += 8 { // headers of the next lap, all of them
			binary.NativeEndian.PutUint64(b[i:], header(40, 64, r.lap(block)))
		}
	}
	c.Commit()
	for { // the rest of the lap
		rest, ok := r.Claim(8, block)
		if !ok {
			break
		}
		rest.Commit()
	}
	for run := r.Look(); run.Len() > 0; run = r.Look() {
		for _, ok := run.Peek(); ok; _, ok = run.Peek() {
			run.Advance()
		}
		r.Release(run)
	}
	for range committed {
		c, _ := r.Claim(FramedSize(8), block)
		c.Reserve(8)
		c.Commit()
	}
	if _, ok := r.Claim(8, block); !ok { // and never commit it
		t.Fatal("an empty ring is full")
	}
	n := 0
	run := r.Look()
	for _, ok := run.Peek(); ok; _, ok = run.Peek() {
		run.Advance()
		n++
	}
	if n != committed {
		t.Errorf("records of %d bytes before: %d records are committed, %d are there", size, committed, n)
	}
}

// Limits beyond the ring, and below nothing.
func TestLimits(t *testing.T) {
	s, m := newSPSC(t, 256), newMPSC(t, 256)
	if s.ReserveBelow(8, -1) != nil {
		t.Error("SPSC: reserved below -1")
	}
	if _, ok := m.Claim(8, -1); ok {
		t.Error("MPSC: claimed below -1")
	}
	if b, _ := m.ClaimOne(8, -1); b != nil {
		t.Error("MPSC: claimed one below -1")
	}
	for _, c := range [][3]int{{8, 2, -1}, {8, -1, 256}, {8, 0, 256}, {-8, 2, 256}, {7, 2, 256}, {8, 4, 256}, {8, maxCount + 1, 256}, {maxGrouped + 1, 1, 256}} {
		if b, _ := m.ClaimMany(c[0], c[1], c[2]); b != nil {
			t.Errorf("MPSC of 256: claimed %d bytes, %d times, below %d", c[0], c[1], c[2])
		}
	}
	if _, n := s.ReserveMany(8, -1, 256); n != 0 {
		t.Error("SPSC: reserved -1 records")
	}
	n := 0
	for s.ReserveBelow(24, 1<<40) != nil {
		n++
	}
	if n != 8 {
		t.Errorf("SPSC of 256 has room for %d records of 32", n)
	}
	s.Cancel()
	total := 0
	for {
		_, got := s.ReserveMany(24, 1<<60, 1<<40)
		if got == 0 {
			break
		}
		total += got
	}
	if total != 8 {
		t.Errorf("SPSC of 256 has room for %d records of 32 at once", total)
	}
}
