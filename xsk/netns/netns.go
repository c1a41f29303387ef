package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Errors to decide by, with errors.Is.
var (
	// ErrUnsupported says that this process may not make namespaces. The
	// error around it says what to do about it.
	ErrUnsupported = errors.New("network namespaces are not available")

	// ErrClosed says that the namespace was closed.
	ErrClosed = errors.New("namespace is closed")
)

// Error tells which operation failed. Err is mostly an errno.
type Error struct {
	Op  string // what was being done, as a verb phrase
	Err error
}

func (e *Error) Error() string { return "netns: " + e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Err: err}
}

// NS is a network namespace. The zero value is not usable; New makes one. All
// methods may be called from several goroutines.
type NS struct {
	mu   sync.RWMutex // Do and users of the descriptor hold it for reading, Close for writing
	file *os.File     // nil after Close
}

// threadNS names the namespace of the calling thread, not that of the
// process's first thread as /proc/self does. Linux 3.17.
const threadNS = "/proc/thread-self/ns/net"

// New makes a namespace that holds nothing but a loopback interface, which is
// up. IPv6 duplicate address detection is off for every interface made in it
// later, so that addresses are usable at once.
func New() (*NS, error) {
	ns := new(NS)
	err := onThread(unix.CLONE_NEWNET, -1, func() error {
		f, err := os.Open(threadNS)
		if err != nil {
			return wrap("open the new namespace", err)
		}
		ns.file = f
		return setUp()
	})
	if err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

// setUp prepares the new namespace that the calling thread is in.
func setUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return wrap("find the loopback interface", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return wrap("set the loopback interface up", err)
	}
	// The kernel takes the greater of "all" and the interface's own value
	// (Documentation/networking/ip-sysctl.rst, accept_dad). /proc/sys/net
	// shows the namespace of the thread that opens the file. Where /proc is
	// read-only or IPv6 is off, the nodad flag of each address has to do.
	for _, conf := range []string{"all", "default"} {
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+conf+"/accept_dad", []byte("0"), 0)
	}
	return nil
}

// Close lets go of the namespace. It lives on while sockets or processes in it
// do. Close waits for running calls of Do, and may be called more than once.
func (ns *NS) Close() error {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.file == nil {
		return nil
	}
	err := ns.file.Close()
	ns.file = nil
	return wrap("close the namespace", err)
}

// File returns the descriptor that holds the namespace, for exec.Cmd.ExtraFiles
// and the like, or nil after Close. It stays the property of ns: do not close it.
func (ns *NS) File() *os.File {
	ns.mu.RLock()
	defer ns.mu.RUnlock()
	return ns.file
}

// Fd returns the number of the descriptor that holds the namespace, valid until
// Close, or -1 after it.
func (ns *NS) Fd() int {
	ns.mu.RLock()
	defer ns.mu.RUnlock()
	return ns.fd()
}

func (ns *NS) fd() int {
	if ns.file == nil {
		return -1
	}
	return int(ns.file.Fd())
}

// Do runs fn inside the namespace, on an OS thread of its own, and returns what
// fn returned. Goroutines started by fn run outside; sockets made and processes
// started by fn itself belong to the namespace. A panic of fn, and a
// runtime.Goexit (a failing test), continue in the caller.
//
// Calls nest, and may run side by side.
func (ns *NS) Do(fn func() error) error {
	ns.mu.RLock()
	fd := ns.fd()
	if fd < 0 {
		ns.mu.RUnlock()
		return wrap("enter the namespace", ErrClosed)
	}
	// A duplicate, so that fn may call Close and nested calls need not
	// take the lock again.
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	ns.mu.RUnlock()
	if err != nil {
		return wrap("enter the namespace", err)
	}
	defer unix.Close(dup)
	return onThread(0, dup, fn)
}

// onThread runs fn on a thread that has entered the namespace fd, or, with
// fd < 0, has unshared flags. The thread goes back to its own namespace and to
// the runtime's pool afterwards. If it cannot, its goroutine ends while locked
// to it, which makes the runtime end the thread.
//
// The thread is given back rather than ended each time because a child process
// with Pdeathsig would die with the thread that started it.
func onThread(flags, fd int, fn func() error) error {
	var (
		err      error
		returned bool
		panicked any
		done     = make(chan struct{})
	)
	go func() {
		defer close(done)
		runtime.LockOSThread()
		home, e := os.Open(threadNS)
		if e != nil {
			runtime.UnlockOSThread()
			err, returned = wrap("open the namespace of the thread", e), true
			return
		}
		defer home.Close()
		if fd < 0 {
			e = unix.Unshare(flags)
		} else {
			e = unix.Setns(fd, unix.CLONE_NEWNET)
		}
		if e != nil {
			runtime.UnlockOSThread()
			err, returned = enterError(fd, e), true
			return
		}
		defer func() {
			panicked = recover()
			if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
		}()
		err = fn()
		returned = true
	}()
	<-done
	switch {
	case panicked != nil:
		panic(panicked)
	case !returned:
		runtime.Goexit()
	}
	return err
}

func enterError(fd int, err error) error {
	op := "make a namespace"
	if fd >= 0 {
		op = "enter the namespace"
	}
	switch {
	case errors.Is(err, unix.EPERM):
		// kernel/nsproxy.c and net/core/net_namespace.c: CAP_SYS_ADMIN
		// over the user namespace that owns the network namespace.
		err = fmt.Errorf("%w: run as root or with CAP_SYS_ADMIN and CAP_NET_ADMIN (%w)", ErrUnsupported, err)
	case fd < 0 && errors.Is(err, unix.ENOSPC):
		err = fmt.Errorf("%w: too many namespaces, raise user.max_net_namespaces (%w)", ErrUnsupported, err)
	case fd < 0 && errors.Is(err, unix.EINVAL):
		err = fmt.Errorf("%w: the kernel was built without CONFIG_NET_NS (%w)", ErrUnsupported, err)
	}
	return wrap(op, err)
}

// Supported returns nil if this process may make namespaces and links between
// them, and otherwise an error that is ErrUnsupported and says what to do. It
// finds out by trying.
func Supported() error {
	err := onThread(unix.CLONE_NEWNET, -1, func() error {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo) // CAP_NET_ADMIN
		}
		return err
	})
	if errors.Is(err, unix.EPERM) && !errors.Is(err, ErrUnsupported) {
		err = wrap("set up a namespace", fmt.Errorf("%w: run as root or with CAP_NET_ADMIN (%w)", ErrUnsupported, err))
	}
	return err
}
