package ipvsync

import (
	"testing"
	"time"
)

// testClock is a clock that a test moves.
type testClock struct{ t time.Time }

func newTestClock() *testClock               { return &testClock{time.Unix(1e9, 0)} }
func (c *testClock) now() time.Time          { return c.t }
func (c *testClock) advance(d time.Duration) { c.t = c.t.Add(d) }

func newTable(tb testing.TB, cfg TableConfig) *Table {
	tb.Helper()
	table, err := NewTable(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		checkTable(tb, table)
		if err := table.Close(); err != nil {
			tb.Error(err)
		}
	})
	return table
}

// checkTable checks the conservation laws of TableStats.
func checkTable(tb testing.TB, t *Table) {
	tb.Helper()
	st := t.Stats()
	sum := st.Added + st.Updated + st.Replaced + st.Refused
	for _, n := range st.Ignored {
		sum += n
	}
	if st.Applied != sum {
		tb.Errorf("applied %d, accounted for %d: %+v", st.Applied, sum, st)
	}
	if sum := st.Loaded + st.LoadsKept + st.LoadsOver + st.LoadsRefused; st.Loads != sum {
		tb.Errorf("loads %d, accounted for %d: %+v", st.Loads, sum, st)
	}
	if st.Entries != st.Added+st.Loaded-st.Expired {
		tb.Errorf("%d entries, accounted for %d: %+v", st.Entries, st.Added+st.Loaded-st.Expired, st)
	}
}

func TestTableLife(t *testing.T) {
	clock := newTestClock()
	table := newTable(t, TableConfig{MaxEntries: 1000, Now: clock.now})
	var conns []Conn
	for i := range 40 {
		conns = append(conns, flow(i, 10), flow6(i, 20))
	}
	table.Apply(conns)
	if n := table.Len(); n != 80 {
		t.Fatalf("%d entries, want 80", n)
	}
	for i := range conns {
		e, ok := table.Lookup(KeyOf(&conns[i]))
		want := conns[i]
		want.Flags = want.Flags.Backup(1)
		if !ok || !e.Equal(&want) {
			t.Fatalf("got %v %v, want %v", ok, &e.Conn, &want)
		}
		if d := e.Expires - time.Duration(want.Timeout)*time.Second; d < 0 || d > tableTick {
			t.Fatalf("expires in %v, want %d s", e.Expires, want.Timeout)
		}
	}
	n := 0
	for range table.All() {
		n++
	}
	if n != 80 {
		t.Fatalf("All yields %d entries", n)
	}
	clock.advance(11 * time.Second)
	if _, ok := table.Lookup(KeyOf(&conns[0])); ok {
		t.Error("found after its time")
	}
	if _, ok := table.Lookup(KeyOf(&conns[1])); !ok {
		t.Error("not found before its time")
	}
	if n := table.Len(); n != 40 {
		t.Errorf("%d entries, want 40", n)
	}
	clock.advance(time.Hour)
	if n := table.Len(); n != 0 {
		t.Errorf("%d entries, want 0", n)
	}
}
