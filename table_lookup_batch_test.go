package ipvsync

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ipvsync/ipvsync/encoder"
)

// randomKey is of few keys, as randomConn is, or one that nothing can have.
func randomKey(r *rand.Rand) Key {
	c := randomConn(r)
	k := KeyOf(&c)
	switch r.IntN(20) {
	case 0:
		k.Client.Family = encoder.IPv4 + encoder.IPv6 - k.Virtual.Family
	case 1:
		k.Client.Family, k.Virtual.Family = encoder.FamilyNone, encoder.FamilyNone
	case 2:
		k.EngineData = string(make([]byte, 1000)) // more than a record can have
	case 3:
		k.Template = !k.Template
	}
	return k
}

// compareBatch checks that LookupBatch gives what Lookup gives for each key, while
// nobody writes, into memory that was used before.
func compareBatch(t *testing.T, r *rand.Rand, table *Table) {
	t.Helper()
	keys := make([]Key, r.IntN(3*tableWindow))
	for i := range keys {
		keys[i] = randomKey(r)
	}
	asked := slices.Clone(keys)
	entries, found := make([]Entry, len(keys)+1), make([]bool, len(keys)+1)
	for i := range entries {
		c := randomConn(r)
		entries[i], found[i] = Entry{Conn: c, Expires: -1}, r.IntN(2) == 0
	}
	behind, foundBehind := fmt.Sprintf("%+v", entries[len(keys)]), found[len(keys)]
	n, want := table.LookupBatch(keys, entries, found), 0
	for i := range keys {
		e, ok := table.Lookup(keys[i])
		if found[i] != ok || fmt.Sprintf("%+v", entries[i]) != fmt.Sprintf("%+v", e) {
			t.Errorf("%+v: %v %s, want %v %s", keys[i], found[i], describeEntry(&entries[i]), ok, describeEntry(&e))
		}
		if ok {
			want++
		}
	}
	if n != want {
		t.Errorf("%d found, want %d", n, want)
	}
	if !slices.Equal(keys, asked) {
		t.Error("the keys were changed")
	}
	if fmt.Sprintf("%+v", entries[len(keys)]) != behind || found[len(keys)] != foundBehind {
		t.Error("something was written behind the last key")
	}
}

// Memory for too few results is the caller's mistake, and is told at once: before
// anything is written.
func TestTableLookupBatchIntoTooLittle(t *testing.T) {
	table := newTable(t, TableConfig{MaxEntries: 10})
	c := flow(1, 60)
	table.Apply([]Conn{c})
	keys := []Key{KeyOf(&c), KeyOf(&c)}
	for _, room := range [][2]int{{1, 2}, {2, 1}, {0, 2}, {2, 0}} {
		entries, found := make([]Entry, room[0], 3), make([]bool, room[1], 3)
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%v: no panic", room)
				}
			}()
			table.LookupBatch(keys, entries, found)
		}()
		if slices.Contains(found[:3], true) {
			t.Errorf("%v: something was found", room)
		}
	}
	if n := table.LookupBatch(nil, nil, nil); n != 0 {
		t.Errorf("%d of no keys found", n)
	}
}

// A closed table has nothing.
func TestTableLookupBatchAfterClose(t *testing.T) {
	table := newTable(t, TableConfig{MaxEntries: 10})
	c := flow(1, 60)
	table.Apply([]Conn{c})
	keys, entries, found := []Key{KeyOf(&c)}, make([]Entry, 1), make([]bool, 1)
	if n := table.LookupBatch(keys, entries, found); n != 1 || !found[0] || entries[0].Client != c.Client {
		t.Fatalf("%d found: %v", n, &entries[0].Conn)
	}
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	if n := table.LookupBatch(keys, entries, found); n != 0 || found[0] || fmt.Sprintf("%+v", entries[0]) != fmt.Sprintf("%+v", Entry{}) {
		t.Errorf("%d found after Close: %v", n, &entries[0].Conn)
	}
}
