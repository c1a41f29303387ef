package ipvsync

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/puzpuzpuz/xsync/v4"
	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync/encoder"
)

// readTable is what the benchmark of lookups compares. get gives a copy of what
// is there, if its time is not over.
type readTable interface {
	apply([]Conn)
	get(*Conn, *Entry) bool
}

type ours struct{ *Table }

func (t ours) apply(conns []Conn) { t.Apply(conns) }
func (t ours) get(c *Conn, e *Entry) (ok bool) {
	*e, ok = t.Lookup(Key{Protocol: c.Protocol, Client: c.Client, Virtual: c.Virtual})
	return ok
}

// The others hold pointers to entries that are never changed, only replaced: so
// a reader sees all of one.
type syncMap struct {
	m     sync.Map
	start time.Time
}

func (t *syncMap) apply(conns []Conn) {
	now := time.Since(t.start)
	for i := range conns {
		t.m.Store(mapKeyOf(&conns[i]), newMapEntry(&conns[i], now))
	}
}

func (t *syncMap) get(c *Conn, e *Entry) bool {
	k := mapKeyOf(c)
	v, ok := t.m.Load(k)
	return ok && v.(*mapEntry).entry(&k, time.Since(t.start), e)
}

type xsyncMap struct {
	m     *xsync.Map[mapKey, *mapEntry]
	start time.Time
}

func (t *xsyncMap) apply(conns []Conn) {
	now := time.Since(t.start)
	for i := range conns {
		t.m.Store(mapKeyOf(&conns[i]), newMapEntry(&conns[i], now))
	}
}

func (t *xsyncMap) get(c *Conn, e *Entry) bool {
	k := mapKeyOf(c)
	v, ok := t.m.Load(k)
	return ok && v.entry(&k, time.Since(t.start), e)
}

// xsyncValues holds the entries themselves: Map never changes what it stores, only
// replaces it, so that no pointer is needed, nor a line of memory to follow one.
type xsyncValues struct {
	m     *xsync.Map[mapKey, smallEntry]
	start time.Time
}

// smallEntry is a mapEntry of a connection without options, which these are.
type smallEntry struct {
	dest     [4]byte
	dport    uint16
	state    encoder.State
	flags    encoder.Flags
	fwmark   uint32
	timeout  uint32
	deadline time.Duration
}

func (t *xsyncValues) apply(conns []Conn) {
	now := time.Since(t.start)
	for i := range conns {
		c := &conns[i]
		f := c.Flags.Backup(1)
		timeout := timeoutOf(c, f)
		t.m.Store(mapKeyOf(c), smallEntry{[4]byte(c.Dest.Addr[:4]), c.Dest.Port, c.State, f, c.Fwmark, timeout,
			now + time.Duration(timeout)*time.Second})
	}
}

func (t *xsyncValues) get(c *Conn, e *Entry) bool {
	k := mapKeyOf(c)
	v, ok := t.m.Load(k)
	if !ok {
		return false
	}
	m := mapEntry{dest: v.dest, dport: v.dport, state: v.state, flags: v.flags, fwmark: v.fwmark, timeout: v.timeout, deadline: v.deadline}
	return m.entry(&k, time.Since(t.start), e)
}

func (m *mapEntry) entry(k *mapKey, now time.Duration, e *Entry) bool {
	m.conn(k, &e.Conn)
	e.Expires = m.deadline - now
	return e.Expires > 0
}

// Two goroutines look up 1 M flows in random order, while a third applies
// messages to them, as fast as it can (updates/lookup says how fast). ns are
// of one lookup of one goroutine.
func BenchmarkTableLookup(b *testing.B) {
	flows := benchFlows(1_000_000)
	for _, tc := range []struct {
		name string
		make func() readTable
	}{
		{"table", func() readTable { return ours{makeTable(b, flows, "table").(*Table)} }},
		{"sync.Map", func() readTable { return &syncMap{start: time.Now()} }},
		{"xsync", func() readTable {
			return &xsyncMap{m: xsync.NewMap[mapKey, *mapEntry](xsync.WithPresize(flows)), start: time.Now()}
		}},
		{"xsync values", func() readTable {
			return &xsyncValues{m: xsync.NewMap[mapKey, smallEntry](xsync.WithPresize(flows)), start: time.Now()}
		}},
	} {
		var t readTable
		setUp := func() {
			if t != nil {
				return
			}
			t = tc.make()
			conns := make([]Conn, tableBatch)
			for n := 0; n < flows; n += tableBatch {
				for i := range conns {
					tableFlow(uint32(n+i), &conns[i])
				}
				t.apply(conns)
			}
		}
		b.Run(tc.name+"/beside a writer", func(b *testing.B) { setUp(); benchmarkLookup(b, t, flows, true) })
		b.Run(tc.name+"/alone", func(b *testing.B) { setUp(); benchmarkLookup(b, t, flows, false) })
		if t, ok := t.(ours); ok {
			t.Close()
		}
	}
}

func benchmarkLookup(b *testing.B, t readTable, flows int, write bool) {
	const readers = 2
	var stop atomic.Bool
	var writer, reader sync.WaitGroup
	updates := 0
	if write {
		writer.Go(func() {
			r := rand.New(rand.NewPCG(3, 4))
			conns := make([]Conn, tableBatch)
			for !stop.Load() {
				for i := range conns {
					tableFlow(r.Uint32N(uint32(flows)), &conns[i])
				}
				t.apply(conns)
				updates += len(conns)
			}
		})
	}
	b.ResetTimer()
	for i := range readers {
		reader.Go(func() {
			r := rand.New(rand.NewPCG(5, uint64(i)))
			var c Conn
			var e Entry
			for range b.N {
				tableFlow(r.Uint32N(uint32(flows)), &c)
				if !t.get(&c, &e) || e.Dest != c.Dest {
					b.Errorf("got %v, want %v", &e.Conn, &c)
					return
				}
			}
		})
	}
	reader.Wait()
	b.StopTimer()
	stop.Store(true)
	writer.Wait()
	b.ReportMetric(float64(updates)/float64(readers*b.N), "updates/lookup")
}

// processorTime is what this process has used so far.
func processorTime(tb testing.TB) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
