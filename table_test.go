package ipvsync

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
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
	if !t.closed.Load() && st.Entries != st.Added+st.Loaded-st.Expired {
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

func TestTableFull(t *testing.T) {
	clock := newTestClock()
	table := newTable(t, TableConfig{MaxEntries: 50, Shards: 4, Now: clock.now})
	var conns []Conn
	for i := range 60 {
		conns = append(conns, flow(i, 10))
	}
	table.Apply(conns)
	if st := table.Stats(); st.Added != 50 || st.Refused != 10 || table.Len() != 50 {
		t.Fatalf("%+v", st)
	}
	conns[0].Dest.Port++
	table.Apply(conns) // what is there goes on, and is replaced
	if st := table.Stats(); st.Updated != 49 || st.Replaced != 1 || st.Refused != 20 {
		t.Fatalf("%+v", st)
	}
	if err := table.Load(Entry{Conn: flow6(1, 10), Expires: time.Second}); !errors.Is(err, ErrTableFull) {
		t.Errorf("load into a full table: %v", err)
	}
	clock.advance(11 * time.Second) // without Expire: what is over makes room
	table.Apply(conns)
	if st := table.Stats(); st.Added != 100 || st.Refused != 30 || st.Expired != 50 {
		t.Errorf("%+v", st)
	}
}

func TestTableDoesNotAllocate(t *testing.T) {
	if onHeap {
		t.Skip("the race detector allocates")
	}
	table := newTable(t, TableConfig{MaxEntries: 10000})
	conns := make([]Conn, 40)
	key := Key{Protocol: encoder.TCP}
	keys, entries, found := make([]Key, len(conns)), make([]Entry, len(conns)), make([]bool, len(conns))
	n := 0
	allocs := testing.AllocsPerRun(200, func() {
		for i := range conns {
			tableFlow(uint32(n/2+i), &conns[i]) // half of them new
		}
		n += len(conns)
		table.Apply(conns)
		for i := range conns {
			key.Client, key.Virtual = conns[i].Client, conns[i].Virtual
			if _, ok := table.Lookup(key); !ok {
				t.Fatal("not found")
			}
			keys[i] = key
		}
		if got := table.LookupBatch(keys, entries, found); got != len(keys) {
			t.Fatalf("%d of %d found", got, len(keys))
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// A subscriber that does not read misses changes, which is counted, and holds up nobody.
func TestTableSubscriberMisses(t *testing.T) {
	table := newTable(t, TableConfig{MaxEntries: 100})
	slow, quick := table.Subscribe(10), table.Subscribe(100)
	conns := make([]Conn, 40)
	for i := range conns {
		conns[i] = flow(i, 10)
	}
	table.Apply(conns)
	if slow.Missed() != 30 || quick.Missed() != 0 || table.Stats().Missed != 30 || len(quick.Changes()) != 40 {
		t.Errorf("missed %d, %d, in all %d", slow.Missed(), quick.Missed(), table.Stats().Missed)
	}
	conns[0].Dest.Port++
	slow.Close()
	slow.Close()
	table.Apply(conns[:1])
	for range 40 {
		<-quick.Changes()
	}
	c := <-quick.Changes()
	if c.Kind != Replaced || c.Entry.Dest != conns[0].Dest || c.Old.Dest.Port != conns[0].Dest.Port-1 {
		t.Errorf("%+v", c)
	}
	table.Close()
	if _, ok := <-quick.Changes(); ok {
		t.Error("Close leaves the subscription open")
	}
	if _, ok := <-table.Subscribe(1).Changes(); ok {
		t.Error("a subscription of a closed table is open")
	}
}

func TestTableClose(t *testing.T) {
	table, err := NewTable(TableConfig{MaxEntries: 100})
	if err != nil {
		t.Fatal(err)
	}
	c := flow(1, 10)
	table.Apply([]Conn{c})
	for range 2 {
		if err := table.Close(); err != nil {
			t.Fatal(err)
		}
	}
	table.Apply([]Conn{c})
	for range table.All() {
		t.Error("a closed table has entries")
	}
	if _, ok := table.Lookup(KeyOf(&c)); ok || table.Len() != 0 || table.Stats().Ignored[IgnoredClosed] != 1 {
		t.Errorf("found %v, %d entries, %+v", ok, table.Len(), table.Stats())
	}
}

func TestTableConfig(t *testing.T) {
	for _, cfg := range []TableConfig{{MaxEntries: -1}, {MaxEntries: MaxTableEntries + 1}, {Shards: 3}, {Shards: 128}, {Shards: -1}} {
		var ce *ConfigError
		if _, err := NewTable(cfg); !errors.As(err, &ce) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

// Apply ends a bounded number of entries, Expire all.
func TestTableExpiresInTurns(t *testing.T) {
	clock := newTestClock()
	const entries = 5 * expireTurn
	table := newTable(t, TableConfig{MaxEntries: 2 * entries, Shards: 1, Now: clock.now})
	conns := make([]Conn, entries)
	for i := range conns {
		conns[i] = flow(i, 10)
	}
	table.Apply(conns)
	clock.advance(time.Minute)
	again := flow(entries, 10)
	table.Apply([]Conn{again})
	if st := table.Stats(); st.Expired == 0 || st.Expired > expireBudget+2 {
		t.Errorf("one record ended %d entries, want up to %d", st.Expired, expireBudget+2)
	}
	for e := range table.All() {
		if e.Client != again.Client {
			t.Fatalf("%v is over, and shown", &e.Conn)
		}
	}
	table.Expire()
	if st := table.Stats(); st.Expired != entries || st.Entries != 1 {
		t.Errorf("%+v", st)
	}
}

// Run ends what nobody else does.
func TestTableRun(t *testing.T) {
	table := newTable(t, TableConfig{MaxEntries: 100})
	sub := table.Subscribe(10)
	c := flow(1, 1)
	start := time.Now()
	table.Apply([]Conn{c})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- table.Run(ctx) }()
	if got := <-sub.Changes(); got.Kind != Added {
		t.Fatalf("%+v", got)
	}
	if got := <-sub.Changes(); got.Kind != Expired || got.Entry.Client != c.Client || time.Since(start) < time.Second {
		t.Fatalf("after %v: %+v", time.Since(start), got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A full index, in which buckets overflow, and are emptied and filled again.
func TestTableFullIndex(t *testing.T) {
	clock := newTestClock()
	const entries = 20000
	table := newTable(t, TableConfig{MaxEntries: entries, Shards: 1, Now: clock.now})
	conns := make([]Conn, entries)
	for i := range conns {
		conns[i] = flow(i, uint32(10+90*(i%2)))
	}
	check := func(even bool) {
		t.Helper()
		for i := range conns {
			if _, ok := table.Lookup(KeyOf(&conns[i])); ok != (even || i%2 == 1) {
				t.Fatalf("%v: found %v", &conns[i], ok)
			}
		}
	}
	for range 5 {
		table.Apply(conns)
		check(true)
		clock.advance(11 * time.Second)
		table.Expire()
		check(false)
	}
	if st := table.Stats(); st.Added != 3*entries || st.Updated != 2*entries || st.Refused > 0 {
		t.Errorf("%+v", st)
	}
	clock.advance(time.Hour)
	table.Expire()
	checkEmpty(t, table)
}
