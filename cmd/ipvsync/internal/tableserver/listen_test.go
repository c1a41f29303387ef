package tableserver

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("twice: %v", err)
	}
	l.Close()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	// As a killed process leaves it.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	if l, err = Listen(path); err != nil {
		t.Fatalf("over a stale socket: %v", err)
	}
	l.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("over a file: %v", err)
	}
}

// bind makes a socket of somebody else.
func bind(t *testing.T, network, path string) {
	t.Helper()
	var err error
	if network == "unixgram" {
		var c *net.UnixConn
		if c, err = net.ListenUnixgram(network, &net.UnixAddr{Name: path, Net: network}); err == nil {
			t.Cleanup(func() { c.Close() })
		}
	} else {
		var l *net.UnixListener
		if l, err = net.ListenUnix(network, &net.UnixAddr{Name: path, Net: network}); err == nil {
			t.Cleanup(func() { l.Close() })
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What is somebody else's stays.
func TestListenLeavesOthersAlone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	if err := os.WriteFile(path+".new", []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path + ".new"); err != nil || string(b) != "precious" {
		t.Errorf("a file beside the socket: %q, %v", b, err)
	}
	// Somebody put another socket in its place.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	bind(t, "unix", path)
	l.Close()
	if conn, err := net.Dial("unix", path); err != nil {
		t.Errorf("the socket of another was removed: %v", err)
	} else {
		conn.Close()
	}
	// One that takes no streams says neither that somebody is there nor that nobody is.
	other := filepath.Join(dir, "datagrams")
	bind(t, "unixgram", other)
	if _, err := Listen(other); err == nil || !strings.Contains(err.Error(), "cannot be told") {
		t.Errorf("a socket of another type: %v", err)
	}
	if _, err := os.Lstat(other); err != nil {
		t.Errorf("it was removed: %v", err)
	}
}

// Of many that start at once over a stale socket, one listens.
func TestListenAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for range 20 {
		stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		stale.SetUnlinkOnClose(false)
		stale.Close()
		got := make(chan net.Listener, 8)
		var all sync.WaitGroup
		for range cap(got) {
			all.Go(func() {
				if l, err := Listen(path); err == nil {
					got <- l
				} else if !strings.Contains(err.Error(), "another process") {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if len(got) != 1 {
			t.Fatalf("%d listen", len(got))
		}
		(<-got).Close()
	}
}

func TestListenPath(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	longest := strings.Repeat("x", maxSocketPath)
	l, err := Listen(longest)
	if err != nil {
		t.Fatalf("%d bytes: %v", len(longest), err)
	}
	l.Close()
	_, err = Listen(longest + "y")
	if err == nil || !strings.Contains(err.Error(), longest+"y: the path has 108 bytes, and that of a unix socket at most 107") {
		t.Errorf("%v", err)
	}
	for path, say := range map[string]string{"@x": "abstract", "": "abstract", "missing/s": "no such file"} {
		if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: %v, want %q", path, err, say)
		}
	}
}
