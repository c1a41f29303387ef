package ipvsync

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Foreign tells what is somebody else's from what is damaged.
func TestSnapshotForeign(t *testing.T) {
	saved := snapshotOf(t, randomTable(t, newTestClock(), 10), time.Unix(1700000000, 0))
	newer := slices.Clone(saved)
	binary.LittleEndian.PutUint16(newer[8:], 2)
	table := newTable(t, TableConfig{MaxEntries: 100})
	for name, tc := range map[string]struct {
		b    []byte
		want bool
	}{
		"text": {[]byte("127.0.0.1 localhost ip6-localhost\n"), true}, "a byte": {[]byte("x"), true},
		"zeroes": {make([]byte, 100), true}, "newer": {newer, true},
		"nothing": {nil, false}, "the magic": {saved[:8], false}, "half": {saved[:len(saved)/2], false},
		"clock": {append(append(slices.Clone(saved[:20]), saved[20]^1), saved[21:]...), false},
	} {
		if err := damaged(t, table, tc.b); err.Foreign != tc.want {
			t.Errorf("%s: foreign %v: %v", name, err.Foreign, err)
		}
	}
}

// SnapshotFile replaces regular files alone, and follows links.
func TestSnapshotFileOfAnotherKind(t *testing.T) {
	dir := t.TempDir()
	table := randomTable(t, newTestClock(), 10)
	device, link, target := filepath.Join(dir, "device"), filepath.Join(dir, "link"), filepath.Join(dir, "in", "target")
	if err := os.Mkdir(filepath.Join(dir, "in"), 0o700); err != nil {
		t.Fatal(err)
	}
	for to, from := range map[string]string{"/dev/null": device, target: link} {
		if err := os.Symlink(to, from); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := table.SnapshotFile(device); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a device: %v", err)
	}
	if _, err := table.SnapshotFile(link); err == nil {
		t.Errorf("a link to nowhere: %v", err)
	}
	if err := os.WriteFile(target, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := table.SnapshotFile(link); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(link); err != nil || to != target {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	if b, err := os.ReadFile(target); err != nil || !bytes.HasPrefix(b, []byte(snapshotMagic)) {
		t.Errorf("the target is %q, %v", b, err)
	}
}
