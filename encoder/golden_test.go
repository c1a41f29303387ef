package encoder

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// golden is one file of testdata/golden: datagrams of a stock kernel master,
// one a paragraph, in hexadecimal; lines with # tell their origin.
type golden struct {
	name     string
	messages [][]byte
}

func goldens(t testing.TB) (gs []golden) {
	t.Helper()
	files, err := filepath.Glob("testdata/golden/*.hex")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		g := golden{name: strings.TrimSuffix(filepath.Base(file), ".hex")}
		var digits strings.Builder
		flush := func() {
			if digits.Len() == 0 {
				return
			}
			m, err := hex.DecodeString(digits.String())
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			g.messages = append(g.messages, m)
			digits.Reset()
		}
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			switch {
			case strings.HasPrefix(line, "#"):
			case line == "":
				flush()
			default:
				digits.WriteString(strings.Join(strings.Fields(line), ""))
			}
		}
		flush()
		gs = append(gs, g)
	}
	return gs
}

// What a stock master sent is decoded without a remainder, and encoding it
// again gives the kernel's bytes.
func TestGoldenBothWays(t *testing.T) {
	gs := goldens(t)
	if len(gs) == 0 {
		t.Fatal("no golden messages in testdata/golden")
	}
	for _, g := range gs {
		if len(g.messages) == 0 {
			t.Errorf("%s: no message", g.name)
		}
		for i, m := range g.messages {
			checkKernelMessage(t, fmt.Sprintf("%s, message %d", g.name, i), m)
		}
	}
}

// checkKernelMessage decodes what a stock master sent, without a remainder, and
// encodes it again to the kernel's very bytes.
func checkKernelMessage(t testing.TB, name string, m []byte) []refRecord {
	t.Helper()
	d := Decoder{}
	records := walk(&d, m)
	if d.Stopped() != Accepted || d.Unread() != 0 || len(records) == 0 || d.Trailer() != nil {
		t.Errorf("%s: %d records, stopped: %v, %d unread, trailer %x", name, len(records), d.Stopped(), d.Unread(), d.Trailer())
	}
	var w Writer
	if err := w.Init(make([]byte, DefaultMaxSize), d.Header().Version, d.Header().SyncID); err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if r.reason != Accepted {
			t.Errorf("%s: %v: %v", name, &r.conn, r.reason)
		}
		if err := w.Append(&r.conn); err != nil {
			t.Errorf("%s: %v: %v", name, &r.conn, err)
		}
	}
	if got := w.Seal(); !bytes.Equal(got, m) {
		t.Errorf("%s:\ngot  %x\nwant %x", name, got, m)
	}
	return records
}

func TestGoldenTruncated(t *testing.T) {
	for _, g := range goldens(t) {
		for _, m := range g.messages {
			for n := range len(m) {
				compare(t, slices.Clone(m[:n]), 0)
				if n >= 4 {
					compare(t, setSize(slices.Clone(m[:n])), 0)
				}
			}
		}
	}
}
