package xsk

import (
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Socket is an AF_XDP socket, bound to one queue of one device, with its packet
// memory and rings. Its halves may be used by two goroutines. OpenSocket makes
// one; the zero value is not usable.
type Socket struct {
	cfg  SocketConfig
	ifi  *net.Interface
	zc   bool
	meta bool // TX metadata
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
		if s.umem != nil {
			s.umem.unmap()
		}
		return nil, &Error{Op: fmt.Sprintf("open AF_XDP socket for queue %d", cfg.Queue), Interface: cfg.Interface, Err: err}
	}
	return s, nil
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
	if s.meta = c.TxMetadata && c.TxFrames > 0 && registerUMEM(s.fd, s.umem, true) == nil; !s.meta {
		if err := registerUMEM(s.fd, s.umem, false); err != nil {
			return explainXDP("register packet memory", err, c)
		}
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

// TxMetadata reports whether packets may be queued with metadata in front of
// them: TxQueue.QueueMeta. What of it a driver in zero-copy mode understands is
// another question.
func (s *Socket) TxMetadata() bool { return s.meta }

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
