package encoder

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The byte tables of docs/wire-format.md, written out by hand.
func TestRecordBytes(t *testing.T) {
	seq := connSeq(t)
	sip := connSIP(t)
	sip.Options = must2(sip.Options[:0].AppendPE("sip", []byte("call")))
	unknown := connUnknown(t)
	c4, c6 := conn4(), conn6()
	addr4 := "0a580001 0a580002 0a630003"
	addr6 := "20010db8000000000000000000000001 20010db8000000000000000000000002 fd000000000000000000000000000003"
	for _, tc := range []struct {
		name string
		v    Version
		c    *Conn
		want string
	}{
		{"v1 ipv4", 1, &c4, "00 06 0024 00000100 0001 aba2 0050 1f90 00000007 00000384" + addr4},
		{"v1 ipv6", 1, &c6, "01 11 0048 00000003 0000 aba2 01bb 20fb 00000000 0000012c" + addr6},
		{"v1 seq", 1, &seq, "00 06 003e 00000600 0001 aba2 0050 1f90 00000007 00000384" + addr4 +
			"0118 000000010000000200000003 fffffffe0000000500000006"},
		{"v1 sip", 1, &sip, "00 11 002f 00001000 0001 aba2 0050 1f90 00000007 00000384" + addr4 + "0204 63616c6c 0303 736970"},
		{"v1 unknown", 1, &unknown, "01 11 004f 00000003 0000 aba2 01bb 20fb 00000000 0000012c" + addr6 + "4505 68656c6c6f"},
		{"v0", 0, &c4, "00 06 aba2 0050 1f90" + addr4 + "0100 0001"},
	} {
		want := unhex(t, tc.want)
		got, err := AppendRecord([]byte("before"), tc.v, tc.c)
		if err != nil || !bytes.Equal(got, append([]byte("before"), want...)) {
			t.Errorf("%s:\ngot  %x, %v\nwant %x", tc.name, got, err, want)
		}
		if n := RecordSize(tc.v, tc.c); n != len(want) {
			t.Errorf("%s: size %d, want %d", tc.name, n, len(want))
		}
	}
	// Sequence data of version 0 is in host order.
	got, err := AppendRecord(nil, 0, &seq)
	if err != nil || len(got) != 48 {
		t.Fatalf("%x, %v", got, err)
	}
	for i, w := range []uint32{1, 2, 3, 0xfffffffe, 5, 6} {
		if s := getSeq(append(slices.Clone(got[24+4*i:28+4*i]), make([]byte, 8)...), binary.NativeEndian); s.Init != w {
			t.Errorf("word %d is %x", i, s.Init)
		}
	}
}

func must2(o Options, err error) Options {
	if err != nil {
		panic(err)
	}
	return o
}

func TestUnencodable(t *testing.T) {
	long := bytes.Repeat([]byte("x"), 256)
	with := func(f func(*Conn)) Conn { c := conn4(); f(&c); return c }
	var big Options
	for len(big) <= MaxRecordSize-fixedSizeV4 {
		big = must2(big.AppendUnknown(0x77, long[:200]))
	}
	for _, tc := range []struct {
		name, field string
		v           Version
		c           Conn
		err         error
	}{
		{"no client", "client", 1, with(func(c *Conn) { c.Client = Endpoint{} }), ErrNoAddress},
		{"no dest", "dest", 1, with(func(c *Conn) { c.Dest.Family = FamilyNone }), ErrNoAddress},
		{"strange family", "virtual", 1, with(func(c *Conn) { c.Virtual.Family = 10 }), ErrNoAddress},
		{"mixed virtual", "virtual", 1, with(func(c *Conn) { c.Virtual = ep("[::1]:80") }), ErrMixedFamilies},
		{"mixed dest", "dest", 0, with(func(c *Conn) { c.Dest = ep("[::1]:80") }), ErrMixedFamilies},
		{"ipv6 in v0", "client", 0, conn6(), ErrVersion0},
		{"seq flag alone in v0", "seq", 0, with(func(c *Conn) { c.Flags = FlagInSeq }), ErrNoPartner},
		{"seq data alone in v0", "seq", 0, with(func(c *Conn) { c.Options = must2(c.Options.AppendSeq(Seq{}, Seq{})) }), ErrNoPartner},
		{"record over 4095", "record", 1, with(func(c *Conn) { c.Options = big }), ErrTooLong},
		{"data without name", "pe_data", 1, with(func(c *Conn) { c.Options = Options{2, 1, 0} }), ErrNoPartner},
		{"name over 16", "pe_name", 1, with(func(c *Conn) { c.Options = append(Options{3, 17}, long[:17]...) }), ErrTooLong},
		{"name twice", "pe_name", 1, with(func(c *Conn) { c.Options = Options{3, 1, 'a', 3, 1, 'a'} }), ErrTwice},
		{"data twice", "pe_data", 1, with(func(c *Conn) { c.Options = Options{2, 1, 0, 0x42, 1, 0, 3, 1, 'a'} }), ErrTwice},
		{"seq of 23", "seq", 1, with(func(c *Conn) { c.Options = append(Options{1, 23}, long[:23]...) }), ErrMalformed},
		{"seq twice", "seq", 1, with(func(c *Conn) { s := connSeq(t); c.Options = append(s.Options, s.Options...) }), ErrTwice},
		{"half a header", "options", 1, with(func(c *Conn) { c.Options = Options{0x45} }), ErrMalformed},
		{"empty option", "options", 1, with(func(c *Conn) { c.Options = Options{0x45, 0} }), ErrMalformed},
		{"option too long", "options", 1, with(func(c *Conn) { c.Options = Options{0x45, 2, 0} }), ErrMalformed},
		{"unknown mandatory", "options", 1, with(func(c *Conn) { c.Options = Options{0x85, 1, 0} }), ErrMandatory},
		{"bad options in v0", "options", 0, with(func(c *Conn) { c.Options = Options{0x45} }), ErrMalformed},
	} {
		buf := bytes.Repeat([]byte{0xa5}, 8192)
		before := slices.Clone(buf)
		got, err := AppendRecord(buf[:3], tc.v, &tc.c)
		var fe *FieldError
		if !errors.Is(err, tc.err) || !errors.As(err, &fe) || fe.Field != tc.field || !strings.HasPrefix(err.Error(), tc.field+": ") {
			t.Errorf("%s: got %v", tc.name, err)
		}
		if len(got) != 3 || !bytes.Equal(buf, before) {
			t.Errorf("%s: the buffer changed", tc.name)
		}
		var w Writer
		if err := w.Init(buf[:4096], tc.v, 1); err != nil {
			t.Fatal(err)
		}
		n := w.Size()
		if err := w.Append(&tc.c); !errors.Is(err, tc.err) || w.Size() != n || w.Count() != 0 {
			t.Errorf("%s: Writer.Append gave %v", tc.name, err)
		}
	}
}

func TestUnappendable(t *testing.T) {
	long := bytes.Repeat([]byte("x"), 256)
	pe := must2(Options(nil).AppendPE("sip", []byte("d")))
	for _, tc := range []struct {
		name, field string
		append      func(Options) (Options, error)
		err         error
	}{
		{"data over 255", "pe_data", func(o Options) (Options, error) { return o.AppendPE("sip", long) }, ErrTooLong},
		{"name over 16", "pe_name", func(o Options) (Options, error) { return o.AppendPE(string(long[:17]), nil) }, ErrTooLong},
		{"data without name", "pe_data", func(o Options) (Options, error) { return o.AppendPE("", long[:1]) }, ErrNoPartner},
		{"nothing", "pe_name", func(o Options) (Options, error) { return o.AppendPE("", nil) }, ErrEmpty},
		{"data twice", "pe_data", func(Options) (Options, error) { return pe.AppendPE("sip", long[:1]) }, ErrTwice},
		{"name twice", "pe_name", func(Options) (Options, error) { return Options{3, 1, 'a'}.AppendPE("sip", nil) }, ErrTwice},
		{"seq twice", "seq", func(Options) (Options, error) { s := connSeq(t); return s.Options.AppendSeq(Seq{}, Seq{}) }, ErrTwice},
		{"known type", "options", func(o Options) (Options, error) { return o.AppendUnknown(0x41, long[:1]) }, ErrMalformed},
		{"mandatory", "options", func(o Options) (Options, error) { return o.AppendUnknown(0x85, long[:1]) }, ErrMandatory},
		{"empty", "options", func(o Options) (Options, error) { return o.AppendUnknown(0x45, nil) }, ErrEmpty},
		{"too long", "options", func(o Options) (Options, error) { return o.AppendUnknown(0x45, long) }, ErrTooLong},
	} {
		in := Options{0x46, 1, 9}
		got, err := tc.append(in)
		var fe *FieldError
		if !errors.Is(err, tc.err) || !errors.As(err, &fe) || fe.Field != tc.field {
			t.Errorf("%s: got %v", tc.name, err)
		}
		if len(got) > 3 && len(got) != len(pe) && len(got) != 26 {
			t.Errorf("%s: the options grew to %x", tc.name, got)
		}
	}
}

func TestOptionsRead(t *testing.T) {
	o := must2(Options(nil).AppendSeq(Seq{1, 2, 3}, Seq{4, 5, 6}))
	o = must2(o.AppendPE("sip", []byte("id")))
	o = must2(o.AppendUnknown(0x45, []byte("x")))
	var types []OptionType
	for typ, data := range o.All() {
		types = append(types, typ)
		if len(data) == 0 || cap(data) != len(data) {
			t.Errorf("option %#x has %d bytes, capacity %d", typ, len(data), cap(data))
		}
	}
	if !slices.Equal(types, []OptionType{1, 2, 3, 0x45}) {
		t.Errorf("types %v", types)
	}
	for range o.All() {
		break
	}
	in, out, ok := o.Seq()
	name, data, ok2 := o.PE()
	if !ok || !ok2 || in != (Seq{1, 2, 3}) || out != (Seq{4, 5, 6}) || string(name) != "sip" || string(data) != "id" {
		t.Errorf("%v %v %v %s %s %v", in, out, ok, name, data, ok2)
	}
	if _, _, ok := Options(nil).Seq(); ok {
		t.Error("sequence data out of nothing")
	}
	if _, _, ok := (Options{0x45, 9}).PE(); ok {
		t.Error("engine out of a malformed option")
	}
}

// The short cut writes what AppendRecord appends.
func TestPlainIPv4(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 10000 {
		c := conn4()
		c.Protocol, c.State, c.Flags = Protocol(rng.Uint32()), State(rng.Uint32()), Flags(rng.Uint32())
		c.Fwmark, c.Timeout = rng.Uint32(), rng.Uint32()
		for _, e := range []*Endpoint{&c.Client, &c.Virtual, &c.Dest} {
			binary.NativeEndian.PutUint32(e.Addr[:], rng.Uint32())
			e.Port = uint16(rng.Uint32())
		}
		var b [PlainIPv4Size]byte
		PutPlainIPv4(&b, &c)
		if want := record(t, 1, c); !c.PlainIPv4() || !bytes.Equal(b[:], want) {
			t.Fatalf("%v\ngot  %x\nwant %x", &c, b, want)
		}
	}
	six, sip := conn6(), connSIP(t)
	for _, c := range []*Conn{&six, &sip, {}} {
		if c.PlainIPv4() {
			t.Errorf("plain: %v", c)
		}
	}
}
