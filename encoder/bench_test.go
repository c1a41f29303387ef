package encoder

import (
	"encoding/binary"
	"testing"
)

// The bodies of the benchmarks, which the allocation tests run too.
var hotPaths = []struct {
	name string
	make func(testing.TB) func()
}{
	{"AppendRecord/ipv4", func(t testing.TB) func() { return appendRecord(conn4()) }},
	{"AppendRecord/ipv6", func(t testing.TB) func() { return appendRecord(conn6()) }},
	{"AppendRecord/sip", func(t testing.TB) func() { return appendRecord(connSIP(t)) }},
	{"Writer/40 ipv4", func(t testing.TB) func() {
		c, w, buf := conn4(), Writer{}, make([]byte, DefaultMaxSize)
		return func() {
			if w.Init(buf, 1, 7) != nil {
				t.Fatal("Init")
			}
			for range 40 {
				if w.Append(&c) != nil {
					t.Fatal("Append")
				}
			}
			w.Seal()
		}
	}},
	{"Writer/40 ipv4 raw", func(t testing.TB) func() {
		rec, w, buf := record(t, 1, conn4()), Writer{}, make([]byte, DefaultMaxSize)
		return func() {
			if w.Init(buf, 1, 7) != nil {
				t.Fatal("Init")
			}
			for range 40 {
				if !w.AppendRaw(rec) {
					t.Fatal("AppendRaw")
				}
			}
			w.Seal()
		}
	}},
	{"Decoder/40 ipv4", func(t testing.TB) func() { return decode(t, repeat(record(t, 1, conn4()), 40)) }},
	{"Decoder/20 ipv6", func(t testing.TB) func() { return decode(t, repeat(record(t, 1, conn6()), 20)) }},
	{"Decoder/19 sip", func(t testing.TB) func() { return decode(t, repeat(record(t, 1, connSIP(t)), 19)) }},
	{"Decoder/60 version 0", func(t testing.TB) func() {
		return decode(t, message(0, 7, repeatRecords(record(t, 0, conn4()), 60)...))
	}},
}

func appendRecord(c Conn) func() {
	buf := make([]byte, 0, 256)
	return func() {
		var err error
		if buf, err = AppendRecord(buf[:0], 1, &c); err != nil {
			panic(err)
		}
	}
}

func repeatRecords(rec []byte, n int) (out [][]byte) {
	for range n {
		out = append(out, rec)
	}
	return out
}

func repeat(rec []byte, n int) []byte { return message(1, 7, repeatRecords(rec, n)...) }

func decode(t testing.TB, msg []byte) func() {
	var d Decoder
	c := Conn{Options: make(Options, 0, 256)}
	want := int(msg[0]) + int(msg[4])*int(1-min(msg[0], 1))
	return func() {
		d.Open(msg)
		n := 0
		for {
			reason, ok := d.Next(&c)
			if !ok {
				break
			}
			if reason == Accepted {
				n++
			}
		}
		if n != want {
			t.Fatalf("%d records of %d", n, want)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	for _, h := range hotPaths {
		if n := testing.AllocsPerRun(100, h.make(t)); n != 0 {
			t.Errorf("%s: %v allocations", h.name, n)
		}
	}
}

func BenchmarkHotPaths(b *testing.B) {
	for _, h := range hotPaths {
		f := h.make(b)
		b.Run(h.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
	// The floor: what it costs to move a record's bytes, twice.
	src, dst := make([]byte, 36), make([]byte, 36)
	b.Run("floor/copy 36 bytes twice", func(b *testing.B) {
		for b.Loop() {
			copy(dst, src)
			copy(src, dst)
		}
	})
}

// Is assembly worth it for the parts of the hot path? A call of assembly cannot
// be inlined, and these parts cost less than a call: a record is moved in three
// loads and three stores, byte order is one instruction a word. The runtime's
// memmove, which is assembly that picks its instructions by CPUID, is the proof.
func BenchmarkKernels(b *testing.B) {
	const block = 1 << 15
	src, dst := make([]byte, block+64), make([]byte, block+64)
	n := len(src) - block - 64 + PlainIPv4Size // no constant to the compiler
	c := conn4()
	b.Run("move a record: inlined", func(b *testing.B) {
		for i := range b.N {
			at := i * 48 & (block - 1)
			*(*[PlainIPv4Size]byte)(dst[at:]) = *(*[PlainIPv4Size]byte)(src[at:])
		}
	})
	b.Run("move a record: assembly, memmove", func(b *testing.B) {
		for i := range b.N {
			at := i * 48 & (block - 1)
			copy(dst[at:at+n], src[at:at+n])
		}
	})
	b.Run("encode: PutPlainIPv4", func(b *testing.B) {
		for i := range b.N {
			at := i * 48 & (block - 1)
			PutPlainIPv4((*[PlainIPv4Size]byte)(dst[at:]), &c)
		}
	})
	b.Run("encode: opponent, field by field", func(b *testing.B) {
		for i := range b.N {
			at := i * 48 & (block - 1)
			fieldByField(dst[at:at+PlainIPv4Size], &c)
		}
	})
}

func fieldByField(b []byte, c *Conn) {
	be := binary.BigEndian
	b[0], b[1] = 0, byte(c.Protocol)
	be.PutUint16(b[2:], fixedSizeV4)
	be.PutUint32(b[4:], uint32(c.Flags))
	be.PutUint16(b[8:], uint16(c.State))
	be.PutUint16(b[10:], c.Client.Port)
	be.PutUint16(b[12:], c.Virtual.Port)
	be.PutUint16(b[14:], c.Dest.Port)
	be.PutUint32(b[16:], c.Fwmark)
	be.PutUint32(b[20:], c.Timeout)
	copy(b[24:28], c.Client.Addr[:4])
	copy(b[28:32], c.Virtual.Addr[:4])
	copy(b[32:36], c.Dest.Addr[:4])
}
