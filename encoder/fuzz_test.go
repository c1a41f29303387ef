package encoder

import (
	"slices"
	"testing"
)

// seeds gives the fuzzer messages to start from.
func seeds(f *testing.F, add func(msg []byte)) {
	var recs [][]byte
	for _, c := range samples(f) {
		rec := record(f, 1, c)
		recs = append(recs, rec)
		add(message(1, 7, rec))
	}
	add(message(1, 7, recs...))
	add(message(0, 7, record(f, 0, conn4()), record(f, 0, connSeq(f))))
	for _, g := range goldens(f) {
		for _, m := range g.messages {
			add(m)
		}
	}
}

// FuzzDecode: the decoder never panics, never reads past the message, agrees
// with its slow twin, and what it accepts survives encoding and decoding.
func FuzzDecode(f *testing.F) {
	seeds(f, func(msg []byte) { f.Add(msg, uint8(0), false) })
	f.Fuzz(func(t *testing.T, msg []byte, syncID uint8, fixSize bool) {
		if fixSize && len(msg) >= 4 && len(msg) <= 65535 {
			msg = setSize(slices.Clone(msg)) // let the fuzzer past the first gate
		}
		compare(t, msg, syncID)
		d := Decoder{SyncID: syncID}
		for _, r := range walk(&d, msg) {
			if r.reason == Accepted {
				identity(t, d.Header().Version, r.conn)
			}
		}
	})
}

// FuzzRoundTrip: whatever AppendRecord takes, Decoder gives back unchanged,
// and what it refuses leaves the buffer alone.
func FuzzRoundTrip(f *testing.F) {
	f.Add(uint8(1), uint8(4), uint8(4), uint8(4), []byte("0123456789abcdef"), uint16(80), uint8(6), uint16(1), uint32(0x100), uint32(7), uint32(900), []byte{})
	f.Add(uint8(1), uint8(6), uint8(6), uint8(6), []byte("0123456789abcdef"), uint16(80), uint8(6), uint16(1), uint32(0x100), uint32(7), uint32(900), []byte{2, 1, 0, 3, 3, 's', 'i', 'p'})
	f.Fuzz(func(t *testing.T, v, cf, vf, df uint8, addr []byte, port uint16, proto uint8, state uint16, flags, fwmark, timeout uint32, options []byte) {
		c := Conn{Protocol: Protocol(proto), State: State(state), Flags: Flags(flags), Fwmark: fwmark, Timeout: timeout, Options: options}
		for i, e := range []*Endpoint{&c.Client, &c.Virtual, &c.Dest} {
			e.Family = Family([]uint8{cf, vf, df}[i])
			n := 16
			if e.Family == IPv4 {
				n = 4
			}
			copy(e.Addr[:n], addr)
			e.Port = port + uint16(i)
		}
		version := Version(v & 1)
		rec, err := AppendRecord(nil, version, &c)
		if err != nil {
			if len(rec) != 0 {
				t.Fatalf("%v, and %x", err, rec)
			}
			return
		}
		if len(rec) != RecordSize(version, &c) {
			t.Fatalf("%d bytes, RecordSize says %d", len(rec), RecordSize(version, &c))
		}
		got := walk(new(Decoder), message(version, 1, rec))
		if len(got) != 1 || got[0].reason.Scope() > ScopeRecord {
			t.Fatalf("%v: %v", &c, reasons(got))
		}
		if version == Version0 { // what version 0 does not carry
			c.Flags, c.Fwmark, c.Timeout = c.Flags&0xffff&^FlagHashed, 0, 0
			in, out, ok := c.Options.Seq()
			c.Options = nil
			if ok {
				c.Options = must2(c.Options.AppendSeq(in, out))
			}
		}
		if got[0].reason != UnknownOption && !got[0].conn.Equal(&c) {
			t.Fatalf("got  %v\nwant %v", &got[0].conn, &c)
		}
	})
}

// identity: decode → encode → decode changes nothing.
func identity(t testing.TB, v Version, c Conn) {
	t.Helper()
	rec, err := AppendRecord(nil, v, &c)
	if err != nil {
		t.Fatalf("accepted, but cannot be encoded: %v: %v", &c, err)
	}
	again := walk(&Decoder{}, message(v, 1, rec))
	if len(again) != 1 || again[0].reason != Accepted {
		t.Fatalf("accepted once, not twice: %v: %v", &c, reasons(again))
	}
	want := c
	if v == Version0 {
		want.Flags &^= FlagHashed
	}
	if !again[0].conn.Equal(&want) {
		t.Fatalf("got  %v\nwant %v", &again[0].conn, &want)
	}
}
