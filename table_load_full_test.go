package ipvsync

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

// What is over makes room for Load in whatever shard it is.
func TestTableLoadMakesRoom(t *testing.T) {
	clock := newTestClock()
	table := newTable(t, TableConfig{MaxEntries: 4, Shards: 8, Now: clock.now})
	shard := func(c Conn) int {
		var k flowKey
		k.set(c.Protocol, &c.Client, &c.Virtual)
		k.sum(&table.seed)
		return table.shardOf(k.hash)
	}
	full := map[int]bool{}
	for i := range 4 {
		c := flow(i, 10)
		table.Apply([]Conn{c})
		full[shard(c)] = true
	}
	i := 100
	for full[shard(flow(i, 10))] {
		i++
	}
	e := Entry{Conn: flow(i, 10), Expires: 5 * time.Second}
	if err := table.Load(e); !errors.Is(err, ErrTableFull) {
		t.Fatalf("load into a full table: %v", err)
	}
	clock.advance(11 * time.Second)
	if err := table.Load(e); err != nil {
		t.Errorf("all is over, but not in its shard: %v", err)
	}
	if st := table.Stats(); st.Loads != 2 || st.Loaded != 1 || st.LoadsRefused != 1 || st.Expired != 4 {
		t.Errorf("%+v", st)
	}
}

// Connections that nobody finds are spread over the shards, by Load as by Apply: as many as
// fit into a table fit back. They are not looked for, so a second time they
// are there twice.
func TestTableLoadLost(t *testing.T) {
	clock := newTestClock()
	const most = 4000
	table := newTable(t, TableConfig{MaxEntries: most, Shards: 8, Now: clock.now})
	c := flow(1, 60)
	c.Client.Port = 0
	if kindOf(c.Flags, 0, false) != kindLost {
		t.Fatalf("%v is found", &c)
	}
	for range most {
		table.Apply([]Conn{c})
	}
	saved := snapshotOf(t, table, clock.t)
	other := newTable(t, TableConfig{MaxEntries: 2 * most, Shards: 8, Now: clock.now})
	for n := uint64(1); n <= 2; n++ {
		if st, err := other.restore(bytes.NewReader(saved), clock.t); err != nil || st.Loaded != most || other.Len() != int(n)*most {
			t.Fatalf("time %d: %+v, %d entries, %v", n, st, other.Len(), err)
		}
	}
}

// slowReader takes time.
type slowReader struct {
	*bytes.Reader
	clock *testClock
}

func (r slowReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.clock.advance(time.Duration(n) * time.Millisecond)
	return n, err
}

// streamReader is no io.Seeker.
type streamReader struct{ r slowReader }

func (r streamReader) Read(b []byte) (int, error) { return r.r.Read(b) }

// Lives go on while a snapshot is read, both times.
func TestRestoreTakesTime(t *testing.T) {
	for _, seeks := range []bool{true, false} {
		clock := newTestClock()
		table := newTable(t, TableConfig{MaxEntries: 100, Now: clock.now})
		table.Apply([]Conn{flow(1, 900)})
		saved := snapshotOf(t, table, clock.t)
		other := newTable(t, TableConfig{MaxEntries: 100, Now: clock.now})
		begin := clock.t
		var err error
		if r := (slowReader{bytes.NewReader(saved), clock}); seeks {
			_, err = other.restore(r, clock.t)
		} else {
			_, err = other.restore(streamReader{r}, clock.t)
		}
		if took := clock.t.Sub(begin); err != nil || took < time.Duration(len(saved))*time.Millisecond {
			t.Fatalf("%v, %v", took, err)
		}
		c := flow(1, 900)
		a, _ := table.Lookup(KeyOf(&c))
		b, ok := other.Lookup(KeyOf(&c))
		if d := b.Expires - a.Expires; !ok || d < 0 || d > tableTick {
			t.Errorf("seeks %v: expires in %v, want %v", seeks, b.Expires, a.Expires)
		}
	}
}
