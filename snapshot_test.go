package ipvsync

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"github.com/cespare/xxhash/v2"
)

// lines is the content of a table, sorted, with the ends of lives.
func tableLines(t *Table) []string {
	var all []string
	for e := range t.All() {
		all = append(all, fmt.Sprintf("%v %x in %v", &e.Conn, e.Options, e.Expires))
	}
	slices.Sort(all)
	return all
}

// randomTable is one of every kind of entry.
func randomTable(tb testing.TB, clock *testClock, n int) *Table {
	table := newTable(tb, TableConfig{MaxEntries: 10_000, Shards: 2, Now: clock.now})
	r := rand.New(rand.NewPCG(3, uint64(n)))
	for range n {
		table.Apply([]Conn{randomConn(r)})
		clock.advance(time.Duration(r.IntN(3)) * tableTick) // whole ones: nothing is rounded
	}
	// Next to a template with a client's port a kernel may have several connections
	// of one key, of which Load takes one. These have keys of their own.
	for i := range n / 3 {
		table.Apply([]Conn{relatedConn(10+i, i%7, i%50)})
	}
	return table
}

// missing gives how many of the lines want are not in got, and the first of got
// that is not in want.
func missing(got, want []string) (n int, stranger string) {
	left := map[string]int{}
	for _, l := range want {
		left[l]++
	}
	for _, l := range got {
		if left[l]--; left[l] < 0 {
			return 0, l
		}
	}
	return len(want) - len(got), ""
}

func snapshotOf(tb testing.TB, t *Table, wall time.Time) []byte {
	tb.Helper()
	var b bytes.Buffer
	st, err := t.snapshot(&b, wall)
	if err != nil {
		tb.Fatal(err)
	}
	if st.Bytes != int64(b.Len()) || st.Entries != uint64(t.Len()) {
		tb.Fatalf("%+v of %d bytes, %d entries", st, b.Len(), t.Len())
	}
	return b.Bytes()
}

// What comes back is what was there, less the time away.
func TestSnapshot(t *testing.T) {
	wall := time.Unix(1700000000, 123456789)
	for _, n := range []int{0, 1, 3000} {
		clock := newTestClock()
		table := randomTable(t, clock, n)
		saved := snapshotOf(t, table, wall)
		entries := table.Len()
		if n == 3000 && entries < 100 {
			t.Fatalf("only %d entries", entries)
		}
		const away = 7 * time.Second
		clock.advance(away)
		want := tableLines(table)
		for name, reader := range map[string]io.Reader{
			"seeker": bytes.NewReader(saved), "stream": io.MultiReader(bytes.NewReader(saved)),
			"slow": iotest.OneByteReader(bytes.NewReader(saved)),
		} {
			back := newTestClock()
			back.advance(time.Hour)
			other := newTable(t, TableConfig{MaxEntries: 10_000, Shards: 4, Now: back.now})
			st, err := other.restore(reader, wall.Add(away))
			if err != nil || st.Entries != uint64(entries) || !st.Time.Equal(wall) || st.Away != away || st.ClockBack ||
				st.Refused+st.Full != 0 || st.Loaded != uint64(other.Len()) || st.Entries != st.Loaded+st.Over+st.Kept || st.Kept > 100 {
				t.Fatalf("%s: %+v, %v", name, st, err)
			}
			got := tableLines(other)
			if n, stranger := missing(got, want); n != int(st.Kept) || stranger != "" {
				t.Fatalf("%s: %d of %d missing, %d kept, never there: %s", name, n, len(want), st.Kept, stranger)
			}
		}
	}
}

// The clock was set back: lifetimes are as they were at the snapshot's time.
func TestSnapshotOfTheFuture(t *testing.T) {
	clock, wall := newTestClock(), time.Unix(1700000000, 0)
	table := randomTable(t, clock, 500)
	saved := snapshotOf(t, table, wall)
	other := newTable(t, TableConfig{MaxEntries: 10_000, Now: newTestClock().now})
	st, err := other.restore(bytes.NewReader(saved), wall.Add(-time.Hour))
	n, stranger := missing(tableLines(other), tableLines(table))
	if err != nil || !st.ClockBack || st.Away != 0 || st.Over != 0 || n != int(st.Kept) || stranger != "" {
		t.Errorf("%+v, %v, %d missing, never there: %s", st, err, n, stranger)
	}
}

// What the table has is newer and stays; what does not fit is counted.
func TestRestoreIntoATable(t *testing.T) {
	clock, wall := newTestClock(), time.Now()
	table := newTable(t, TableConfig{MaxEntries: 10_000, Now: clock.now})
	for i := range 50 {
		table.Apply([]Conn{flow(i, 100)})
	}
	saved := snapshotOf(t, table, wall)
	other := newTable(t, TableConfig{MaxEntries: 30, Shards: 1, Now: clock.now})
	newer := flow(7, 500)
	other.Apply([]Conn{newer})
	st, err := other.restore(bytes.NewReader(saved), wall)
	if err != nil || st.Kept != 1 || st.Loaded != 29 || st.Full != 20 || other.Len() != 30 {
		t.Errorf("%+v, %v, %d entries", st, err, other.Len())
	}
	if e, ok := other.Lookup(KeyOf(&newer)); !ok || e.Timeout != 500 {
		t.Errorf("%v is now %v", &newer, &e.Conn)
	}
	other.Close()
	if _, err := other.restore(bytes.NewReader(saved), wall); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// The fast way from the table's words is that of its slow twin, byte by byte, over
// several blocks.
func TestSnapshotTwin(t *testing.T) {
	clock, wall := newTestClock(), time.Unix(1, 2)
	table := randomTable(t, clock, 3000)
	for i := range 6000 {
		table.Apply([]Conn{relatedConn(i, i%7, i%50)})
	}
	got := snapshotOf(t, table, wall)
	want := appendSnapHeader(nil, wall)
	var block []byte
	var entries, all uint32
	seal := func() {
		at := len(want)
		want = binary.LittleEndian.AppendUint32(want, uint32(len(block)))
		want = binary.LittleEndian.AppendUint32(want, entries)
		want = append(want, block...)
		want = binary.LittleEndian.AppendUint64(want, xxhash.Sum64(want[at:])^uint64(at)*0x9e3779b97f4a7c15)
		block, entries = block[:0], 0
	}
	for e := range table.All() {
		block = appendSnapEntry(block, &e.Conn, int64(e.Expires))
		entries++
		all++
		if len(block)+8 >= snapBlockFill {
			seal()
		}
	}
	if entries > 0 {
		seal()
	}
	block = binary.LittleEndian.AppendUint64(block, uint64(all))
	seal()
	if !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, want %d; they differ", len(got), len(want))
	}
	if blocks := len(got) / snapBlockFill; blocks < 1 {
		t.Errorf("only %d blocks", blocks)
	}
}

// Each entry is whole while two writers are at work.
func TestSnapshotBesideWriters(t *testing.T) {
	table := newTable(t, TableConfig{MaxEntries: 4000, Shards: 2})
	stop, done := make(chan struct{}), make(chan struct{}, 2)
	for w := range 2 {
		go func() {
			defer func() { done <- struct{}{} }()
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for {
				select {
				case <-stop:
					return
				default:
					table.Apply([]Conn{relatedConn(1+2*r.IntN(1000)+w, 1+r.IntN(3), 1+r.IntN(99))})
				}
			}
		}()
	}
	var b bytes.Buffer
	for total := 0; total < 20_000; {
		b.Reset()
		if _, err := table.Snapshot(&b); err != nil {
			t.Fatal(err)
		}
		sr, err := NewSnapshotReader(&b)
		var e Entry
		for err == nil {
			if err = sr.Read(&e); err == nil {
				total++
				if err := related(&e); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err != io.EOF {
			t.Fatal(err)
		}
	}
	close(stop)
	<-done
	<-done
}

func TestSnapshotWriteFails(t *testing.T) {
	table := randomTable(t, newTestClock(), 200)
	whole := len(snapshotOf(t, table, time.Now()))
	broken := errors.New("disk full")
	for _, room := range []int{0, 10, snapHeaderSize, 100, whole - 1} {
		left := room
		st, err := table.Snapshot(writerFunc(func(b []byte) (int, error) {
			if len(b) > left {
				n := left
				left = 0
				return n, broken
			}
			left -= len(b)
			return len(b), nil
		}))
		if !errors.Is(err, broken) || st.Bytes != int64(room) {
			t.Errorf("room for %d: %+v, %v", room, st, err)
		}
	}
	read := errors.New("I/O error")
	if _, err := table.Restore(io.MultiReader(bytes.NewReader(appendSnapHeader(nil, time.Now())), iotest.ErrReader(read))); !errors.Is(err, read) {
		t.Errorf("%v, want the reader's error", err)
	}
}

func TestSnapshotFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "table.snap")
	table := randomTable(t, newTestClock(), 100)
	if _, err := table.RestoreFile(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for range 2 { // also in place of an older one
		st, err := table.SnapshotFile(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode() != 0o600 || info.Size() != st.Bytes {
			t.Errorf("%v, %v", info, err)
		}
	}
	other := newTable(t, TableConfig{MaxEntries: 25_000})
	if st, err := other.RestoreFile(path); err != nil || st.Loaded+st.Over != uint64(table.Len()) {
		t.Errorf("%+v, %v", st, err)
	}
	// A directory cannot be replaced by a file: what was there stays, nothing is left.
	full := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(full, "in"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := table.SnapshotFile(full); err == nil {
		t.Error("a directory was replaced")
	}
	if _, err := table.SnapshotFile(filepath.Join(dir, "missing", "x")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 2 {
		t.Errorf("%v is left, %v", list, err)
	}
	if err := os.WriteFile(path, []byte("ipvsync"), 0o600); err != nil {
		t.Fatal(err)
	}
	var se *SnapshotError
	if _, err := other.RestoreFile(path); !errors.As(err, &se) || se.Offset != 7 {
		t.Errorf("cut off: %v", err)
	}
}
