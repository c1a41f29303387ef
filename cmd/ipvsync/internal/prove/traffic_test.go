package prove

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk"
)

// What arrives is told from what does not belong, came twice or out of order.
func TestTally(t *testing.T) {
	const n = 100
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	m, other := newMaker(7), newMaker(8)
	message := func(m *maker, number uint32) xsk.Datagram {
		buf := make([]byte, 1472)
		size, records, err := m.fill(buf, number)
		if err != nil || records != 40 || size < 1440 {
			t.Fatal(size, records, err)
		}
		return xsk.Datagram{Payload: buf[:size]}
	}
	tl := newTally(7, n)
	var want Count
	seen, last := map[uint32]bool{}, uint32(0)
	for range 1000 {
		switch random.IntN(5) {
		case 0:
			tl.add([]xsk.Datagram{message(other, 1)}, time.Now()) // of another run
			want.Foreign++
		case 1:
			tl.add([]xsk.Datagram{message(m, n+1+random.Uint32N(9)), {Payload: []byte("stray")}}, time.Now())
			want.Foreign += 2
		case 2:
			tl.add([]xsk.Datagram{message(m, 0)}, time.Now())
			want.Pilots++
		default:
			number := 1 + random.Uint32N(n)
			tl.add([]xsk.Datagram{message(m, number)}, time.Now())
			switch {
			case seen[number]:
				want.Duplicates++
				continue
			case number < last:
				want.Reordered++
			}
			seen[number], last = true, max(last, number)
			want.Arrived++
			want.Records += 40
		}
	}
	got := tl.result()
	got.Seconds = 0
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
