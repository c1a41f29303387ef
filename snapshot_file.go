package ipvsync

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// SnapshotFile writes a snapshot to a file that takes the place of the one of
// that name at once, when all of it is on the disk: whoever opens it, after a
// crash too, finds the old one or the new one, whole. The file is readable by its owner
// alone: it says who talks to whom. While it is written it is another one in the same
// directory, ".NAME.*"; a process that is killed leaves that behind.
func (t *Table) SnapshotFile(path string) (st SnapshotStats, err error) {
	dir, name := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	f, err := os.CreateTemp(dir, "."+name+".*") // mode 0600
	if err != nil {
		return st, fmt.Errorf("snapshot: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if st, err = t.Snapshot(f); err != nil {
		return st, err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return st, fmt.Errorf("snapshot: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return st, fmt.Errorf("snapshot: %w", err)
	}
	// The name as well, or a crash may bring the old file back.
	d, err := os.Open(dir)
	if err != nil {
		return st, fmt.Errorf("snapshot: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return st, fmt.Errorf("snapshot: %w", err)
	}
	return st, nil
}

// RestoreFile is Restore from a file. If there is none, the error is fs.ErrNotExist.
func (t *Table) RestoreFile(path string) (RestoreStats, error) {
	f, err := os.Open(path)
	if err != nil {
		return RestoreStats{}, fmt.Errorf("restore: %w", err)
	}
	defer f.Close()
	st, err := t.Restore(f)
	if err != nil {
		err = fmt.Errorf("restore %s: %w", path, err)
	}
	return st, err
}
