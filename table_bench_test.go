package ipvsync

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/ipvsync/ipvsync/encoder"
)

// tableFlow is flow number n of a table's benchmarks: one of some clients' ports
// at one of 16 services.
func tableFlow(n uint32, c *Conn) {
	c.Client.Family, c.Virtual.Family, c.Dest.Family = encoder.IPv4, encoder.IPv4, encoder.IPv4
	binary.BigEndian.PutUint32(c.Client.Addr[:], 0x0a000000+n/64)
	c.Client.Port = uint16(1024 + n%64*61)
	binary.BigEndian.PutUint32(c.Virtual.Addr[:], 0xc0000200|n%16)
	c.Virtual.Port = 443
	binary.BigEndian.PutUint32(c.Dest.Addr[:], 0x0a010000|n&0xffff)
	c.Dest.Port = 8443
	c.Protocol, c.State, c.Timeout = encoder.TCP, encoder.TCPEstablished, 900
}

const tableBatch = 40 // IPv4 records of a message of 1448 bytes

// backupTable is what the benchmarks compare.
type backupTable interface {
	Apply([]Conn)
	Len() int
}

// oneRun is a run of every benchmark just once, to see that it works.
func oneRun() bool { return flag.Lookup("test.benchtime").Value.String() == "1x" }

// benchFlows is n, or few in a short run.
func benchFlows(n int) int {
	if testing.Short() || oneRun() {
		return 10_000
	}
	return n
}

func name(n int) string {
	if n >= 1_000_000 {
		return strconv.Itoa(n/1_000_000) + "M"
	}
	return strconv.Itoa(n/1000) + "k"
}

func makeTable(tb testing.TB, flows int, kind string) backupTable {
	switch kind {
	case "map":
		return &plainMap{entries: map[plainKey]*plainEntry{}, start: time.Now()}
	case "IPv4 map of values":
		return &valueTable{entries: map[mapKey]valueEntry{}, start: time.Now()}
	case "IPv4 map of values, presized":
		return &valueTable{entries: make(map[mapKey]valueEntry, flows), start: time.Now()}
	case "IPv4 map":
		return &mapTable{entries: map[mapKey]*mapEntry{}, start: time.Now()}
	}
	table, err := NewTable(TableConfig{MaxEntries: flows + flows/16})
	if err != nil {
		tb.Fatal(err)
	}
	return table
}

// The last one that was filled is kept, for sub-benchmarks run several times.
var filled struct {
	table backupTable
	what  string
	bytes float64 // per flow: resident memory
}

// fill is a table of that many flows.
func fill(tb testing.TB, flows int, kind string) backupTable {
	tb.Helper()
	what := fmt.Sprint(kind, flows)
	if filled.what == what {
		return filled.table
	}
	if t, ok := filled.table.(*Table); ok {
		t.Close()
	}
	filled.table, filled.what = nil, ""
	debug.FreeOSMemory()
	before := resident(tb)
	if kind == "empty" {
		filled.what = what
		return nil
	}
	t := makeTable(tb, flows, kind)
	conns := make([]Conn, tableBatch)
	for n := 0; n < flows; n += len(conns) {
		conns = conns[:min(len(conns), flows-n)]
		for i := range conns {
			tableFlow(uint32(n+i), &conns[i])
		}
		t.Apply(conns)
	}
	if t.Len() != flows {
		tb.Fatalf("%d flows in the table, want %d", t.Len(), flows)
	}
	debug.FreeOSMemory()
	filled.table, filled.what = t, what
	filled.bytes = float64(resident(tb)-before) / float64(flows)
	return t
}

// resident is the memory of this process, in bytes.
func resident(tb testing.TB) int {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		tb.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	if err != nil {
		tb.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// What one goroutine applies: refreshes of flows in random order, in messages of
// 40 records. ns are of one record, a message of 40 is one Apply. Making the
// records costs the same with both: it is the sub-benchmark "making".
func BenchmarkTableApply(b *testing.B) {
	for _, flows := range []int{1_000_000, 10_000_000} {
		flows = benchFlows(flows)
		for _, kind := range []string{"table", "IPv4 map", "IPv4 map of values", "IPv4 map of values, presized", "map", "making"} {
			b.Run(name(flows)+"/"+kind, func(b *testing.B) {
				var t backupTable
				if kind != "making" {
					t = fill(b, flows, kind)
				}
				r := rand.New(rand.NewPCG(1, 2))
				conns := make([]Conn, tableBatch)
				b.ReportAllocs()
				b.ResetTimer()
				for n := 0; n < b.N; n += tableBatch {
					for i := range conns {
						tableFlow(r.Uint32N(uint32(flows)), &conns[i])
					}
					if t != nil {
						t.Apply(conns)
					}
				}
				b.StopTimer()
				if t != nil {
					b.ReportMetric(filled.bytes, "B/flow")
					if t.Len() != flows {
						b.Errorf("%d flows, want %d", t.Len(), flows)
					}
				}
			})
		}
	}
}

// A new connection in each record; all end at the same time, out of the loop.
func BenchmarkTableAdd(b *testing.B) {
	for _, kind := range []string{"table", "IPv4 map", "IPv4 map of values", "map"} {
		b.Run(kind, func(b *testing.B) {
			t := makeTable(b, max(b.N, tableBatch)+tableBatch, kind)
			conns := make([]Conn, tableBatch)
			b.ResetTimer()
			for n := 0; n < b.N; n += tableBatch {
				for i := range conns {
					tableFlow(uint32(n+i)*0x9e3779b1, &conns[i])
				}
				t.Apply(conns)
			}
			b.StopTimer()
			if t, ok := t.(*Table); ok {
				t.Close()
			}
		})
	}
}

// What the garbage collector has to do with 10 M flows: wall clock and processor
// time of a cycle, and its pauses.
func BenchmarkTableGC(b *testing.B) {
	flows := benchFlows(10_000_000)
	for _, kind := range []string{"empty", "table", "IPv4 map"} {
		b.Run(kind, func(b *testing.B) {
			fill(b, flows, kind)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			cpu := processorTime(b)
			for b.Loop() {
				runtime.GC()
			}
			runtime.ReadMemStats(&after)
			cycles := float64(after.NumGC - before.NumGC)
			b.ReportMetric(float64(after.PauseTotalNs-before.PauseTotalNs)/cycles, "pause-ns/op")
			b.ReportMetric(float64(processorTime(b)-cpu)/cycles, "cpu-ns/op")
		})
	}
}

// BenchmarkTableHash is why the table does not hash by xxhash.
func BenchmarkTableHash(b *testing.B) {
	for _, v6 := range []bool{false, true} {
		c := flow(1, 1)
		if v6 {
			c = flow6(1, 1)
		}
		seed := hashSeed{1, 2, 3, 4}
		var k flowKey
		b.Run(fmt.Sprintf("ipv6=%v/fold", v6), func(b *testing.B) {
			for b.Loop() {
				k.set(c.Protocol, &c.Client, &c.Virtual)
				k.sum(&seed)
				c.Client.Port = uint16(k.hash)
			}
		})
		b.Run(fmt.Sprintf("ipv6=%v/xxhash", v6), func(b *testing.B) {
			for b.Loop() {
				k.set(c.Protocol, &c.Client, &c.Virtual)
				var buf [40]byte
				binary.NativeEndian.PutUint64(buf[0:], k.ports)
				binary.NativeEndian.PutUint64(buf[8:], k.client[0])
				key := buf[:16]
				if v6 {
					binary.NativeEndian.PutUint64(buf[16:], k.client[1])
					binary.NativeEndian.PutUint64(buf[24:], k.virtual[0])
					binary.NativeEndian.PutUint64(buf[32:], k.virtual[1])
					key = buf[:]
				}
				c.Client.Port = uint16(xxhash.Sum64(key))
			}
		})
	}
}

// Two goroutines apply to one table: what shards are for.
func BenchmarkTableApplyTwo(b *testing.B) {
	flows := benchFlows(1_000_000)
	for _, shards := range []int{1, 2, 4, 16} {
		b.Run(fmt.Sprint("shards=", shards), func(b *testing.B) {
			table, err := NewTable(TableConfig{MaxEntries: flows + flows/16, Shards: shards})
			if err != nil {
				b.Fatal(err)
			}
			defer table.Close()
			apply := func(n int, flow func(i int) uint32) {
				conns := make([]Conn, tableBatch)
				for i := 0; i < n; i += tableBatch {
					for j := range conns {
						tableFlow(flow(i+j), &conns[j])
					}
					table.Apply(conns)
				}
			}
			apply(flows, func(i int) uint32 { return uint32(i) })
			b.ResetTimer()
			var both sync.WaitGroup
			for g := range 2 {
				both.Go(func() {
					r := rand.New(rand.NewPCG(7, uint64(g)))
					apply(b.N/2, func(int) uint32 { return r.Uint32N(uint32(flows)) })
				})
			}
			both.Wait()
		})
	}
}
