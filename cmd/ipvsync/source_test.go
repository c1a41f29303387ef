package main

import (
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/record"
	"github.com/ipvsync/ipvsync/encoder"
)

// An entry that was refreshed while a snapshot was written ends later than its
// timeout after the snapshot began: it is alive, however long that is ago.
func TestSnapshotRefreshedMeanwhile(t *testing.T) {
	table, err := ipvsync.NewTable(ipvsync.TableConfig{MaxEntries: 10})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	var c encoder.Conn
	mustDo(t, record.Parse([]byte(lineA), &c))
	c.Timeout = 60
	// As if read 340 seconds after the begin.
	mustDo(t, table.Load(ipvsync.Entry{Conn: c, Expires: 400 * time.Second}))
	var snapshot bytes.Buffer
	if _, err := table.Snapshot(&snapshot); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		late time.Duration
		want []uint32 // timeouts
	}{{0, []uint32{60}}, {300 * time.Second, []uint32{60}}, {370 * time.Second, []uint32{30}}, {401 * time.Second, nil}} {
		now := time.Now()
		s := &source{warn: io.Discard, now: func() time.Time { return now }}
		mustDo(t, s.snapshot(bytes.NewReader(snapshot.Bytes()), time.Time{}))
		now = now.Add(tc.late) // the connections are sent late
		var got []uint32
		for c := range s.conns() {
			got = append(got, c.Timeout)
		}
		mustDo(t, s.err)
		// A tick of the table's clock rounds up.
		if len(got) != len(tc.want) || len(got) > 0 && (got[0] < tc.want[0] || got[0] > tc.want[0]+1) || got != nil && s.over != 0 {
			t.Errorf("%v late: timeouts %d, %d over, want %d", tc.late, got, s.over, tc.want)
		}
	}
}

func TestLifeLeft(t *testing.T) {
	for _, tc := range []struct {
		expires, away, gone, want time.Duration
		timeout                   uint32
	}{
		{50, 10, 5, 35, 60},
		{100, 10, 5, 60, 60},
		{100, 60, 30, 10, 60},
		{100, 60, 40, 0, 60},
		{100, math.MaxInt64 / time.Second, math.MaxInt64 / time.Second, 0, 60},
		{math.MinInt64 / time.Second, math.MaxInt64 / time.Second, 1, 0, 60},
		{math.MaxInt64 / time.Second, 0, 0, math.MaxUint32, math.MaxUint32},
	} {
		e := ipvsync.Entry{Expires: tc.expires * time.Second}
		e.Timeout = tc.timeout
		if got := lifeLeft(&e, tc.away*time.Second, tc.gone*time.Second); got != tc.want*time.Second {
			t.Errorf("%+v: %v", tc, got)
		}
	}
}

const listed = `Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP 0A580001 A2B4 0A580002 0050 0A630002 0050 ESTABLISHED      99
TCP 0A580001 A2B5 0A580002 0050 0A630002 0050 ESTABLISHED       9
`

// The lives of a file's connections run on while it is sent; those of a stream
// begin when they come.
func TestFilesAge(t *testing.T) {
	var json []byte
	for _, timeout := range []uint32{100, 10} {
		var c encoder.Conn
		mustDo(t, record.Parse([]byte(lineA), &c))
		c.Timeout = timeout
		json = append(record.Append(json, &c, ""), '\n')
	}
	for name, text := range map[string]string{"listing": listed, "JSON": string(json)} {
		for _, stream := range []bool{false, true} {
			o := resyncOptions{from: "-"}
			want := []uint32{100, 10}
			if !stream {
				o.from = filepath.Join(t.TempDir(), "file")
				mustDo(t, os.WriteFile(o.from, []byte(text), 0o600))
				want = []uint32{80} // at most; one is over
			}
			s, err := o.open(t.Context(), strings.NewReader(text), io.Discard)
			mustDo(t, err)
			defer s.close()
			late := time.Now().Add(20 * time.Second) // at least so long after open
			s.now = func() time.Time { return late }
			var got []uint32
			for c := range s.conns() {
				got = append(got, c.Timeout)
			}
			mustDo(t, errors.Join(err, s.err))
			if !stream && len(got) == 1 && got[0] < 80 { // open is more than a second ago
				got[0] = 80
			}
			if !slices.Equal(got, want) || s.over != 2-len(want) {
				t.Errorf("%s, stream %v: timeouts %d, %d over, want %d", name, stream, got, s.over, want)
			}
		}
	}
}
