package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/encoder"
)

// keep starts a keeper on a snapshot, and says what it logged.
func keep(t *testing.T, path string, entries int) (*keeper, *bytes.Buffer, error) {
	t.Helper()
	said := new(bytes.Buffer)
	f := tableFlags{on: true, entries: entries, snapshot: path}
	k, err := f.start(slog.New(slog.NewTextHandler(said, nil)))
	return k, said, err
}

// saveSome saves a table of n connections.
func saveSome(t *testing.T, path string, n int) []byte {
	t.Helper()
	k, _, err := keep(t, path, 1000)
	if err != nil {
		t.Fatal(err)
	}
	e := func(s string) encoder.Endpoint { return encoder.EndpointFrom(netip.MustParseAddrPort(s)) }
	for i := range n {
		c := ipvsync.Conn{Client: e("192.0.2.1:1"), Virtual: e("192.0.2.2:2"), Dest: e("192.0.2.3:3"),
			Protocol: encoder.TCP, State: encoder.TCPEstablished, Timeout: 900}
		c.Client.Port += uint16(i)
		k.table.Apply([]ipvsync.Conn{c})
	}
	if err := k.stop(io.Discard); err != nil {
		t.Fatal(err)
	}
	saved, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return saved
}

// names are what lies in a directory, but for locks.
func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".lock") {
			all = append(all, f.Name())
		}
	}
	return all
}

// What is no snapshot of this version ends the command and stays as it was.
func TestSnapshotIsSomethingElse(t *testing.T) {
	newer := saveSome(t, filepath.Join(t.TempDir(), "table"), 3)
	binary.LittleEndian.PutUint16(newer[8:], 2)
	for _, tc := range []struct {
		name    string
		content []byte
		say     string
	}{
		{"hosts", []byte("127.0.0.1 localhost\n::1 localhost ip6-localhost\n"), "this is no snapshot"},
		{"short", []byte("x"), "this is no snapshot"},
		{"newer", newer, "version 2; this program knows version 1"},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, tc.name)
		if err := os.WriteFile(path, tc.content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := keep(t, path, 10)
		if err == nil || !strings.Contains(err.Error(), tc.say) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("%s: %v", tc.name, err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, tc.content) || len(names(t, dir)) != 1 {
			t.Errorf("%s has changed: %q, %v, %v", tc.name, got, err, names(t, dir))
		}
	}
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	device := filepath.Join(dir, "device")
	if err := os.Symlink("/dev/full", device); err != nil {
		t.Fatal(err)
	}
	nowhere := filepath.Join(dir, "nowhere")
	if err := os.Symlink(filepath.Join(dir, "missing"), nowhere); err != nil {
		t.Fatal(err)
	}
	for path, say := range map[string]string{
		fifo: "no regular file", device: "no regular file", dir: "is a directory", nowhere: "leads nowhere",
		filepath.Join(dir, "missing", "table"): "no such file or directory",
	} {
		if _, _, err := keep(t, path, 10); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: %v, want %q", path, err, say)
		}
	}
	if info, err := os.Stat("/dev/full"); err != nil || info.Mode().Type() != os.ModeDevice|os.ModeCharDevice {
		t.Errorf("/dev/full is %v, %v", info.Mode(), err)
	}
}

// A symbolic link stays one: what it leads to is saved and restored, and locked.
func TestSnapshotByLink(t *testing.T) {
	dir, far := t.TempDir(), t.TempDir()
	target, link := filepath.Join(far, "table"), filepath.Join(dir, "link")
	saveSome(t, target, 3)
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	k, _, err := keep(t, link, 10)
	if err != nil {
		t.Fatal(err)
	}
	if n := k.table.Len(); n != 3 {
		t.Errorf("%d entries restored, want 3", n)
	}
	if _, _, err := keep(t, target, 10); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("two on one file: %v", err)
	}
	before, err := os.Stat(target)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.stop(io.Discard); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().Type() != os.ModeSymlink || len(names(t, dir)) != 1 {
		t.Errorf("the link is now %v, %v; %v", info.Mode(), err, names(t, dir))
	}
	if after, err := os.Stat(target); err != nil || os.SameFile(before, after) {
		t.Errorf("the target was not replaced: %v", err)
	}
}

// A snapshot of more than the table takes is kept.
func TestSnapshotDoesNotFit(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "table")
	saved := saveSome(t, path, 10)
	k, said, err := keep(t, path, 4)
	if err != nil {
		t.Fatal(err)
	}
	if n := k.table.Len(); n != 4 || !strings.Contains(said.String(), "did not fit") || !strings.Contains(said.String(), "left_out=6") {
		t.Errorf("%d entries; said\n%s", n, said)
	}
	if err := k.stop(io.Discard); err != nil {
		t.Fatal(err)
	}
	aside, _ := filepath.Glob(path + ".full-*")
	if len(aside) != 1 {
		t.Fatalf("kept: %v", names(t, dir))
	}
	if kept, err := os.ReadFile(aside[0]); err != nil || !bytes.Equal(kept, saved) {
		t.Errorf("what was kept is not what was there: %v", err)
	}
}

// A directory that takes no files is found at the start, also when the lock is there from
// before.
func TestSnapshotReadOnly(t *testing.T) {
	dir := t.TempDir()
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never back: the thread has mounts of its own
		ended <- func() error {
			if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); err != nil {
				return err
			}
			if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
				return err
			}
			defer unix.Unmount(dir, unix.MNT_DETACH)
			path := filepath.Join(dir, "table")
			lock, err := openSnapshot(&path)
			if err != nil {
				return err
			}
			lock.Close()
			if got := names(t, dir); len(got) != 0 {
				t.Errorf("left behind: %v", got)
			}
			if err := unix.Mount("none", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
				return err
			}
			for _, name := range []string{"table", "another"} {
				path := filepath.Join(dir, name)
				if _, err := openSnapshot(&path); !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), path) && !strings.Contains(err.Error(), "."+name) {
					t.Errorf("%s: %v", name, err)
				}
			}
			return nil
		}()
	}()
	if err := <-ended; errors.Is(err, unix.EPERM) {
		t.Skip("needs root, to mount")
	} else if err != nil {
		t.Fatal(err)
	}
}
