package xsk

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// CopyMode tells whether the driver takes frames from, and puts packets into,
// the packet memory by itself, or the kernel copies them.
type CopyMode int

const (
	ZeroCopyPreferred CopyMode = iota // zero-copy if the driver can, and copies otherwise
	ZeroCopyRequired                  // zero-copy, or ErrZeroCopy
	CopyOnly                          // copies: every driver can
)

func (m CopyMode) String() string {
	switch m {
	case ZeroCopyPreferred:
		return "zero-copy preferred"
	case ZeroCopyRequired:
		return "zero-copy required"
	case CopyOnly:
		return "copy"
	}
	return fmt.Sprintf("CopyMode(%d)", int(m))
}

// BusyPoll makes system calls of the socket run the driver's polling loop
// instead of waiting for interrupts: Documentation/networking/af_xdp.rst. It
// needs CAP_NET_ADMIN, Linux 5.11, and settings of the device:
//
//	echo 2 > /sys/class/net/IF/napi_defer_hard_irqs
//	echo 200000 > /sys/class/net/IF/gro_flush_timeout
type BusyPoll struct {
	Time   time.Duration // SO_BUSY_POLL, whole microseconds; 0: no busy polling
	Budget int           // SO_BUSY_POLL_BUDGET, packets; 0: 64
}

// SocketConfig describes a Socket. Zero values are defaults where they are
// named; a half without frames does not exist.
type SocketConfig struct {
	Interface string
	Queue     int

	TxFrames int // frames of the sending half; 0: the socket does not send
	RxFrames int // frames of the receiving half; 0: it does not receive

	FrameSize int // bytes: 2048 (default) or 4096

	// Entries of the rings, powers of two. Default: what holds all frames
	// of the half.
	TxRing, CompletionRing, RxRing, FillRing int

	Mode     CopyMode
	BusyPoll BusyPoll

	// TxMetadata makes room for what a sender may tell the device about a
	// packet, if the kernel has it: Linux 6.11. See Socket.TxMetadata.
	TxMetadata bool

	// Program feeds the receiving half; it must serve Interface. nil: none,
	// and nothing is received.
	Program *Program
}

// maxRing bounds the rings: beyond it the kernel would allocate for long.
const maxRing = 1 << 20

func (c *SocketConfig) check() error {
	if c.FrameSize == 0 {
		c.FrameSize = 2048
	}
	switch {
	case c.FrameSize != 2048 && c.FrameSize != 4096:
		return badField("FrameSize", "%d: want 2048 or 4096", c.FrameSize)
	case c.Queue < 0:
		return badField("Queue", "%d is negative", c.Queue)
	case c.TxFrames < 0 || c.RxFrames < 0 || c.TxFrames+c.RxFrames == 0:
		return badField("TxFrames", "%d and RxFrames %d: want some of either", c.TxFrames, c.RxFrames)
	case c.Mode < ZeroCopyPreferred || c.Mode > CopyOnly:
		return badField("Mode", "%v", c.Mode)
	case c.BusyPoll.Time < 0 || c.BusyPoll.Time > time.Second || c.BusyPoll.Budget < 0 || c.BusyPoll.Budget > 1<<15:
		return badField("BusyPoll", "%+v: want a time up to 1s and a budget up to %d", c.BusyPoll, 1<<15)
	}
	for _, r := range []struct {
		name   string
		size   *int
		frames int
	}{
		{"TxRing", &c.TxRing, c.TxFrames},
		{"CompletionRing", &c.CompletionRing, c.TxFrames},
		{"RxRing", &c.RxRing, c.RxFrames},
		{"FillRing", &c.FillRing, c.RxFrames},
	} {
		if r.frames > maxRing {
			return badField(r.name, "for %d frames: want up to %d", r.frames, maxRing)
		}
		if *r.size == 0 {
			*r.size = powerOfTwoAtLeast(max(r.frames, 2))
		}
		// The kernel says EINVAL: xsk_init_queue.
		if !isPowerOfTwo(*r.size) || *r.size > maxRing {
			return badField(r.name, "%d: want a power of two up to %d", *r.size, maxRing)
		}
	}
	return nil
}

// explainXDP puts the sentinel, and what to do, around the error of one step of
// opening a socket. Paths are those of Linux 6.x.
func explainXDP(step string, err error, c *SocketConfig) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return fmt.Errorf("%s: %w", step, err)
	}
	size := c.FrameSize * (c.TxFrames + c.RxFrames)
	switch {
	case errno == unix.EAFNOSUPPORT:
		return fmt.Errorf("%w: %s: the kernel is built without CONFIG_XDP_SOCKETS (%w)", ErrUnsupported, step, errno)
	case isPermission(errno) && step == "make a socket": // xsk_create
		return fmt.Errorf("%w: %s: CAP_NET_RAW is needed (%w)", ErrPermission, step, errno)
	case isPermission(errno): // busy polling beyond net.core.busy_read: sk_setsockopt
		return fmt.Errorf("%w: %s: CAP_NET_ADMIN is needed (%w)", ErrPermission, step, errno)
	case errno == unix.ENOBUFS && step == "register packet memory": // xdp_umem_account_pages
		return fmt.Errorf("%w: %s: %d KiB are needed and RLIMIT_MEMLOCK is %s: raise it (ulimit -l, LimitMEMLOCK=), or run with CAP_IPC_LOCK (%w)",
			ErrMemlock, step, size>>10, memlockLimit(), errno)
	case step != "bind":
		return fmt.Errorf("%s: %w", step, classify(errno))
	case errno == unix.EBUSY: // xp_assign_dev, xsk_reg_pool_at_qid
		return fmt.Errorf("%w: queue %d has an AF_XDP socket of another program, or of this one (%w)", ErrQueueBusy, c.Queue, errno)
	case c.Mode == ZeroCopyRequired && isNoZeroCopy(errno):
		return fmt.Errorf("%w: the driver of %s cannot do it on queue %d, or not with this MTU or program (%w)", ErrZeroCopy, c.Interface, c.Queue, errno)
	case errno == unix.EINVAL: // xsk_reg_pool_at_qid
		return fmt.Errorf("%w: queue %d: the device has fewer queues, see ethtool -l %s (%w)", ErrConfig, c.Queue, c.Interface, errno)
	}
	return fmt.Errorf("%s: %w", step, classify(errno))
}

func memlockLimit() string {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
		return "unknown"
	}
	if l.Cur == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return fmt.Sprintf("%d KiB", l.Cur>>10)
}
