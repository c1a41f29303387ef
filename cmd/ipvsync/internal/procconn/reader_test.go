package procconn

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/ipvsync/ipvsync/encoder"
)

// As kernels 6.1 and 6.12 print it.
const listing = `Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP 0A580001 A2B4 0A580002 0050 0A630002 0050 ESTABLISHED     897
TCP 0A580001 A2B6 0A580002 0050 0A630002 0050 TIME_WAIT       118
TCP 0A580001 0000 0A580002 0051 0A630002 0051 NONE            299
TCP 0A580001 A2B7 0A580002 0050 0A630002 0050 NONE              1
TCP 0A580001 0000 0A580002 0400 0A630002 0014 LISTEN          119
UDP 0A580001 4E20 0A580002 0035 0A630002 0035 UDP             299
UDP 0A580001 0000 0A580002 0035 0A630002 0035 ASSURED         299
UDP 0A580001 0000 0A580002 13C4 0A630002 13C4 NONE             59 sip a84b4c76e66710@pc33.example
IP  0A580001 0000 00000007 0000 0A630002 0000 NONE             99
SCTP 0A580001 A2B4 0A580002 0050 0A630002 0050 S-ACK-SENT       60
SCTP 0A580001 A2B5 0A580002 0050 0A630002 0050 ESTABLISHED     899
IP_50 0A580001 01F4 0A580002 01F4 0A630002 01F4 ERR!            179
TCP fd00:0088:0000:0000:0000:0000:0000:0001 8160 fd00:0088:0000:0000:0000:0000:0000:0002 0050 fd00:0099:0000:0000:0000:0000:0000:0002 0050 CLOSE_WAIT       59
`

var want = []string{
	"tcp 10.88.0.1:41652 > 10.88.0.2:80 > 10.99.0.2:80 ESTABLISHED 898s",
	"tcp 10.88.0.1:41654 > 10.88.0.2:80 > 10.99.0.2:80 TIME_WAIT 119s INACTIVE",
	"tcp 10.88.0.1:0 > 10.88.0.2:81 > 10.99.0.2:81 NONE 300s INACTIVE|TEMPLATE",
	"tcp 10.88.0.1:41655 > 10.88.0.2:80 > 10.99.0.2:80 NONE 2s INACTIVE",
	"tcp 10.88.0.1:0 > 10.88.0.2:1024 > 10.99.0.2:20 LISTEN 120s INACTIVE|NO_CPORT",
	"udp 10.88.0.1:20000 > 10.88.0.2:53 > 10.99.0.2:53 UDP 300s INACTIVE",
	"udp 10.88.0.1:0 > 10.88.0.2:53 > 10.99.0.2:53 ASSURED 300s INACTIVE|TEMPLATE",
	`udp 10.88.0.1:0 > 10.88.0.2:5060 > 10.99.0.2:5060 NONE 60s INACTIVE|TEMPLATE pe "sip" "a84b4c76e66710@pc33.example"`,
	"0 10.88.0.1:0 > 0.0.0.7:0 > 10.99.0.2:0 NONE 100s INACTIVE|TEMPLATE fwmark 7",
	"sctp 10.88.0.1:41652 > 10.88.0.2:80 > 10.99.0.2:80 S-ACK-SENT 61s INACTIVE",
	"sctp 10.88.0.1:41653 > 10.88.0.2:80 > 10.99.0.2:80 ESTABLISHED 900s",
	"esp 10.88.0.1:500 > 10.88.0.2:500 > 10.99.0.2:500 0 180s INACTIVE",
	"tcp [fd00:88::1]:33120 > [fd00:88::2]:80 > [fd00:99::2]:80 CLOSE_WAIT 60s INACTIVE",
}

// read gives every entry, as text, and every bad line.
func read(t *testing.T, r io.Reader) (entries []string, origins []string, bad []error) {
	t.Helper()
	p, err := NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	for {
		var e Entry
		err := p.Read(&e)
		var le *LineError
		switch {
		case err == io.EOF:
			return entries, origins, bad
		case errors.As(err, &le):
			bad = append(bad, err)
		case err != nil:
			t.Fatal(err)
		default:
			if _, err := encoder.AppendRecord(nil, encoder.Version1, &e.Conn); err != nil {
				t.Errorf("%v cannot be encoded: %v", &e.Conn, err)
			}
			entries = append(entries, e.String())
			origins = append(origins, e.Origin)
		}
	}
}

func TestRead(t *testing.T) {
	for name, r := range map[string]io.Reader{
		"at once": strings.NewReader(listing), "byte by byte": iotest.OneByteReader(strings.NewReader(listing)),
		"without the last newline": strings.NewReader(strings.TrimSpace(listing)),
	} {
		got, _, bad := read(t, r)
		if len(bad) > 0 {
			t.Errorf("%s: %v", name, bad)
		}
		for i := range max(len(got), len(want)) {
			if i >= len(got) || i >= len(want) || got[i] != want[i] {
				t.Fatalf("%s: entry %d of\n%s\nwant\n%s", name, i, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
	}
}

func TestReadSync(t *testing.T) {
	got, origins, bad := read(t, strings.NewReader(
		`Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Origin Expires
TCP 0A580001 A2B4 0A580002 0050 0A630002 0050 ESTABLISHED LOCAL      897
TCP 0A580001 A2B5 0A580002 0050 0A630002 0050 FIN_WAIT    SYNC       100
`))
	if len(bad) > 0 || len(got) != 2 || got[0] != want[0] || origins[0] != "LOCAL" || origins[1] != "SYNC" {
		t.Errorf("%q, %q, %v", got, origins, bad)
	}
}

// A bad line is told by its number, and those behind it are read.
func TestBadLines(t *testing.T) {
	lines := strings.SplitAfter(listing, "\n")
	const good = "TCP 0A580001 A2B4 0A580002 0050 0A630002 0050 ESTABLISHED     897"
	for _, tc := range []struct{ line, why string }{
		{"TCP 0A580001", "2 columns"},
		{strings.Replace(good, "TCP", "TPC", 1), "protocol"},
		{strings.Replace(good, "TCP", "IP_256", 1), "protocol"},
		{strings.Replace(good, "0A580001", "0A58000", 1), "client: address"},
		{strings.Replace(good, "0A580002", "0A58000G", 1), "virtual: address"},
		{strings.Replace(good, "0A630002", "fe80::1%eth0", 1), "destination: address"},
		{strings.Replace(good, "0A630002", "fe80::1", 1), "different families"},
		{strings.Replace(good, "A2B4", "1A2B4", 1), "client: port"},
		{strings.Replace(good, "ESTABLISHED", "ESTABLISHMENT", 1), "state"},
		{strings.Replace(good, "ESTABLISHED", "ERR!", 1), "state"},
		{strings.Replace(good, "897", "-1", 1), "expiry"},
		{strings.Replace(good, "897", "4294967296", 1), "expiry"},
		{strings.Replace(good, "ESTABLISHED", "NONE       ", 1) + " sip " + strings.Repeat("x", 256), "pe_data"},
		{good + strings.Repeat(" ", 100<<10), "longer"},
	} {
		text := lines[0] + lines[1] + tc.line + "\n" + strings.Join(lines[2:], "")
		got, _, bad := read(t, strings.NewReader(text))
		if len(bad) != 1 || len(got) != len(want) || !strings.Contains(bad[0].Error(), tc.why) || !strings.HasPrefix(bad[0].Error(), "line 3: ") {
			t.Errorf("%.80q: %d entries, %v, want %q", tc.line, len(got), bad, tc.why)
		}
	}
}

// Engine data may hold a line feed, which the kernel prints as it is.
func TestLineFeedInData(t *testing.T) {
	text := strings.Replace(listing, "a84b4c76e66710@pc33.example", "a84b\n4c76 TCP 0050\n", 1)
	got, _, bad := read(t, strings.NewReader(text))
	if len(bad) > 0 || len(got) != len(want) || !strings.HasSuffix(got[7], `pe "sip" "a84b\n4c76 TCP 0050"`) || got[8] != want[8] {
		t.Errorf("%q, %v", got, bad)
	}
}

// A broken line is told and counted behind engine data, too, rather than taken
// for more of them.
func TestBadLineBehindData(t *testing.T) {
	lines := strings.SplitAfter(listing, "\n")
	at := 0
	for i, line := range lines {
		if strings.Contains(line, " sip ") {
			at = i + 1
		}
	}
	for _, tc := range []struct{ line, why string }{
		{"TCP 0A580001", "2 columns"},
		{"IP_77 x", "2 columns"},
		{"TPC 0A580001 A2B4 0A580002 0050 0A630002 0050 ESTABLISHED     897", "protocol"},
		{"TPC 0A580001 A2B4 0A580002 0050 0A6300", "6 columns"},
		{"SCTP 0A58000G A2B4 0A580002 0050 0A630002 0050 ESTABLISHED     897", "client: address"},
		{"UDP 0A580001 A2B4 0A580002 0050 0A630002 0050 UDP             x", "expiry"},
		{"TCP 0A580001 A2B4 0A580002 0050 0A630002 0050 ESTABLISHMENT 897", "state"},
	} {
		text := strings.Join(lines[:at], "") + tc.line + "\n" + strings.Join(lines[at:], "")
		got, _, bad := read(t, strings.NewReader(text))
		if len(bad) != 1 || !slices.Equal(got, want) || !strings.Contains(bad[0].Error(), tc.why) ||
			!strings.HasPrefix(bad[0].Error(), fmt.Sprintf("line %d: ", at+1)) {
			t.Errorf("%q: %d entries, %v, want %q in line %d", tc.line, len(got), bad, tc.why, at+1)
		}
	}
}

func TestNoListing(t *testing.T) {
	for _, text := range []string{"", "\n", "{}\n", "IP Virtual Server version 1.2.1"} {
		if _, err := NewReader(strings.NewReader(text)); !errors.Is(err, ErrNotListing) {
			t.Errorf("%q: %v", text, err)
		}
	}
	broken := errors.New("broken")
	p, err := NewReader(io.MultiReader(strings.NewReader(listing), iotest.ErrReader(broken)))
	for e := new(Entry); err == nil; {
		err = p.Read(e)
	}
	if !errors.Is(err, broken) {
		t.Errorf("%v, want the input's error", err)
	}
}

// Whatever is read can be encoded, and no input ends in a panic or a loop.
func FuzzRead(f *testing.F) {
	f.Add([]byte(listing))
	f.Add([]byte("Pro FromIP Origin\nTCP 0A580001 A2B4 0A580002 0050 0A630002 0050 ESTABLISHED LOCAL      897\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := NewReader(bytes.NewReader(text))
		if err != nil {
			return
		}
		var e Entry
		for range bytes.Count(text, []byte("\n")) + 2 {
			err := p.Read(&e)
			if err == io.EOF {
				return
			}
			if err == nil {
				if _, err := encoder.AppendRecord(nil, encoder.Version1, &e.Conn); err != nil {
					t.Fatalf("%v cannot be encoded: %v", &e.Conn, err)
				}
			}
		}
		t.Fatal("more entries than lines")
	})
}
