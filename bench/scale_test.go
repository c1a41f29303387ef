package bench

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
	"testing"
	"time"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
)

// How costs grow: with the flows in a Table, with the shards and the ports of a
// Sender. ns/rec is what one goroutine takes for a record, B/flow and MiB the
// resident memory that was added.

// oneRun is a run of every benchmark just once, to see that it works.
func oneRun() bool { return flag.Lookup("test.benchtime").Value.String() == "1x" }

// scaleFlow is flow number n, of one of some clients' ports to one of 16 services.
func scaleFlow(n uint32, c *ipvsync.Conn) {
	*c = conns[0]
	binary.BigEndian.PutUint32(c.Client.Addr[:], 0x0a000000+n/64)
	c.Client.Port = uint16(1024 + n%64*61)
	c.Virtual.Addr[3] = byte(n % 16)
}

// store is what holds flows.
type store interface {
	Apply([]ipvsync.Conn)
	Len() int
}

// mapStore is what a Go programmer would begin with: a map without pointers. It
// knows IPv4 alone, no timeouts, no rules of the protocol and no readers beside
// its writer.
type mapStore map[mapKey]mapValue

type mapKey struct {
	client, virtual         [4]byte
	clientPort, virtualPort uint16
	protocol                encoder.Protocol
}

type mapValue struct {
	dest           [4]byte
	port           uint16
	flags          encoder.Flags
	state          encoder.State
	fwmark         uint32
	timeout, since uint32
}

func (m mapStore) Len() int { return len(m) }

func (m mapStore) Apply(conns []ipvsync.Conn) {
	now := uint32(time.Since(mapStart) / time.Second)
	for i := range conns {
		c := &conns[i]
		m[mapKey{[4]byte(c.Client.Addr[:4]), [4]byte(c.Virtual.Addr[:4]), c.Client.Port, c.Virtual.Port, c.Protocol}] = mapValue{
			[4]byte(c.Dest.Addr[:4]), c.Dest.Port, c.Flags, c.State, c.Fwmark, c.Timeout, now}
	}
}

var mapStart = time.Now()

// filled is the last store, kept for benchmarks that run several times.
var filled struct {
	kind    string
	flows   int
	store   store
	perFlow float64 // bytes
}

func letGo() {
	if t, ok := filled.store.(*ipvsync.Table); ok {
		t.Close()
	}
	filled.store, filled.flows = nil, 0
	debug.FreeOSMemory()
}

// fill is a store of that many flows.
func fill(b *testing.B, kind string, flows int) store {
	if filled.store != nil && filled.kind == kind && filled.flows == flows {
		return filled.store
	}
	letGo()
	before := resident(b)
	var s store = mapStore{}
	if kind == "Table" {
		t, err := ipvsync.NewTable(ipvsync.TableConfig{MaxEntries: flows + flows/16})
		if err != nil {
			b.Fatal(err)
		}
		s = t
	}
	batch := make([]ipvsync.Conn, recordsPerMessage)
	for n := 0; n < flows; n += len(batch) {
		batch = batch[:min(len(batch), flows-n)]
		for i := range batch {
			scaleFlow(uint32(n+i), &batch[i])
		}
		s.Apply(batch)
	}
	if s.Len() != flows {
		b.Fatalf("%d flows, want %d", s.Len(), flows)
	}
	debug.FreeOSMemory()
	filled.kind, filled.flows, filled.store = kind, flows, s
	filled.perFlow = float64(resident(b)-before) / float64(flows)
	return s
}

// resident is the memory of this process, in bytes.
func resident(tb testing.TB) int {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		tb.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		tb.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// BenchmarkScaleFlows: refreshes of flows in random order, in messages of 40. One
// operation is 16 messages, which are made with the clock stopped.
func BenchmarkScaleFlows(b *testing.B) {
	defer letGo()
	const messages = 16
	for _, kind := range []string{"Table", "map"} {
		for _, flows := range []int{1_000, 10_000, 100_000, 1_000_000, 10_000_000} {
			b.Run(fmt.Sprintf("%s, flows=%d", kind, flows), func(b *testing.B) {
				if oneRun() && flows > 100_000 {
					b.Skip("takes many seconds to fill: run with another -benchtime than 1x")
				}
				s := fill(b, kind, flows)
				r := rand.New(rand.NewPCG(1, 2))
				batch := make([]ipvsync.Conn, messages*recordsPerMessage)
				var took, cpu time.Duration
				records := 0.0
				for b.Loop() {
					for i := range batch {
						scaleFlow(r.Uint32N(uint32(flows)), &batch[i])
					}
					began, start := cpuTime(), time.Now()
					for m := range messages {
						s.Apply(batch[m*recordsPerMessage:][:recordsPerMessage])
					}
					took += time.Since(start)
					cpu += cpuTime() - began
					records += float64(len(batch))
				}
				b.ReportMetric(0, "ns/op") // of no meaning
				b.ReportMetric(float64(took.Nanoseconds())/records, "ns/rec")
				b.ReportMetric(float64(cpu.Nanoseconds())/records, "cpu-ns/rec")
				b.ReportMetric(filled.perFlow, "B/flow")
				b.ReportMetric(100*float64(flows-s.Len())/float64(flows), "lost-%")
			})
		}
	}
}

// noTx takes every message and sends none: what remains is the engine's cost.
type noTx struct {
	buf     [messageSize]byte
	pending int
}

func (d *noTx) MaxPayload() int          { return len(d.buf) }
func (d *noTx) Next() ([]byte, error)    { return d.buf[:], nil }
func (d *noTx) Commit(int)               { d.pending++ }
func (d *noTx) Flush() error             { d.pending = 0; return nil }
func (d *noTx) Pending() int             { return d.pending }
func (d *noTx) Wait(time.Duration) error { return nil }
func (d *noTx) Stats() xsk.TxStats       { return xsk.TxStats{} }
func (d *noTx) Close() error             { return nil }

// BenchmarkScaleShards: one goroutine publishes 40 updates to one shard after the
// other; one loop gathers them. One operation is 1000 messages' worth.
func BenchmarkScaleShards(b *testing.B) {
	for _, n := range []int{1, 2, 4, 8, 16, 32, 64} {
		b.Run(fmt.Sprintf("shards=%d", n), func(b *testing.B) {
			scaleSender(b, ipvsync.SenderConfig{Shards: n})
		})
	}
}

// BenchmarkScalePorts: the same with 8 shards, and a transmit loop, and a thread,
// for each port.
func BenchmarkScalePorts(b *testing.B) {
	for _, n := range []int{1, 2, 4, 8} {
		b.Run(fmt.Sprintf("ports=%d", n), func(b *testing.B) {
			scaleSender(b, ipvsync.SenderConfig{Shards: 8, Ports: n})
		})
	}
}

func scaleSender(b *testing.B, cfg ipvsync.SenderConfig) {
	const turn = 1000
	needProcessors(b)
	cfg.OpenTx = func(int, func([]byte)) (xsk.Tx, error) { return new(noTx), nil }
	debug.FreeOSMemory()
	before := resident(b)
	s, err := ipvsync.NewSender(cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	next := 0
	work := func() {
		for range turn {
			shard := s.Shard(next % s.Shards())
			next++
			for todo := conns; len(todo) > 0; {
				n, err := shard.PublishBatch(todo)
				if todo = todo[n:]; err != nil {
					spin()
				}
			}
		}
		if err := s.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	for range 1 + 64*ringRecords/(turn*recordsPerMessage) {
		work() // so that every ring was full once, and has its memory
	}
	memory := resident(b) - before
	sent, began, start, records := s.Stats().Sent, cpuTime(), time.Now(), 0.0
	for b.Loop() {
		work()
		records += turn * recordsPerMessage
	}
	took, cpu := time.Since(start), cpuTime()-began
	lost := records - float64(s.Stats().Sent-sent)
	b.ReportMetric(0, "ns/op") // of no meaning
	b.ReportMetric(float64(took.Nanoseconds())/records, "ns/rec")
	b.ReportMetric(float64(cpu.Nanoseconds())/records, "cpu-ns/rec")
	b.ReportMetric(100*lost/records, "lost-%")
	b.ReportMetric(float64(memory)/(1<<20), "MiB")
	runtime.KeepAlive(s)
}

// ringRecords is how many IPv4 records a ring of the default size holds.
const ringRecords = ipvsync.DefaultRingSize / 48
