package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/filelock"
)

// openSnapshot finds out at the start what would go wrong at the first snapshot: path
// is made the file that a symbolic link leads to, which must be a regular one or missing;
// its directory must take new files; and no other process may save there.
func openSnapshot(path *string) (*filelock.Lock, error) {
	given := *path
	info, err := os.Lstat(given)
	if err == nil && info.Mode().Type() == fs.ModeSymlink {
		if *path, err = filepath.EvalSymlinks(given); err != nil {
			return nil, fmt.Errorf("--snapshot %s is a symbolic link that leads nowhere: %w", given, err)
		}
		info, err = os.Lstat(*path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("--snapshot: %w", err)
	case info.IsDir():
		return nil, fmt.Errorf("--snapshot %s is a directory: give the name of a file", given)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("--snapshot %s is no regular file (%s): give another name", given, info.Mode())
	}
	lock, err := filelock.Take(*path)
	if err != nil {
		return nil, fmt.Errorf("--snapshot: %w", err)
	}
	dir, name := filepath.Split(*path)
	if dir == "" {
		dir = "."
	}
	try, err := os.CreateTemp(dir, "."+name+".*")
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("--snapshot: nothing can be saved there: %w", err)
	}
	try.Close()
	if err := os.Remove(try.Name()); err != nil {
		lock.Close()
		return nil, fmt.Errorf("--snapshot: nothing can be replaced there: %w", err)
	}
	return lock, nil
}

// restore fills the table from its snapshot. One that is damaged is kept under
// another name, for whoever wants to look into it, and the table starts empty; one that does not
// fit is kept too. What cannot be read, or is no snapshot, ends the command, as it
// would be overwritten.
func (k *keeper) restore() error {
	path := k.flags.snapshot
	if path == "" {
		return nil
	}
	st, err := k.table.RestoreFile(path)
	var damage *ipvsync.SnapshotError
	switch {
	case err == nil:
		k.log.Info("table restored", "file", path, "entries", st.Entries, "loaded", st.Loaded, "over", st.Over, "full", st.Full,
			"refused", st.Refused+st.Kept, "away", st.Away.Round(time.Millisecond), "clock_back", st.ClockBack)
		if st.Full > 0 {
			return k.keepFull(path, &st)
		}
		return nil
	case errors.Is(err, fs.ErrNotExist):
		k.log.Info("no snapshot yet, the table starts empty", "file", path)
		return nil
	case errors.As(err, &damage) && damage.Foreign:
		return fmt.Errorf("%w: the file was left as it is; move it away, or give another name to --snapshot", err)
	case !errors.Is(err, ipvsync.ErrSnapshot):
		return err
	}
	aside := asideName(path, "damaged")
	if renameErr := os.Rename(path, aside); renameErr != nil {
		return errors.Join(err, renameErr)
	}
	k.log.Error("snapshot is damaged, the table starts empty", "error", err, "kept_as", aside)
	return nil
}

// keepFull keeps a snapshot of which some did not fit: the next one takes the place of
// its name, and has less.
func (k *keeper) keepFull(path string, st *ipvsync.RestoreStats) error {
	aside := asideName(path, "full")
	if err := os.Link(path, aside); err != nil {
		return fmt.Errorf("%d of %d entries of %s do not fit into --table-entries %d, and the file cannot be kept aside: %w",
			st.Full, st.Entries, path, k.flags.entries, err)
	}
	k.log.Error("entries of the snapshot did not fit into the table: give more --table-entries, and restore what was kept",
		"left_out", st.Full, "entries", st.Entries, "table_entries", k.flags.entries, "kept_as", aside)
	return nil
}

func asideName(path, why string) string {
	return fmt.Sprintf("%s.%s-%s", path, why, time.Now().UTC().Format("20060102T150405.000Z"))
}
