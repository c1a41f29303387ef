package ipvsync

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/puzpuzpuz/xsync/v4"
	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync/encoder"
)

// readTable is what the benchmark of lookups compares. look looks up the keys of a
// burst of packets, which it makes in its own form first. entries are copies of
// what is there, if its time is not over.
type readTable interface {
	apply([]Conn)
	look(*burst)
}

// burst is what one reader looks up at once, and its memory.
type burst struct {
	conns   [tableBatch]Conn
	keys    [tableBatch]Key
	mapKeys [tableBatch]mapKey
	entries [tableBatch]Entry
	found   [tableBatch]bool
}

func (b *burst) makeKeys() {
	for i := range b.conns {
		c, k := &b.conns[i], &b.keys[i]
		k.Protocol, k.Client, k.Virtual = c.Protocol, c.Client, c.Virtual
	}
}

func (b *burst) makeMapKeys() {
	for i := range b.conns {
		b.mapKeys[i] = mapKeyOf(&b.conns[i])
	}
}

type ours struct{ *Table }

func (t ours) apply(conns []Conn) { t.Apply(conns) }

func (t ours) look(b *burst) {
	b.makeKeys()
	for i := range b.keys {
		b.entries[i], b.found[i] = t.Lookup(b.keys[i])
	}
}

// oursBatch looks up all at once.
type oursBatch struct{ ours }

func (t oursBatch) look(b *burst) {
	b.makeKeys()
	t.LookupBatch(b.keys[:], b.entries[:], b.found[:])
}

// The others read the clock once for all. The first two hold pointers to entries
// that are never changed, only replaced: so a reader sees all of one.
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

func (t *syncMap) look(b *burst) {
	b.makeMapKeys()
	now := time.Since(t.start)
	for i := range b.mapKeys {
		k := &b.mapKeys[i]
		v, ok := t.m.Load(*k)
		b.found[i] = ok && v.(*mapEntry).entry(k, now, &b.entries[i])
	}
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

func (t *xsyncMap) look(b *burst) {
	b.makeMapKeys()
	now := time.Since(t.start)
	for i := range b.mapKeys {
		k := &b.mapKeys[i]
		v, ok := t.m.Load(*k)
		b.found[i] = ok && v.entry(k, now, &b.entries[i])
	}
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
		t.m.Store(mapKeyOf(c), smallEntryOf(c, now))
	}
}

func (t *xsyncValues) look(b *burst) {
	b.makeMapKeys()
	now := time.Since(t.start)
	for i := range b.mapKeys {
		k := &b.mapKeys[i]
		v, ok := t.m.Load(*k)
		b.found[i] = ok && v.entry(k, now, &b.entries[i])
	}
}

// lockedMap is a map of values cut into pieces, each with a lock of its own.
type lockedMap struct {
	pieces [1024]struct {
		sync.RWMutex
		m map[mapKey]smallEntry
		_ [64]byte
	}
	start time.Time
}

// pieceOf is by the client alone: what decides must cost nothing.
func (t *lockedMap) pieceOf(k *mapKey) int {
	client := uint64(binary.LittleEndian.Uint32(k.client[:]))<<16 | uint64(k.cport)
	return int(client * 0x9e3779b97f4a7c15 >> 54)
}

func newLockedMap(flows int) *lockedMap {
	t := &lockedMap{start: time.Now()}
	for i := range t.pieces {
		t.pieces[i].m = make(map[mapKey]smallEntry, flows/len(t.pieces))
	}
	return t
}

func (t *lockedMap) apply(conns []Conn) {
	now := time.Since(t.start)
	for i := range conns {
		c := &conns[i]
		k := mapKeyOf(c)
		p := &t.pieces[t.pieceOf(&k)]
		e := smallEntryOf(c, now)
		p.Lock()
		p.m[k] = e
		p.Unlock()
	}
}

func (t *lockedMap) look(b *burst) {
	b.makeMapKeys()
	now := time.Since(t.start)
	for i := range b.mapKeys {
		k := &b.mapKeys[i]
		p := &t.pieces[t.pieceOf(k)]
		p.RLock()
		v, ok := p.m[*k]
		p.RUnlock()
		b.found[i] = ok && v.entry(k, now, &b.entries[i])
	}
}

func smallEntryOf(c *Conn, now time.Duration) smallEntry {
	f := c.Flags.Backup(1)
	timeout := timeoutOf(c, f)
	return smallEntry{[4]byte(c.Dest.Addr[:4]), c.Dest.Port, c.State, f, c.Fwmark, timeout, now + time.Duration(timeout)*time.Second}
}

func (v *smallEntry) entry(k *mapKey, now time.Duration, e *Entry) bool {
	m := mapEntry{dest: v.dest, dport: v.dport, state: v.state, flags: v.flags, fwmark: v.fwmark, timeout: v.timeout, deadline: v.deadline}
	return m.entry(k, now, e)
}

func (m *mapEntry) entry(k *mapKey, now time.Duration, e *Entry) bool {
	m.conn(k, &e.Conn)
	e.Expires = m.deadline - now
	return e.Expires > 0
}

// Two goroutines look up 1 M flows in random order, in bursts of 40, while a third
// applies messages to them, as fast as it can (updates/lookup says how fast). ns are
// of one lookup of one goroutine. The table is read by Lookup and by LookupBatch.
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
		{"map in 1024 pieces", func() readTable { return newLockedMap(flows) }},
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
		for _, name := range []string{tc.name, tc.name + ", LookupBatch"} {
			batch := name != tc.name
			if batch && tc.name != "table" {
				continue
			}
			run := func(write bool) func(*testing.B) {
				return func(b *testing.B) {
					setUp()
					reader := t
					if batch {
						reader = oursBatch{t.(ours)}
					}
					benchmarkLookup(b, reader, flows, write)
				}
			}
			b.Run("beside a writer/"+name, run(true))
			b.Run("alone/"+name, run(false))
		}
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
			burst := new(burst)
			for n := 0; n < b.N; n += tableBatch {
				for i := range burst.conns {
					tableFlow(r.Uint32N(uint32(flows)), &burst.conns[i])
				}
				t.look(burst)
				for i := range burst.conns {
					if c, e := &burst.conns[i], &burst.entries[i]; !burst.found[i] || e.Dest != c.Dest {
						b.Errorf("got %v, want %v", &e.Conn, c)
						return
					}
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
