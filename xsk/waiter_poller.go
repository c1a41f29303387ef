package xsk

import (
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pollWaiter waits in Go's own poller. A system call that waits, such as ppoll, takes
// a processor of the scheduler along; the runtime then has a thread look out for it,
// take the processor away and give it back, which costs several times what receiving
// a lone message does.
type pollWaiter struct {
	file *os.File // of one socket a duplicate, of several an epoll instance
	fd   int      // of file

	sockets []int // in the epoll instance, unless it is paused
	paused  bool

	conn syscall.RawConn
	try  func() bool // of the wait under way
	each func(uintptr) bool
	end  time.Time // of the wait under way
	set  time.Time // the deadline that file has; zero: unknown

	called atomic.Bool // by wake; withdrawn by wait

	// Of the wait under way.
	woken bool // it saw wake
	tried bool // it called try
	ok    bool // and this is what try returned
}

// pollOne waits for one socket.
func pollOne(socket int) (*pollWaiter, error) {
	fd, err := unix.FcntlInt(uintptr(socket), unix.F_DUPFD_CLOEXEC, 0)
	return newPollWaiter(fd, err)
}

// pollAll waits for any number of sockets, and can pause.
func pollAll(sockets []int) (*pollWaiter, error) {
	fd, err := newEpoll(nil)
	w, err := newPollWaiter(fd, err)
	if err != nil {
		return nil, err
	}
	w.sockets, w.paused = sockets, true
	if err := w.resume(); err != nil {
		w.close()
		return nil, explain("watch the sockets", err)
	}
	return w, nil
}

// newEpoll makes an epoll instance with the sockets in it, by their places.
func newEpoll(sockets []int) (int, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return -1, err
	}
	if err := addToEpoll(fd, sockets); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func addToEpoll(fd int, sockets []int) error {
	for i, s := range sockets {
		if err := unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, s, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}); err != nil {
			return err
		}
	}
	return nil
}

// newPollWaiter takes over fd.
func newPollWaiter(fd int, err error) (*pollWaiter, error) {
	if err != nil {
		return nil, explain("watch the sockets", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // or os.NewFile would not poll it
		unix.Close(fd)
		return nil, explain("watch the sockets", err)
	}
	w := &pollWaiter{file: os.NewFile(uintptr(fd), "sockets"), fd: fd}
	if err = w.file.SetReadDeadline(time.Time{}); err == nil { // an error: not in the poller
		w.conn, err = w.file.SyscallConn()
	}
	if err != nil {
		w.close()
		return nil, explain("watch the sockets", err)
	}
	w.each = w.look
	return w, nil
}

// pause takes the sockets out of the poller: there, each packet would wake some
// thread that has nothing to do, at the cost of whoever delivers it.
func (w *pollWaiter) pause() {
	if !w.paused {
		w.paused = true
		for _, s := range w.sockets {
			_ = unix.EpollCtl(w.fd, unix.EPOLL_CTL_DEL, s, nil) // an error: resume has not got to it
		}
	}
}

func (w *pollWaiter) resume() error {
	if !w.paused {
		return nil
	}
	w.paused = false
	err := addToEpoll(w.fd, w.sockets)
	if err != nil {
		w.pause() // some are in it; the next wait tries again
	}
	return err
}

func (w *pollWaiter) wait(end time.Time, try func() bool) (ok, woken bool, err error) {
	if err := w.resume(); err != nil {
		return false, false, err
	}
	w.try, w.end, w.tried, w.ok, w.woken = try, end, false, false, false
	for {
		err = w.conn.Read(w.each)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return w.ok, w.woken, err
		}
		// The time is over, or wake has made it so, perhaps for a wait before this.
		w.set = time.Time{}
		if err = w.file.SetReadDeadline(time.Time{}); err != nil {
			return false, false, err
		}
		if w.called.Swap(false) {
			return false, true, nil
		}
		if w.tried && !time.Now().Before(end) {
			return false, false, nil
		}
	}
}

// look is called by the poller, after it has forgotten the events before. When it
// returns false, the goroutine is parked.
func (w *pollWaiter) look(uintptr) bool {
	w.tried = true
	if w.ok = w.try(); w.ok {
		return true
	}
	if !w.set.Equal(w.end) {
		if w.file.SetReadDeadline(w.end) != nil {
			return true // closed
		}
		w.set = w.end
	}
	// A wake that this does not see has yet to set its deadline, after the one above.
	w.woken = w.called.Swap(false)
	return w.woken
}

// longAgo is a deadline that is over.
var longAgo = time.Unix(1, 0)

func (w *pollWaiter) wake() {
	w.called.Store(true)
	_ = w.file.SetReadDeadline(longAgo) // an error: closed, and nobody waits
}

func (w *pollWaiter) close() { w.file.Close() }
