package tableserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/filelock"
)

// maxSocketPath is what fits into a struct sockaddr_un, with the zero byte behind it.
const maxSocketPath = len(unix.RawSockaddrUnix{}.Path) - 1

// Listen makes a unix socket that only its owner may connect to. One that a
// killed process left behind is replaced; one that somebody listens on, or that may be
// somebody's, is an error. The file PATH.lock keeps two that start at once apart; it stays.
func Listen(path string) (net.Listener, error) {
	switch {
	case path == "" || strings.HasPrefix(path, "@"):
		return nil, fmt.Errorf("listen on %q: want the path of a file; an abstract socket is open to everybody", path)
	case len(path) > maxSocketPath:
		return nil, fmt.Errorf("listen on %s: the path has %d bytes, and that of a unix socket at most %d: give a shorter one",
			path, len(path), maxSocketPath)
	}
	lock, err := filelock.Take(path)
	if errors.Is(err, filelock.ErrHeld) {
		return nil, fmt.Errorf("listen on %s: another process listens there", path)
	} else if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l, err := listen(path)
	if err != nil {
		lock.Close()
		return nil, err
	}
	l.lock = lock
	return l, nil
}

// listen is for who has the lock.
func listen(path string) (*listener, error) {
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	// The mode of the socket is that of the file from the first moment on. If
	// there is one of that name after all, this fails.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var chmodErr error
		err := c.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, chmodErr)
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // it would not look whose it is
	info, err := os.Lstat(path)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	return &listener{Listener: l, path: path, made: info}, nil
}

// removeStale removes a socket that nobody listens on. Any doubt is an error.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("there is a file of that name that is no socket")
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		conn.Close()
		return errors.New("another process listens there")
	case errors.Is(err, unix.ENOENT):
		return nil
	case !errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("there is a socket, and whether somebody uses it cannot be told (if nobody does, remove it): %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// listener takes its socket away when it is closed, if it is still its own.
type listener struct {
	net.Listener
	path string
	made fs.FileInfo
	lock *filelock.Lock
	once sync.Once
	err  error
}

func (l *listener) Close() error {
	l.once.Do(func() {
		if info, err := os.Lstat(l.path); err == nil && os.SameFile(info, l.made) {
			l.err = os.Remove(l.path)
		}
		l.err = errors.Join(l.err, l.Listener.Close(), l.lock.Close())
	})
	return l.err
}
