package xsk

import (
	"errors"
	"fmt"
	"net"
	"sync"
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

	// Program feeds the receiving half; it must serve Interface. nil: none,
	// and nothing is received.
	Program *Program
}

// maxRing bounds the rings: beyond it the kernel would allocate for long.
const maxRing = 1 << 20

func (c *SocketConfig) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...)
	}
	if c.FrameSize == 0 {
		c.FrameSize = 2048
	}
	switch {
	case c.FrameSize != 2048 && c.FrameSize != 4096:
		return bad("FrameSize %d: want 2048 or 4096", c.FrameSize)
	case c.Queue < 0:
		return bad("Queue %d is negative", c.Queue)
	case c.TxFrames < 0 || c.RxFrames < 0 || c.TxFrames+c.RxFrames == 0:
		return bad("%d frames to send and %d to receive: want some of either", c.TxFrames, c.RxFrames)
	case c.Mode < ZeroCopyPreferred || c.Mode > CopyOnly:
		return bad("Mode %v", c.Mode)
	case c.BusyPoll.Time < 0 || c.BusyPoll.Time > time.Second || c.BusyPoll.Budget < 0 || c.BusyPoll.Budget > 1<<15:
		return bad("BusyPoll %+v: want a time up to 1s and a budget up to %d", c.BusyPoll, 1<<15)
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
			return bad("%d frames: want up to %d", r.frames, maxRing)
		}
		if *r.size == 0 {
			*r.size = powerOfTwoAtLeast(max(r.frames, 2))
		}
		// The kernel says EINVAL: xsk_init_queue.
		if !isPowerOfTwo(*r.size) || *r.size > maxRing {
			return bad("%s %d: want a power of two up to %d", r.name, *r.size, maxRing)
		}
	}
	return nil
}

// Socket is an AF_XDP socket, bound to one queue of one device, with its packet
// memory and rings. Its halves may be used by two goroutines. OpenSocket makes
// one; the zero value is not usable.
type Socket struct {
	cfg  SocketConfig
	ifi  *net.Interface
	zc   bool
	umem *UMEM
	tx   *TxQueue
	rx   *RxQueue

	mu     sync.RWMutex // held for reading while fd is used by Stats, for writing by Close
	fd     int
	rings  [][]byte // mappings
	last   unix.XDPStatistics
	closed bool
}

// bindPatience is how long a socket waits for its queue. When a socket on it has
// just been closed, the kernel lets go of it some 20 ms later.
const bindPatience = time.Second

// OpenSocket opens a socket, in the order that af_xdp.rst asks for: memory,
// rings, fill ring filled, bound, and only then entered into the program's map.
// What was done is undone in reverse if a step fails. The error is an *Error.
func OpenSocket(cfg SocketConfig) (*Socket, error) {
	s := &Socket{cfg: cfg, fd: -1}
	if err := s.open(); err != nil {
		s.Close()
		s.umem.release()
		return nil, &Error{Op: fmt.Sprintf("open AF_XDP socket for queue %d", cfg.Queue), Interface: cfg.Interface, Err: err}
	}
	return s, nil
}

func (u *UMEM) release() {
	if u != nil {
		u.unmap()
	}
}

func (s *Socket) open() (err error) {
	c := &s.cfg
	if err := c.check(); err != nil {
		return err
	}
	if s.ifi, err = findInterface(c.Interface); err != nil {
		return err
	}
	if s.fd, err = unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		s.fd = -1
		return explainXDP("make a socket", err, c)
	}
	if s.umem, err = newUMEM(c.FrameSize, c.TxFrames, c.RxFrames); err != nil {
		return err
	}
	if err := registerUMEM(s.fd, s.umem); err != nil {
		return explainXDP("register packet memory", err, c)
	}
	if err := s.makeRings(); err != nil {
		return err
	}
	if err := s.tune(); err != nil {
		return err
	}
	if s.rx != nil {
		s.rx.Refill()
	}
	if err := s.bind(); err != nil {
		return err
	}
	flags, err := xdpOptions(s.fd)
	if err != nil {
		return explainXDP("read XDP_OPTIONS", err, c)
	}
	s.zc = flags&unix.XDP_OPTIONS_ZEROCOPY != 0
	if s.tx != nil {
		s.tx.zc = s.zc
	}
	if s.rx != nil && c.Program != nil {
		if err := c.Program.register(c.Queue, s.fd); err != nil {
			return err
		}
	}
	return s.testKick()
}

// makeRings makes and maps the rings. The kernel wants a fill and a completion
// ring of every socket (xsk_validate_queues), but nobody has to map them.
func (s *Socket) makeRings() error {
	c := &s.cfg
	type ring struct {
		name   string
		option int
		size   int
		want   bool
	}
	for _, r := range []ring{
		{"fill ring", unix.XDP_UMEM_FILL_RING, c.FillRing, true},
		{"completion ring", unix.XDP_UMEM_COMPLETION_RING, c.CompletionRing, true},
		{"RX ring", unix.XDP_RX_RING, c.RxRing, c.RxFrames > 0},
		{"TX ring", unix.XDP_TX_RING, c.TxRing, c.TxFrames > 0},
	} {
		if !r.want {
			continue
		}
		if err := unix.SetsockoptInt(s.fd, unix.SOL_XDP, r.option, r.size); err != nil {
			return explainXDP(fmt.Sprintf("make a %s of %d entries", r.name, r.size), err, c)
		}
	}
	o, err := ringOffsets(s.fd)
	if err != nil {
		return explainXDP("read XDP_MMAP_OFFSETS", err, c)
	}
	if n := c.TxFrames; n > 0 {
		tx := &TxQueue{pool: newFramePool(s.umem.mem[:n*c.FrameSize], 0, c.FrameSize, n)}
		ring, err := mapOne[unix.XDPDesc](s, "TX ring", unix.XDP_PGOFF_TX_RING, o.Tx, c.TxRing)
		if err != nil {
			return err
		}
		comp, err := mapOne[uint64](s, "completion ring", unix.XDP_UMEM_PGOFF_COMPLETION_RING, o.Cr, c.CompletionRing)
		if err != nil {
			return err
		}
		tx.ring, tx.comp = newProdRing(ring), newConsRing(comp)
		fd := s.fd
		tx.kick = func() unix.Errno { return sendKick(fd) }
		s.tx = tx
	}
	if n := c.RxFrames; n > 0 {
		base := c.TxFrames * c.FrameSize
		rx := &RxQueue{pool: newFramePool(s.umem.mem[base:], uint64(base), c.FrameSize, n)}
		ring, err := mapOne[unix.XDPDesc](s, "RX ring", unix.XDP_PGOFF_RX_RING, o.Rx, c.RxRing)
		if err != nil {
			return err
		}
		fill, err := mapOne[uint64](s, "fill ring", unix.XDP_UMEM_PGOFF_FILL_RING, o.Fr, c.FillRing)
		if err != nil {
			return err
		}
		rx.ring, rx.fill = newConsRing(ring), newProdRing(fill)
		fd := s.fd
		rx.wake = func() { receiveKick(fd) }
		s.rx = rx
	}
	return nil
}

func mapOne[T ringEntry](s *Socket, name string, page int64, o unix.XDPRingOffset, n int) (ringView[T], error) {
	v, mem, err := mapRing[T](s.fd, page, o, n)
	if err != nil {
		return v, explainXDP("map the "+name, err, &s.cfg)
	}
	s.rings = append(s.rings, mem)
	return v, nil
}

// solXDPMaxTxSkbBudget: see copyBudget. Linux 6.17.
const solXDPMaxTxSkbBudget = unix.XDP_MAX_TX_SKB_BUDGET

// tune sets what older kernels need not have, and what was asked for.
func (s *Socket) tune() error {
	if s.tx != nil {
		// Refused by older kernels, and for rings below 32 entries (EACCES).
		_ = unix.SetsockoptInt(s.fd, unix.SOL_XDP, solXDPMaxTxSkbBudget, s.cfg.TxRing)
		// In copy mode packets in flight count against the send buffer,
		// with overhead: sock_alloc_send_pskb. What is in the ring should fit.
		bytes := min(s.cfg.TxFrames*(s.cfg.FrameSize+2048), 1<<30)
		if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, bytes/2) != nil {
			_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, bytes/2)
		}
	}
	b := s.cfg.BusyPoll
	if b.Time == 0 {
		return nil
	}
	if b.Budget == 0 {
		b.Budget = 64
	}
	for _, o := range []struct {
		name          string
		option, value int
	}{
		{"SO_PREFER_BUSY_POLL", unix.SO_PREFER_BUSY_POLL, 1},
		{"SO_BUSY_POLL", unix.SO_BUSY_POLL, max(int(b.Time/time.Microsecond), 1)},
		{"SO_BUSY_POLL_BUDGET", unix.SO_BUSY_POLL_BUDGET, b.Budget},
	} {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, o.option, o.value); err != nil {
			return explainXDP(o.name, err, &s.cfg)
		}
	}
	return nil
}

// bind binds the socket to its queue, and waits a while for one just closed.
func (s *Socket) bind() error {
	c := &s.cfg
	sa := &unix.SockaddrXDP{Flags: unix.XDP_USE_NEED_WAKEUP, Ifindex: uint32(s.ifi.Index), QueueID: uint32(c.Queue)}
	switch {
	case c.Mode == ZeroCopyRequired:
		sa.Flags |= unix.XDP_ZEROCOPY
	case c.Mode == CopyOnly, c.Program != nil && c.Program.info.Generic:
		sa.Flags |= unix.XDP_COPY // zero-copy goes past a generic program
	}
	pause := time.Millisecond
	for end := time.Now().Add(bindPatience); ; {
		err := unix.Bind(s.fd, sa)
		if err == nil {
			return nil
		}
		if err == unix.EINTR {
			continue
		}
		if err != unix.EBUSY || time.Now().After(end) {
			return explainXDP("bind", err, c)
		}
		time.Sleep(pause)
		pause = min(2*pause, 50*time.Millisecond)
	}
}

// testKick finds out at once whether the driver lets the socket send.
func (s *Socket) testKick() error {
	if s.tx == nil {
		return nil
	}
	errno := s.tx.kick()
	if errno == 0 || isBackPressure(errno) || errno == unix.EINTR || isLinkDown(errno) {
		return nil
	}
	return explainXDP("first wake-up", errno, &s.cfg)
}

// Tx returns the sending half, nil if there is none. It must not be used after Close.
func (s *Socket) Tx() *TxQueue { return s.tx }

// Rx returns the receiving half, nil if there is none. It must not be used after Close.
func (s *Socket) Rx() *RxQueue { return s.rx }

// UMEM returns the packet memory.
func (s *Socket) UMEM() *UMEM { return s.umem }

// ZeroCopy reports whether the driver works on the packet memory directly.
func (s *Socket) ZeroCopy() bool { return s.zc }

// Queue returns the number of the device queue.
func (s *Socket) Queue() int { return s.cfg.Queue }

// Fd returns the descriptor, for poll, or -1 after Close.
func (s *Socket) Fd() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.fd
}

// KernelStats are the counters that the kernel keeps of one socket
// (XDP_STATISTICS): what it dropped has no other trace.
type KernelStats struct {
	RxDropped   uint64 // packets dropped: too long for a frame, or the fill ring was empty
	RxRingFull  uint64 // packets dropped because the RX ring was full
	RxFillEmpty uint64 // times that the fill ring was empty
	RxInvalid   uint64 // entries of the fill ring that were no frames
	TxInvalid   uint64 // descriptors that the kernel refused
	TxRingEmpty uint64 // times that the kernel found nothing more to send
}

// Stats reads the kernel's counters. Safe from any goroutine, also after Close:
// they are then as they were last.
func (s *Socket) Stats() KernelStats {
	s.mu.RLock()
	st := new(unix.XDPStatistics)
	*st = s.last
	if s.fd >= 0 {
		_ = xdpStatistics(s.fd, st) // cannot fail on an open socket of a kernel that has it
	}
	s.mu.RUnlock()
	return kernelStats(st)
}

func kernelStats(st *unix.XDPStatistics) KernelStats {
	return KernelStats{
		RxDropped: st.Rx_dropped, RxRingFull: st.Rx_ring_full, RxFillEmpty: st.Rx_fill_ring_empty_descs,
		RxInvalid: st.Rx_invalid_descs, TxInvalid: st.Tx_invalid_descs, TxRingEmpty: st.Tx_ring_empty_descs,
	}
}

// Close unmaps the rings and closes the socket; the kernel takes it out of the
// program's map. The packet memory stays mapped for slices still lent, until
// Unmap. Nobody may be using the halves. More than one call is fine.
func (s *Socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.fd >= 0 {
		_ = xdpStatistics(s.fd, &s.last)
	}
	// Every mapping keeps the socket, and so the queue, alive.
	var first error
	for _, mem := range s.rings {
		if err := unix.Munmap(mem); err != nil && first == nil {
			first = err
		}
	}
	s.rings, s.tx, s.rx = nil, nil, nil
	if s.fd >= 0 {
		if err := unix.Close(s.fd); err != nil && first == nil {
			first = err
		}
		s.fd = -1
	}
	if first != nil {
		first = &Error{Op: "close AF_XDP socket", Interface: s.cfg.Interface, Err: first}
	}
	return first
}

// Unmap lets the packet memory go, after Close. Slices into it must not be
// used any more.
func (s *Socket) Unmap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed && s.umem != nil {
		s.umem.unmap()
	}
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
