package ipvsync

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// SnapshotFile writes a snapshot to a file that takes the place of the one of
// that name at once, when all of it is on the disk: whoever opens it, after a
// crash too, finds the old one or the new one, whole. The file is readable by its owner
// alone: it says who talks to whom. While it is written it is another one in the same
// directory, ".NAME.*"; a process that is killed leaves that behind.
//
// A symbolic link stays: the file that it leads to is replaced. What is there and is no
// regular file, such as a device, stays too, and is an error.
func (t *Table) SnapshotFile(path string) (st SnapshotStats, err error) {
	if path, err = replaceable(path); err != nil {
		return st, fmt.Errorf("snapshot: %w", err)
	}
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

// replaceable is the file that a path leads to, if it may be replaced: nothing is
// there, or a regular file.
func replaceable(path string) (string, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return path, nil
	case err != nil:
		return "", err
	case info.Mode().Type() == fs.ModeSymlink:
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return "", err
		}
		if info, err = os.Lstat(path); err != nil {
			return "", err
		}
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no regular file (%s), and stays: give another name", path, info.Mode())
	}
	return path, nil
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
