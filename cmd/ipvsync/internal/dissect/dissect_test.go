package dissect

import (
	"encoding/binary"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/capture"
	"github.com/ipvsync/ipvsync/encoder"
)

func endpoint(s string) encoder.Endpoint { return encoder.EndpointFrom(netip.MustParseAddrPort(s)) }

func conn() encoder.Conn {
	return encoder.Conn{
		Client: endpoint("10.0.0.1:1000"), Virtual: endpoint("10.0.0.2:80"), Dest: endpoint("10.0.0.3:8080"),
		Protocol: encoder.TCP, State: encoder.TCPEstablished, Timeout: 900,
	}
}

// message makes one of SyncID 7 with a record for each client port from 1000.
func message(t testing.TB, n int, change func(i int, c *encoder.Conn)) []byte {
	t.Helper()
	var w encoder.Writer
	if err := w.Init(make([]byte, 9000), encoder.Version1, 7); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		c := conn()
		c.Client.Port += uint16(i)
		if change != nil {
			change(i, &c)
		}
		if err := w.Append(&c); err != nil {
			t.Fatal(err)
		}
	}
	return w.Seal()
}

func datagram(payload []byte) *capture.Datagram {
	return &capture.Datagram{
		Packet: 5, Time: time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC),
		Src: netip.MustParseAddrPort("10.0.0.2:51000"), Dst: netip.MustParseAddrPort("224.0.0.81:8848"),
		Payload: payload, Length: len(payload),
	}
}

func setSize(b []byte) []byte {
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

func TestDissect(t *testing.T) {
	good := message(t, 3, nil)
	edit := func(at int, b ...byte) []byte {
		m := slices.Clone(good)
		copy(m[at:], b)
		return m
	}
	const second = 8 + 36 // where the second record begins
	cut := func(n int) *capture.Datagram {
		d := datagram(good[:n])
		d.Length = len(good)
		return d
	}
	fault := datagram(good)
	fault.Fault, fault.Detail = capture.BadUDPLength, "99, with 12 bytes in the IP packet"
	wrongAndCut := cut(60)
	wrongAndCut.Length++
	for _, tt := range []struct {
		name     string
		dg       *capture.Datagram
		syncID   uint8
		refusals []string
		error    string
		trailer  string
	}{
		{"good", datagram(good), 0, []string{"", "", ""}, "", ""},
		{"same SyncID", datagram(good), 7, []string{"", "", ""}, "", ""},
		{"other SyncID", datagram(good), 8, []string{"other syncid", "other syncid", "other syncid"},
			"ignored: other syncid: 7, the backup's is 8", ""},
		{"wrong size", datagram(append(slices.Clone(good), 0)), 0, slices.Repeat([]string{"size field differs from the datagram's length"}, 3),
			"ignored: size field differs from the datagram's length: 116, and 117 bytes", "\x00"},
		{"too short", datagram([]byte{0, 7, 0}), 0, nil, "ignored: message shorter than 4 bytes: 3", ""},
		{"empty", datagram(nil), 0, nil, "ignored: message shorter than 4 bytes: 0", ""},
		{"trailer", datagram(setSize(append(slices.Clone(good), "extra"...))), 0, []string{"", "", ""}, "", "extra"},
		{"one record refused", datagram(message(t, 3, func(i int, c *encoder.Conn) { c.State = encoder.State(10 * i) })), 0,
			[]string{"", "", "invalid state"}, "", ""},
		{"stop", datagram(edit(second+2, 0x10)), 0,
			[]string{"", "record version is not 0", "behind a record at which the kernel stops"},
			"record 2 of 3: record version is not 0; a backup stops here", ""},
		{"overrun", datagram(edit(second+2, 0x0f, 0xff)), 0, []string{"", "record runs past the message"},
			"record 2 of 3: record runs past the message; a backup stops here; record 3 of 3 is not there", ""},
		{"fewer than the count", datagram(edit(4, 9)), 0, []string{"", "", ""},
			"record 4 of 9: message ends before the last record; a backup stops here; records 4 to 9 of 9 are not there", ""},
		{"more than the count", datagram(edit(4, 2)), 0, []string{"", ""}, "", string(good[second+36:])},
		{"not delivered", fault, 0, slices.Repeat([]string{"UDP length does not fit the IP packet"}, 3),
			"not delivered: UDP length does not fit the IP packet: 99, with 12 bytes in the IP packet", ""},
		{"cut between records", cut(second), 0, []string{""}, "records 2 to 3 of 3 are not there; the capture has 44 of 116 bytes", ""},
		{"cut in a record's fixed part", cut(second + 35), 0, []string{""}, "records 2 to 3 of 3 are not there; the capture has 79 of 116 bytes", ""},
		{"cut in the header", cut(3), 0, nil, "the capture has 3 of 116 bytes", ""},
		{"cut, other SyncID", cut(second), 9, []string{"other syncid"},
			"ignored: other syncid: 7, the backup's is 9; records 2 to 3 of 3 are not there; the capture has 44 of 116 bytes", ""},
		{"cut, and wrong on the wire", wrongAndCut, 0, []string{"size field differs from the datagram's length"},
			"ignored: size field differs from the datagram's length: 116, and 117 bytes; records 2 to 3 of 3 are not there; the capture has 60 of 117 bytes", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := slices.Clone(tt.dg.Payload)
			x := Dissector{SyncID: tt.syncID}
			var m Message
			for range 2 { // the second time with everything in use
				x.Dissect(tt.dg, &m)
				var refusals []string
				for i, r := range m.Records {
					refusals = append(refusals, r.Refusal)
					if r.Conn.Client.Port != uint16(1000+i) {
						t.Errorf("record %d is %v", i, &r.Conn)
					}
				}
				if !slices.Equal(refusals, tt.refusals) || m.Error != tt.error || string(m.Trailer) != tt.trailer {
					t.Errorf("got  %q, %q, trailer %q\nwant %q, %q", refusals, m.Error, m.Trailer, tt.refusals, tt.error)
				}
			}
			if !slices.Equal(before, tt.dg.Payload) {
				t.Error("the datagram was changed")
			}
		})
	}
}

// A record of which the capture has the fixed part, but not the options.
func TestCutInOptions(t *testing.T) {
	msg := message(t, 2, func(_ int, c *encoder.Conn) {
		var err error
		if c.Options, err = c.Options.AppendPE("sip", []byte("call-1")); err != nil {
			t.Fatal(err)
		}
	})
	dg := datagram(msg[:len(msg)-2])
	dg.Length = len(msg)
	var x Dissector
	var m Message
	x.Dissect(dg, &m)
	if len(m.Records) != 2 || m.Records[0].Refusal != "" || m.Records[1].Refusal != refusedByCut || m.Records[1].Conn.Client.Port != 1001 ||
		int(m.Header.Size) != len(msg) || m.Error != "the capture has 107 of 109 bytes" {
		t.Errorf("%+v", m)
	}
}

func TestJSON(t *testing.T) {
	x := Dissector{}
	var m Message
	x.Dissect(datagram(setSize(append(message(t, 1, nil), 0xff))), &m)
	want := `{"packet":5,"time":"2026-03-01T12:00:00.000000005Z","src":"10.0.0.2:51000","dst":"224.0.0.81:8848","version":1,"syncid":7,` +
		`"size":45,"count":1,"records":[{"accepted":true,"reason":"","family":"ipv4","protocol":"tcp","state":"ESTABLISHED","client":"10.0.0.1:1000",` +
		`"virtual":"10.0.0.2:80","dest":"10.0.0.3:8080","flags":[],"flags_raw":0,"fwmark":0,"timeout":900}],"error":"","trailer":"/w=="}`
	if got := string(m.AppendJSON(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	dg := datagram(nil)
	dg.Time = time.Time{}
	x.Dissect(dg, &m)
	want = `{"packet":5,"time":"","src":"10.0.0.2:51000","dst":"224.0.0.81:8848","version":0,"syncid":0,"size":0,"count":0,"records":[],` +
		`"error":"ignored: message shorter than 4 bytes: 0"}`
	if got := string(m.AppendJSON(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestSummary(t *testing.T) {
	var s Summary
	if got, want := s.String(), "0 packets\n0 messages\n0 records: 0 accepted, 0 refused"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	s = Summary{Capture: capture.Stats{Packets: 10, Whole: 4, Fragments: 3, NotIP: 2, Damaged: 1, Orphans: 1}, OtherPorts: 1}
	x := Dissector{}
	var m Message
	x.Dissect(datagram(message(t, 4, func(i int, c *encoder.Conn) { c.State, c.Protocol = 1, []encoder.Protocol{6, 17, 17, 47}[i] })), &m)
	s.Add(&m)
	x.Dissect(datagram([]byte("abc")), &m)
	s.Add(&m)
	want := `10 packets: 4 with a datagram, 3 with an IP fragment, 2 not IP, 1 with headers cut off or damaged
1 IP fragment without the first one
1 datagram to other ports
2 messages, 1 with an error
4 records: 1 accepted, 3 refused: 2 invalid state, 1 unsupported protocol`
	if got := s.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// FuzzDissect: any bytes, cut or not, give valid JSON and lines of text; what
// is accepted is what a strict decoder accepts.
func FuzzDissect(f *testing.F) {
	f.Add(message(f, 3, nil), 0, uint8(0), true)
	f.Add(message(f, 1, func(_ int, c *encoder.Conn) { c.Options = encoder.Options{0x45, 1, 9, 3, 1, 0xff} }), 1, uint8(7), true)
	f.Fuzz(func(t *testing.T, payload []byte, missing int, syncID uint8, fix bool) {
		if fix && len(payload) >= 4 && len(payload) < 65000 {
			payload = setSize(slices.Clone(payload))
		}
		dg := datagram(payload)
		if missing > 0 && missing < 60000 {
			dg.Length += missing
		}
		x := Dissector{SyncID: syncID}
		var m Message
		x.Dissect(dg, &m)
		if text := m.AppendJSON(nil); !json.Valid(text) {
			t.Fatalf("no JSON: %s", text)
		}
		text := string(m.AppendText(nil))
		if strings.ContainsFunc(strings.ReplaceAll(text, "\n", ""), func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Fatalf("control characters for a terminal: %q", text)
		}
		accepted := 0
		for i := range m.Records {
			if m.Records[i].Refusal == "" {
				accepted++
			}
		}
		if dg.Cut() {
			return
		}
		strict := encoder.Decoder{SyncID: syncID}
		strict.Open(payload)
		var c encoder.Conn
		for reason, ok := strict.Next(&c); ok; reason, ok = strict.Next(&c) {
			if reason == encoder.Accepted {
				accepted--
			}
		}
		if accepted != 0 || (m.Error == "") != (strict.Stopped() == encoder.Accepted) {
			t.Fatalf("%d more accepted than by a backup, which stopped at %v: %s", accepted, strict.Stopped(), m.Error)
		}
	})
}
