// Package filelock keeps a file or socket for one process.
package filelock

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrHeld says that somebody else has the lock.
var ErrHeld = errors.New("in use by another process")

// Lock is held until Close, or the end of the process, however it ends.
type Lock struct{ f *os.File }

// Take takes the lock of path, which is a flock of the file path.lock; it is made if
// it is missing, and stays: removing it would let two hold locks of one name. It does
// not wait: if the lock is held, the error is ErrHeld.
func Take(path string) (*Lock, error) {
	name := path + ".lock"
	// Not blocking, if somebody has put a FIFO there; and no other file by a link.
	f, err := os.OpenFile(name, os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		f.Close()
		return nil, fmt.Errorf("%s: %w, which has locked %s", path, ErrHeld, name)
	case err != nil:
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return &Lock{f}, nil
}

// Close gives the lock back.
func (l *Lock) Close() error { return l.f.Close() }
