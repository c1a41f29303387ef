package xsk

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// threadWaiter waits in a system call, with the thread that the goroutine is locked
// to. In Go's poller, which some other thread attends to, its wake-up would go by that
// one, and wait for a processor twice.
type threadWaiter struct {
	fds    []unix.PollFd // the sockets, the event
	count  [8]byte       // what is read from the event
	called atomic.Bool   // by wake; withdrawn by wait

	mu    sync.Mutex // guards event against being closed while wake writes to it
	event int        // eventfd, -1 when closed
}

func newThreadWaiter(sockets []int) (*threadWaiter, error) {
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, explain("make an eventfd", err)
	}
	w := &threadWaiter{event: event}
	for _, fd := range append(sockets[:len(sockets):len(sockets)], event) {
		w.fds = append(w.fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	return w, nil
}

func (w *threadWaiter) wait(end time.Time, try func() bool) (ok, woken bool, err error) {
	for {
		if try() {
			return true, false, nil
		}
		if w.called.Swap(false) {
			return false, true, nil
		}
		left := time.Until(end)
		if left <= 0 {
			return false, false, nil
		}
		ts := unix.NsecToTimespec(int64(left))
		if _, err := ppoll(w.fds, &ts); err != nil && err != unix.EINTR {
			return false, false, err
		}
		if event := &w.fds[len(w.fds)-1]; event.Revents != 0 {
			event.Revents = 0
			_, _ = unix.Read(int(event.Fd), w.count[:]) // resets it; it cannot fail in a way that matters
		}
	}
}

// wakeValue is what is written to the event: not 0 in either byte order, and less
// than the count that would block.
var wakeValue = [8]byte{3: 1, 4: 1}

// wake sets called first: a wait that finds the event set finds that as well. One that
// finds called alone leaves the event to the next, which turns once for nothing.
func (w *threadWaiter) wake() {
	w.called.Store(true)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.event >= 0 {
		_, _ = unix.Write(w.event, wakeValue[:]) // EAGAIN: it is set already
	}
}

func (w *threadWaiter) pause() {} // who rests does not look at the sockets

func (w *threadWaiter) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.event >= 0 {
		unix.Close(w.event)
		w.event = -1
	}
}
