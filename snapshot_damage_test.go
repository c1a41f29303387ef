package ipvsync

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"
	"time"
)

// damaged tries to restore something into a table, which must refuse it and be
// as before, by a seeker and by a stream.
func damaged(t *testing.T, table *Table, b []byte) *SnapshotError {
	t.Helper()
	var se *SnapshotError
	for _, r := range []io.Reader{bytes.NewReader(b), io.MultiReader(bytes.NewReader(b))} {
		loads, entries := table.Stats().Loads, table.Len()
		st, err := table.restore(r, time.Unix(1700000000, 0))
		if !errors.As(err, &se) || !errors.Is(err, ErrSnapshot) {
			t.Fatalf("restored: %+v, %v", st, err)
		}
		if table.Stats().Loads != loads || table.Len() != entries {
			t.Fatalf("the table has changed: %v", err)
		}
	}
	return se
}

func TestSnapshotCutOff(t *testing.T) {
	saved := snapshotOf(t, randomTable(t, newTestClock(), 40), time.Unix(1700000000, 0))
	table := randomTable(t, newTestClock(), 20)
	before := tableLines(table)
	for n := range saved {
		if err := damaged(t, table, saved[:n]); err.Offset != int64(n) {
			t.Fatalf("cut off at %d: %v", n, err)
		}
	}
	if err := damaged(t, table, append(slices.Clone(saved), 0)); err.Offset != int64(len(saved)) {
		t.Errorf("a byte more: %v", err)
	}
	if err := damaged(t, table, append(slices.Clone(saved), saved...)); err.Offset != int64(len(saved)) {
		t.Errorf("twice: %v", err)
	}
	if !slices.Equal(tableLines(table), before) {
		t.Error("the table has changed")
	}
}

func TestSnapshotFlipped(t *testing.T) {
	saved := snapshotOf(t, randomTable(t, newTestClock(), 40), time.Unix(1700000000, 0))
	table := randomTable(t, newTestClock(), 20)
	before := tableLines(table)
	for i := range saved {
		for _, flip := range []byte{1, 0x80, 0xff} {
			b := slices.Clone(saved)
			b[i] ^= flip
			if err := damaged(t, table, b); err.Offset > int64(len(saved)) || i >= snapHeaderSize && err.Offset < snapHeaderSize {
				t.Fatalf("byte %d flipped by %#x: %v", i, flip, err)
			}
		}
	}
	if !slices.Equal(tableLines(table), before) {
		t.Error("the table has changed")
	}
}

// Blocks that are missing, doubled or exchanged do not go unnoticed, though each is
// right in itself.
func TestSnapshotBlocks(t *testing.T) {
	var parts [][]byte
	table := newTable(t, TableConfig{MaxEntries: 25_000})
	for i := range 20_000 {
		table.Apply([]Conn{flow(i, 900)})
	}
	if _, err := table.snapshot(writerFunc(func(b []byte) (int, error) {
		parts = append(parts, slices.Clone(b))
		return len(b), nil
	}), time.Unix(1700000000, 0)); err != nil {
		t.Fatal(err)
	}
	if len(parts) < 5 {
		t.Fatalf("only %d parts", len(parts))
	}
	other := newTable(t, TableConfig{MaxEntries: 25_000})
	for name, list := range map[string][][]byte{
		"missing":   slices.Delete(slices.Clone(parts), 1, 2),
		"doubled":   slices.Insert(slices.Clone(parts), 1, parts[1]),
		"exchanged": append([][]byte{parts[0], parts[2], parts[1]}, parts[3:]...),
		"no end":    parts[:len(parts)-1],
		"end first": {parts[0], parts[len(parts)-1]},
	} {
		err := damaged(t, other, slices.Concat(list...))
		t.Logf("%s: %v", name, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// sealed makes a snapshot of any bytes, with right checksums.
func sealed(entries uint32, body []byte) []byte {
	b := appendSnapHeader(nil, time.Unix(1700000000, 0))
	for _, part := range []struct {
		n    uint32
		body []byte
	}{{entries, body}, {0, binary.LittleEndian.AppendUint64(nil, uint64(entries))}} {
		at := len(b)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(part.body)))
		b = binary.LittleEndian.AppendUint32(b, part.n)
		b = append(b, part.body...)
		b = binary.LittleEndian.AppendUint64(b, blockSum(b[at:], int64(at)))
	}
	return b
}

// Right checksums around entries that make no sense.
func TestSnapshotNonsense(t *testing.T) {
	c := flow(1, 900)
	c.Options, _ = c.Options.AppendPE("sip", []byte("data"))
	good := appendSnapEntry(nil, &c, int64(time.Minute))
	change := func(at int, v byte) []byte {
		b := slices.Clone(good)
		b[at] = v
		return b
	}
	table := newTable(t, TableConfig{MaxEntries: 25_000})
	for name, b := range map[string][]byte{
		"kind":              sealed(1, change(0, 2)),
		"reserved":          sealed(1, change(15, 1)),
		"options too long":  sealed(1, change(6, 200)),
		"options broken":    sealed(1, change(snapEntry4+1, 0)),
		"IPv6 without room": sealed(1, change(0, 1)),
		"bytes behind":      sealed(1, append(slices.Clone(good), 0)),
		"one too few":       sealed(2, append(slices.Clone(good), good[:snapFixed-1]...)),
		"count impossible":  sealed(1000, good),
	} {
		t.Logf("%s: %v", name, damaged(t, table, b))
	}
	// This is for Load to refuse.
	st, err := table.restore(bytes.NewReader(sealed(1, change(2, 99))), time.Unix(1700000000, 0))
	if err != nil || st.Refused != 1 {
		t.Errorf("state 99: %+v, %v", st, err)
	}
	if st, err = table.restore(bytes.NewReader(sealed(1, good)), time.Unix(1700000000, 0)); err != nil || st.Loaded != 1 {
		t.Errorf("%+v, %v", st, err)
	}
}

// Whatever it is, Restore ends, and the table is as before unless it says that all is
// well; then it accounts for every entry.
func FuzzRestore(f *testing.F) {
	clock := newTestClock()
	table := randomTable(f, clock, 200)
	saved := snapshotOf(f, table, time.Unix(1700000000, 0))
	f.Add(saved, uint32(0))
	body := saved[snapHeaderSize+snapBlockHead:]
	f.Add(body[:len(body)-2*snapBlockTail-snapBlockHead-snapEndSize], uint32(table.Len()))
	f.Fuzz(func(t *testing.T, b []byte, entries uint32) {
		if entries > 0 { // entries with right checksums around
			b = sealed(entries, b)
		}
		table := newTable(t, TableConfig{MaxEntries: 1000, Now: newTestClock().now})
		st, err := table.restore(bytes.NewReader(b), time.Unix(1700000000, 0))
		if err != nil {
			if table.Stats().Loads != 0 {
				t.Fatalf("%v, but %+v", err, st)
			}
			return
		}
		if st.Entries != st.Loaded+st.Kept+st.Over+st.Refused+st.Full {
			t.Fatalf("%+v", st)
		}
	})
}
