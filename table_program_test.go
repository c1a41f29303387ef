package ipvsync

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
)

// randomConn is of few keys, so that they meet.
func randomConn(r *rand.Rand) Conn {
	pick := func(n ...int) int { return n[r.IntN(len(n))] }
	c := flow(pick(1, 2, 3), 0)
	if r.IntN(3) == 0 {
		c = flow6(pick(1, 2, 3), 0)
		c.Virtual.Addr[5] = byte(pick(0, 0, 1))
	}
	c.Client.Port = uint16(pick(0, 1, 1, 2))
	c.Dest.Port = uint16(pick(1, 1, 1, 2))
	c.Dest.Addr[3] = byte(pick(1, 1, 2))
	c.Timeout = uint32(pick(0, 1, 5, 60, 900, 5000, 1<<32-1))
	c.Fwmark = uint32(r.IntN(3))
	c.Flags = encoder.Flags(r.IntN(5) | pick(0, 0x80) | pick(0, 0, 0x100) | pick(0, 0x200, 0x400, 0x600) | pick(0, 0, 0, 0x800) |
		pick(0, 0, 0x1000) | pick(0, 0, 0, 0, 0, 0, 0, 0x2000) | pick(0, 0x40, 0x10000, 0x20))
	switch p := encoder.Protocol(pick(6, 6, 6, 17, 132, 50)); {
	case c.Template():
		c.Protocol, c.State = encoder.Protocol(pick(6, 6, 17, 0, 99)), encoder.State(r.IntN(2))
	default:
		c.Protocol = p
		c.State = encoder.State(r.IntN(map[encoder.Protocol]int{6: 11, 17: 1, 132: 14, 50: 1}[p]))
	}
	if r.IntN(4) == 0 {
		c.Options, _ = c.Options.AppendSeq(encoder.Seq{Init: r.Uint32N(4)}, encoder.Seq{Delta: r.Uint32N(4)})
	}
	if r.IntN(4) == 0 {
		c.Options, _ = c.Options.AppendPE(string("sipq"[:3+r.IntN(2)]), []byte("abcdefgh")[:1+r.IntN(3)])
	}
	if r.IntN(8) == 0 {
		c.Options, _ = c.Options.AppendUnknown(0x45, []byte("future"))
	}
	return c
}

// Random programs on Table and twin: same entries, answers, changes, counters.
func TestTableTwin(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	programs := 100
	if onHeap { // under the race detector, too
		programs = 20
	}
	for p := range programs {
		r := rand.New(rand.NewPCG(seed, uint64(p)))
		twinProgram(t, r)
		if t.Failed() {
			t.Fatalf("program %d of seed %d", p, seed)
		}
	}
}

func twinProgram(t *testing.T, r *rand.Rand) {
	clock := newTestClock()
	entries := []int{5, 30, 200, 2000}[r.IntN(4)]
	plain := r.IntN(2) == 0 // nothing that takes all shards together
	table := newTable(t, TableConfig{MaxEntries: entries, Shards: 1 << r.IntN(4), Now: clock.now})
	twin := newTwin(clock, entries)
	sub := table.Subscribe(1 << 15)
	defer sub.Close()
	for step := range 60 {
		switch r.IntN(6) {
		case 0:
			clock.advance(time.Duration(r.IntN(3000)) * time.Millisecond)
		case 1:
			clock.advance(time.Duration([]int{10, 100, 800, 2000, 5000, 1 << 20}[r.IntN(6)]) * time.Second)
		}
		if r.IntN(2) == 0 {
			table.Expire() // otherwise Apply does it, or does not get to it
		}
		twin.purge()
		var conns []Conn
		for range r.IntN(100) {
			c := randomConn(r)
			if plain && !c.Template() {
				c.Flags &^= encoder.FlagNoCport
				c.Client.Port = max(c.Client.Port, 1)
				if engineName(c.Options) != "" {
					c.Options = nil
				}
			}
			conns = append(conns, c)
		}
		table.Apply(conns)
		for i := range conns {
			twin.apply(&conns[i])
		}
		compareTwin(t, table, twin, sub)
		for range 20 {
			c := randomConn(r)
			e, ok := table.Lookup(KeyOf(&c))
			want := twin.lookup(&c)
			if ok != (want != nil) || ok && describeEntry(&e) != twin.describe(want) {
				t.Errorf("lookup %v: %v %s, want %v", &c, ok, describeEntry(&e), want)
			}
		}
		compareBatch(t, r, table)
		if t.Failed() {
			t.Fatalf("step %d, %d entries", step, entries)
		}
	}
	for table.Len() > 0 { // the clock cannot be set to the end of the longest at once
		clock.advance(1 << 30 * time.Second)
	}
	checkEmpty(t, table)
}

// checkEmpty checks that nothing is left of entries that are gone.
func checkEmpty(t *testing.T, table *Table) {
	t.Helper()
	for i := range table.shards {
		s := &table.shards[i]
		for at := uintptr(0); at < s.index.size; at += 8 {
			if w := *s.index.word(at); w != 0 {
				t.Fatalf("shard %d: %#x is left in the index", i, w)
			}
		}
		for slot, r := range s.wheel.slots {
			if r != 0 {
				t.Fatalf("shard %d: entry %d is left in slot %d of the wheel", i, r, slot)
			}
		}
		if len(s.side.free) != int(s.side.used) {
			t.Fatalf("shard %d: %d of %d options are left", i, int(s.side.used)-len(s.side.free), s.side.used)
		}
	}
	if n := table.noCport.Load(); n != 0 {
		t.Fatalf("%d connections without client port are left", n)
	}
}

func compareTwin(t *testing.T, table *Table, twin *twinTable, sub *Subscription) {
	t.Helper()
	var got, want []string
	for e := range table.All() {
		got = append(got, describeEntry(&e))
	}
	for _, e := range twin.entries {
		want = append(want, twin.describe(e))
	}
	compareSorted(t, "entries", got, want)
	if n := table.Len(); n != len(want) {
		t.Errorf("Len %d, want %d", n, len(want))
	}
	st := table.Stats()
	twin.stats.Entries = uint64(len(twin.entries))
	if st != twin.stats {
		t.Errorf("stats %+v, want %+v", st, twin.stats)
	}
	got = nil
	for range len(sub.Changes()) {
		c := <-sub.Changes()
		got = append(got, fmt.Sprint(c.Kind, " ", describe(&c.Entry.Conn, engineName(c.Entry.Options), seqName(c.Entry.Options))))
	}
	compareSorted(t, "changes", got, twin.changes)
	twin.changes = nil
}

func compareSorted(t *testing.T, what string, got, want []string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if slices.Equal(got, want) {
		return
	}
	t.Errorf("%d %s, want %d", len(got), what, len(want))
	for _, s := range got {
		if i, ok := slices.BinarySearch(want, s); ok {
			want = slices.Delete(want, i, i+1)
		} else {
			t.Errorf("too much: %s", s)
		}
	}
	for _, s := range want {
		t.Errorf("missing: %s", s)
	}
}
