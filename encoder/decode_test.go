package encoder

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
)

// message lays out one message by hand, without Writer.
func message(v Version, syncID uint8, records ...[]byte) []byte {
	m := []byte{byte(len(records)), syncID, 0, 0}
	if v == Version1 {
		m = []byte{0, syncID, 0, 0, byte(len(records)), 1, 0, 0}
	}
	for _, r := range records {
		for v == Version1 && len(m)%4 != 0 {
			m = append(m, 0)
		}
		m = append(m, r...)
	}
	return setSize(m)
}

func setSize(m []byte) []byte {
	binary.BigEndian.PutUint16(m[2:], uint16(len(m)))
	return m
}

func record(t testing.TB, v Version, c Conn) []byte {
	t.Helper()
	b, err := AppendRecord(nil, v, &c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// walk is the whole of a message through d.
func walk(d *Decoder, msg []byte) (records []refRecord) {
	d.Open(msg)
	for {
		var c Conn
		reason, ok := d.Next(&c)
		if !ok {
			return records
		}
		records = append(records, refRecord{reason, c})
	}
}

func reasons(rs []refRecord) []Reason {
	out := []Reason{}
	for _, r := range rs {
		out = append(out, r.reason)
	}
	return out
}

func samples(t testing.TB) []Conn {
	name := conn4()
	name.Options = must2(name.Options.AppendPE("whatever", nil))
	return []Conn{conn4(), conn6(), connSeq(t), connSIP(t), connUnknown(t), name}
}

// verdictCase is one record and what a Linux backup makes of it.
type verdictCase struct {
	name string
	rec  []byte
	want Reason
}

// verdictCases are the rules of docs/wire-format.md, one by one. The kernel
// tests send the same ones to a stock kernel.
func verdictCases(t testing.TB) []verdictCase {
	good := record(t, 1, conn4())
	rec := func(c Conn) []byte { return record(t, 1, c) }
	edit := func(b []byte, f func(b []byte)) []byte { b = slices.Clone(b); f(b); return b }
	// raw appends option bytes, and corrects the size.
	raw := func(c Conn, options ...byte) []byte {
		b := append(rec(c), options...)
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		return b
	}
	with := func(f func(*Conn)) []byte { c := conn4(); f(&c); return rec(c) }
	seq := connSeq(t).Options
	x := func(n int) []byte { return bytes.Repeat([]byte("x"), n) }
	return []verdictCase{
		{"good", good, Accepted},
		{"ipv6", rec(conn6()), Accepted},
		{"type 0x81 is ipv6", edit(rec(conn6()), func(b []byte) { b[0] = 0x81 }), Accepted},
		{"type 0xff is ipv6", edit(rec(conn6()), func(b []byte) { b[0] = 0xff }), Accepted},
		{"type 2", edit(good, func(b []byte) { b[0] = 2 }), BadRecordType},
		{"type 0x80", edit(good, func(b []byte) { b[0] = 0x80 }), BadRecordType},
		{"record version 1", edit(good, func(b []byte) { b[2] |= 0x10 }), BadRecordVersion},
		{"size 35", edit(good, func(b []byte) { b[3] = 35 }), RecordTooSmall},
		{"size 0", edit(good, func(b []byte) { b[3] = 0 }), RecordTooSmall},
		{"ipv6 of 71", edit(rec(conn6()), func(b []byte) { b[3] = 71 }), RecordTooSmall},
		{"ipv6 of 36", edit(good, func(b []byte) { b[0] = 1 }), RecordTooSmall},
		{"half an option header", raw(conn4(), 0x45), OptionHeaderCut},
		{"empty option", raw(conn4(), 0x45, 0), BadOptionLength},
		{"option past the record", raw(conn4(), 0x45, 2, 0), BadOptionLength},
		{"seq of 23", raw(conn4(), append([]byte{1, 23}, x(23)...)...), BadSeqLength},
		{"seq with the marker", raw(conn4(), append([]byte{0x41, 24}, x(24)...)...), Accepted},
		{"seq twice", raw(conn4(), append(seq[:len(seq):len(seq)], seq...)...), SeqTwice},
		{"data twice", raw(conn4(), 2, 1, 0, 0x42, 1, 0), PEDataTwice},
		{"name twice", raw(conn4(), 3, 1, 's', 3, 1, 's'), PENameTwice},
		{"name of 17", raw(conn4(), append([]byte{3, 17}, x(17)...)...), PENameTooLong},
		{"name of 16, no data", raw(conn4(), append([]byte{3, 16}, x(16)...)...), Accepted},
		{"name of 16, data", raw(conn4(), append([]byte{2, 1, 0, 3, 16}, x(16)...)...), UnknownEngine},
		{"sip", raw(conn4(), 2, 1, 0, 3, 3, 's', 'i', 'p'), Accepted},
		{"sip and NUL", raw(conn4(), 2, 1, 0, 3, 5, 's', 'i', 'p', 0, 'x'), Accepted},
		{"SIP", raw(conn4(), 2, 1, 0, 3, 3, 'S', 'I', 'P'), UnknownEngine},
		{"data without name", raw(conn4(), 2, 1, 0), PEDataWithoutName},
		{"data with the marker, no name", raw(conn4(), 0x42, 1, 0), PEDataWithoutName},
		{"unknown 0x45", raw(conn4(), 0x45, 1, 0), Accepted},
		{"unknown 0xc5", raw(conn4(), 0xc5, 1, 0), Accepted},
		{"unknown 0x85", raw(conn4(), 0x85, 1, 0), UnknownOption},
		{"unknown 4", raw(conn4(), 4, 1, 0), UnknownOption},
		{"unknown 0", raw(conn4(), 0, 1, 0), UnknownOption},
		{"unknown hides what follows", raw(conn4(), 4, 1, 0, 0x45), UnknownOption},
		{"protocol 0", with(func(c *Conn) { c.Protocol = 0 }), UnsupportedProtocol},
		{"protocol 47", with(func(c *Conn) { c.Protocol = 47 }), UnsupportedProtocol},
		{"esp", with(func(c *Conn) { c.Protocol, c.State = ESP, 0 }), Accepted},
		{"ah in state 1", with(func(c *Conn) { c.Protocol, c.State = AH, 1 }), InvalidState},
		{"udp in state 1", with(func(c *Conn) { c.Protocol, c.State = UDP, 1 }), InvalidState},
		{"tcp in state 10", with(func(c *Conn) { c.State = 10 }), Accepted},
		{"tcp in state 11", with(func(c *Conn) { c.State = 11 }), InvalidState},
		{"sctp in state 13", with(func(c *Conn) { c.Protocol, c.State = SCTP, 13 }), Accepted},
		{"sctp in state 14", with(func(c *Conn) { c.Protocol, c.State = SCTP, 14 }), InvalidState},
		{"template of any protocol", with(func(c *Conn) { c.Flags, c.Protocol, c.State = FlagTemplate, 200, 1 }), Accepted},
		{"template in state 2", with(func(c *Conn) { c.Flags, c.State = FlagTemplate, 2 }), InvalidState},
		{"one packet", with(func(c *Conn) { c.Flags = FlagOnePacket }), OnePacket},
		{"template without client port", with(func(c *Conn) { c.Flags = FlagTemplate | FlagNoCport }), TemplateNoCport},
		{"no client port", with(func(c *Conn) { c.Flags = FlagNoCport }), Accepted},
		{"forwarding method 7", with(func(c *Conn) { c.Flags = 7 }), Accepted},
		{"bad state before bad engine", raw(with2(func(c *Conn) { c.State = 99 }), 2, 1, 0), InvalidState},
	}
}

func TestVerdicts(t *testing.T) {
	good := record(t, 1, conn4())
	for _, tc := range verdictCases(t) {
		// The record stands between two good ones: what it costs them is its scope.
		msg := message(1, 7, good, tc.rec, good)
		if tc.want == RecordTooSmall && tc.name == "size 35" {
			msg = message(1, 7, good, good, good)
			msg[8+36+3] = 35
		}
		want := []Reason{Accepted, tc.want}
		switch tc.want.Scope() {
		case ScopeNone, ScopeRecord:
			want = append(want, Accepted)
		}
		var d Decoder
		got := walk(&d, msg)
		if !slices.Equal(reasons(got), want) {
			t.Errorf("%s: got %v, want %v", tc.name, reasons(got), want)
		}
		if stop := d.Stopped(); (stop != Accepted) != (tc.want.Scope() == ScopeRest) {
			t.Errorf("%s: stopped: %v", tc.name, stop)
		}
		if d.Unread() != 3-len(want) {
			t.Errorf("%s: unread: %d", tc.name, d.Unread())
		}
		lenient := walk(&Decoder{Lenient: true}, msg)
		if len(lenient) != 3 && tc.want != RecordTooSmall || lenient[1].reason != tc.want {
			t.Errorf("%s: lenient: %v", tc.name, reasons(lenient))
		}
		if len(lenient) == 3 && tc.want.Scope() == ScopeRest && lenient[2].reason != NotReached {
			t.Errorf("%s: lenient: third record %v", tc.name, lenient[2].reason)
		}
		if len(lenient) == 3 && tc.want != RecordTooSmall && !lenient[2].conn.Equal(&got[0].conn) {
			t.Errorf("%s: lenient: third record %v", tc.name, &lenient[2].conn)
		}
	}
}

// The option that a record is refused for can be seen, and those behind it.
func TestRefusedOptionIsKept(t *testing.T) {
	rec := append(record(t, 1, conn4()), 0x45, 1, 'a', 0x05, 1, 'b', 0x46, 1, 'c', 0x47, 9)
	binary.BigEndian.PutUint16(rec[2:], uint16(len(rec)))
	r := walk(new(Decoder), message(1, 7, rec))[0]
	if want := "\x45\x01a\x05\x01b\x46\x01c"; r.reason != UnknownOption || string(r.conn.Options) != want {
		t.Errorf("%v, options %q", r.reason, r.conn.Options)
	}
}

func with2(f func(*Conn)) Conn { c := conn4(); f(&c); return c }

func TestMessages(t *testing.T) {
	r4 := record(t, 1, conn4())
	r0 := record(t, 0, conn4())
	seq0 := record(t, 0, connSeq(t))
	m := message(1, 7, r4, r4)
	edit := func(m []byte, f func([]byte)) []byte { m = slices.Clone(m); f(m); return m }
	for _, tc := range []struct {
		name    string
		syncID  uint8
		msg     []byte
		open    Reason
		version Version
		want    []Reason
		stopped Reason
		unread  int
	}{
		{"good", 7, m, Accepted, 1, []Reason{0, 0}, Accepted, 0},
		{"empty", 0, nil, MessageTooShort, 0, nil, MessageTooShort, 0},
		{"three bytes", 0, m[:3], MessageTooShort, 0, nil, MessageTooShort, 0},
		{"other syncid", 8, m, OtherSyncID, 1, nil, OtherSyncID, 2},
		{"syncid 0 accepts all", 0, m, Accepted, 1, []Reason{0, 0}, Accepted, 0},
		{"message of syncid 0 to 7", 7, message(1, 0, r4), OtherSyncID, 1, nil, OtherSyncID, 1},
		{"cut by one", 7, m[:len(m)-1], SizeMismatch, 1, nil, SizeMismatch, 2},
		{"one byte more", 7, append(slices.Clone(m), 0), SizeMismatch, 1, nil, SizeMismatch, 2},
		{"cut, size corrected", 7, setSize(slices.Clone(m[:len(m)-1])), Accepted, 1, []Reason{0}, MessageCut, 1},
		{"count too high", 7, edit(m, func(m []byte) { m[4] = 5 }), Accepted, 1, []Reason{0, 0}, MessageCut, 3},
		{"count too low", 7, edit(m, func(m []byte) { m[4] = 1 }), Accepted, 1, []Reason{0}, Accepted, 0},
		{"record overruns", 7, edit(m, func(m []byte) { m[8+36+3] = 37 }), Accepted, 1, []Reason{0, RecordOverrun}, RecordOverrun, 0},
		{"reserved set: version 0 of none", 7, edit(m, func(m []byte) { m[7] = 1 }), Accepted, 0, nil, Accepted, 0},
		{"version 2: version 0 of none", 7, edit(m, func(m []byte) { m[5] = 2 }), Accepted, 0, nil, Accepted, 0},
		{"byte 0 set: version 0 of one", 7, edit(m, func(m []byte) { m[0] = 1 }), Accepted, 0, []Reason{UnsupportedProtocol}, Accepted, 0},
		{"header alone", 7, message(1, 7), Accepted, 1, nil, Accepted, 0},
		{"four bytes", 7, message(0, 7), Accepted, 0, nil, Accepted, 0},
		{"seven bytes", 7, setSize(slices.Clone(m[:7])), Accepted, 0, nil, Accepted, 0},
		{"version 0", 7, message(0, 7, r0, seq0, r0), Accepted, 0, []Reason{0, 0, 0}, Accepted, 0},
		{"version 0, bad in the middle", 7, message(0, 7, r0, edit(r0, func(b []byte) { b[1] = 1 }), r0), Accepted, 0,
			[]Reason{0, UnsupportedProtocol, 0}, Accepted, 0},
		{"version 0, bad state", 7, message(0, 7, edit(r0, func(b []byte) { b[23] = 11 }), r0), Accepted, 0,
			[]Reason{InvalidState, 0}, Accepted, 0},
		{"version 0, cut", 7, setSize(message(0, 7, r0, r0)[:4+47]), Accepted, 0, []Reason{0}, MessageCut, 1},
		{"version 0, seq cut", 7, setSize(message(0, 7, r0, seq0)[:4+24+47]), Accepted, 0, []Reason{0, RecordOverrun}, RecordOverrun, 0},
	} {
		d := Decoder{SyncID: tc.syncID}
		if got := d.Open(tc.msg); got != tc.open {
			t.Errorf("%s: Open gave %v", tc.name, got)
		}
		got := walk(&d, tc.msg)
		if d.Header().Version != tc.version || !slices.Equal(reasons(got), append([]Reason{}, tc.want...)) {
			t.Errorf("%s: version %d, %v", tc.name, d.Header().Version, reasons(got))
		}
		if d.Stopped() != tc.stopped || d.Unread() != tc.unread {
			t.Errorf("%s: stopped: %v, unread: %d", tc.name, d.Stopped(), d.Unread())
		}
	}
}

// Lenient walks the message although a backup ignores it, and says so.
func TestLenientMessage(t *testing.T) {
	r := record(t, 1, conn4())
	d := Decoder{SyncID: 8, Lenient: true}
	got := walk(&d, message(1, 7, r, r))
	if !slices.Equal(reasons(got), []Reason{NotReached, NotReached}) || d.Stopped() != OtherSyncID {
		t.Errorf("%v, %v", reasons(got), d.Stopped())
	}
	d = Decoder{Lenient: true}
	m := message(1, 7, r, r)
	got = walk(&d, m[:len(m)-4])
	if !slices.Equal(reasons(got), []Reason{NotReached}) || d.Stopped() != SizeMismatch || d.Unread() != 1 {
		t.Errorf("%v, %v, %d", reasons(got), d.Stopped(), d.Unread())
	}
}

func TestTrailer(t *testing.T) {
	r := record(t, 1, conn4())
	sip := record(t, 1, connSIP(t)) // 36 + 2+31 + 2+3 = 74 bytes: two of padding
	if len(sip)%4 != 2 {
		t.Fatal(len(sip))
	}
	for _, tc := range []struct {
		name string
		msg  []byte
		want string
	}{
		{"none", message(1, 7, r), ""},
		{"after an aligned record", setSize(append(message(1, 7, r), "tail"...)), "tail"},
		{"padded last record", setSize(append(message(1, 7, sip), 0, 0)), ""},
		{"padding that is none", setSize(append(message(1, 7, sip), 0, 1)), "\x00\x01"},
		{"short of the padding", setSize(append(message(1, 7, sip), 0)), "\x00"},
		{"padding and more", setSize(append(message(1, 7, sip), "\x00\x00tail"...)), "\x00\x00tail"},
		{"no records", setSize(append(message(1, 7), "tail"...)), "tail"},
		{"version 0", setSize(append(message(0, 7, record(t, 0, conn4())), 0, 0)), "\x00\x00"},
		{"control message", setSize([]byte{0, 7, 0, 0, 9, 0x7f, 0, 0}), "\x09\x7f\x00\x00"},
		{"cut", setSize(append(message(1, 7, r)[:40], 0)), ""},
	} {
		var d Decoder
		d.Open(tc.msg)
		if len(tc.msg) > 8 && d.Header().Count > 0 && d.Trailer() != nil {
			t.Errorf("%s: a trailer before the walk", tc.name)
		}
		walk(&d, tc.msg)
		if got := string(d.Trailer()); got != tc.want {
			t.Errorf("%s: %q", tc.name, got)
		}
	}
}

// The decoder owns nothing of the message after Next: scribbling over it
// changes no record.
func TestNoBytesKept(t *testing.T) {
	for _, v := range []Version{0, 1} {
		for _, c := range samples(t) {
			if v == Version0 && (c.Family() == IPv6 || c.Flags&FlagSeqMask == 0) {
				continue
			}
			msg := message(v, 7, record(t, v, c))
			got := walk(new(Decoder), msg)[0]
			clear(msg)
			if want := walk(new(Decoder), message(v, 7, record(t, v, c)))[0]; !got.conn.Equal(&want.conn) {
				t.Errorf("record changed with the message: %v", &got.conn)
			}
			rec := record(t, v, c)
			for i := range c.Options {
				c.Options[i] ^= 0xff
			}
			if again := walk(new(Decoder), message(v, 7, rec))[0]; !again.conn.Equal(&got.conn) {
				t.Errorf("record changed with the connection: %v", &again.conn)
			}
		}
	}
}

func TestEveryTruncation(t *testing.T) {
	var msgs [][]byte
	var recs [][]byte
	for _, c := range samples(t) {
		recs = append(recs, record(t, 1, c))
	}
	msgs = append(msgs, message(1, 7, recs...), message(0, 7, record(t, 0, conn4()), record(t, 0, connSeq(t))))
	for _, m := range msgs {
		for n := range len(m) {
			compare(t, slices.Clone(m[:n]), 7)
			if n >= 4 {
				compare(t, setSize(slices.Clone(m[:n])), 7)
			}
		}
	}
}

// compare holds Decoder against its twin, strict and lenient.
func compare(t testing.TB, msg []byte, syncID uint8) {
	t.Helper()
	msg = msg[:len(msg):len(msg)]
	want, stopped := refDecode(msg, syncID)
	d := Decoder{SyncID: syncID}
	got := walk(&d, msg)
	if !slices.Equal(reasons(got), reasons(want)) || d.Stopped() != stopped {
		t.Fatalf("%x\ngot  %v, stopped: %v\nwant %v, stopped: %v", msg, reasons(got), d.Stopped(), reasons(want), stopped)
	}
	for i := range got {
		if want[i].reason == Accepted && !got[i].conn.Equal(&want[i].conn) {
			t.Fatalf("%x\nrecord %d\ngot  %v\nwant %v", msg, i, &got[i].conn, &want[i].conn)
		}
	}
	if stopped.Scope() < ScopeMessage && len(got)+d.Unread() != int(d.Header().Count) {
		t.Fatalf("%x: %d records and %d unread of %d", msg, len(got), d.Unread(), d.Header().Count)
	}
	l := Decoder{SyncID: syncID, Lenient: true}
	lenient := walk(&l, msg)
	if l.Stopped() != stopped || len(lenient) < len(got) || !slices.Equal(reasons(lenient)[:len(got)], reasons(got)) {
		t.Fatalf("%x\nlenient %v, stopped: %v\nstrict  %v, stopped: %v", msg, reasons(lenient), l.Stopped(), reasons(got), stopped)
	}
	for _, r := range lenient[len(got):] {
		if r.reason == Accepted {
			t.Fatalf("%x: the kernel stops: %v, but the lenient walk accepts a later record", msg, stopped)
		}
	}
}

func TestRandomMutations(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 20000 {
		compare(t, mutated(t, rng, func(rec []byte, _ Version) []byte { return rec }), uint8(rng.IntN(2)*7))
	}
}

// mutated is a message of a few good records, each as each returns it, with a
// few bytes changed.
func mutated(t testing.TB, rng *rand.Rand, each func(rec []byte, v Version) []byte) []byte {
	v := Version(rng.IntN(2))
	var recs [][]byte
	all := samples(t)
	for range 1 + rng.IntN(4) {
		c := all[rng.IntN(len(all))]
		if v == Version0 && (c.Family() == IPv6 || len(c.Options) > 0 && c.Flags&FlagSeqMask == 0) {
			c = conn4()
		}
		recs = append(recs, each(record(t, v, c), v))
	}
	m := message(v, 7, recs...)
	for range rng.IntN(4) {
		i := rng.IntN(len(m))
		switch rng.IntN(4) {
		case 0:
			m[i] = byte(rng.Uint32())
		case 1:
			m[i] ^= 1 << rng.IntN(8)
		case 2:
			m[i] += byte(rng.IntN(5)) - 2
		case 3:
			m = m[:max(i, 4)]
			if len(m) < 8 {
				return m
			}
		}
	}
	if rng.IntN(8) > 0 {
		setSize(m)
	}
	return m
}
