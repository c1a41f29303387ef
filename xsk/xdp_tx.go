package xsk

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// XDPTx is a Tx over an AF_XDP socket. See Tx for who may use it. OpenXDPTx
// makes one; the zero value is not usable.
//
// A message becomes one packet for each destination: its own frame for the
// last, and a copy of it for each other. Packets lie in the TX ring in the order
// of the Commits; msgs remembers which message ends where.
type XDPTx struct {
	cfg    XDPConfig
	info   XDPInfo
	link   *link
	socket *Socket
	q      *TxQueue
	prog   *Program // attached for the driver's sake, or nil
	dests  []xdpDest
	nl     *nlConn

	lent  bool
	frame uint32 // the frame lent
	buf   []byte // all of it

	// Messages committed that are not through: a ring, numbered from 0.
	msgs       []xdpMessage
	head, tail uint32

	settled uint32 // index in the TX ring up to which packets are counted
	drops   uint32 // packets dropped that the kernel's index does not show yet

	sums       bool // packets have UDP checksums
	peers      bool // there are unicast destinations
	unresolved int  // so many of them have no way

	mtu         int // of the interface now
	down        bool
	lastCheck   time.Time // of the link
	lastPeers   time.Time // of routes and neighbours
	lastDial    time.Time // of source addresses
	unaddressed time.Time // since when the interface has no address to send from
	dropSeen    bool      // the driver dropped a packet in this Flush
	broken      error     // the kernel refuses the ring
	closed      bool

	n   TxStats
	pub shown[TxStats]

	errDropped error // made once
	errq       errQueue
	look       func() error // at the link; replaced in tests
}

// xdpMessage is a message that is committed and not through.
type xdpMessage struct {
	end     uint32 // index in the TX ring behind its last packet
	frame   uint32 // that holds the message: that of its last packet
	size    int32  // bytes
	packets uint16 // in the ring
	failed  uint16 // destinations that will not get it
}

// OpenXDPTx opens a sender. The error is an *Error that is one of ErrConfig,
// ErrInterface, ErrLinkDown, ErrNoAddress, ErrMTU, ErrNoRoute, ErrPermission,
// ErrUnsupported, ErrZeroCopy, ErrQueueBusy, ErrMemlock, or something unforeseen.
func OpenXDPTx(cfg XDPConfig) (_ *XDPTx, err error) {
	t := &XDPTx{cfg: cfg}
	defer func() {
		if err != nil {
			t.Close()
			err = &Error{Op: opOpenXDPTx, Interface: cfg.Interface, Err: err}
		}
	}()
	if err := t.cfg.check(true); err != nil {
		return nil, err
	}
	c := &t.cfg
	ifi, err := findInterface(c.Interface)
	if err != nil {
		return nil, err
	}
	if err := c.fit(ifi); err != nil {
		return nil, err
	}
	mac, err := sourceMAC(ifi)
	if err != nil {
		return nil, err
	}
	if t.link, err = newLink("send", ifi); err != nil {
		return nil, err
	}
	if t.nl, err = newNlConn(unix.NETLINK_ROUTE); err != nil {
		return nil, err
	}
	queue := 0
	if len(c.Queues) > 0 {
		queue = c.Queues[0]
	}
	t.info = XDPInfo{
		Interface: ifi.Name, Index: ifi.Index, MTU: ifi.MTU, MaxPayload: c.MaxPayload,
		Queues: []int{queue}, FrameSize: c.FrameSize, Frames: c.TxFrames,
	}
	t.mtu = ifi.MTU
	if err := t.openSocket(queue); err != nil {
		return nil, err
	}
	u := c.udp()
	for _, addr := range u.dests() {
		d, err := t.openDest(ifi, mac, addr)
		if err != nil {
			return nil, err
		}
		t.dests = append(t.dests, d)
		t.info.Dests = append(t.info.Dests, addr)
		t.info.Local = append(t.info.Local, d.head.src)
	}
	t.msgs = make([]xdpMessage, c.TxFrames)
	t.lastCheck = time.Now()
	t.lastDial = t.lastCheck
	t.settled = t.q.ring.seen
	t.look = t.lookAtLink
	t.errDropped = &Error{Op: "send", Interface: ifi.Name, Err: fmt.Errorf("packets were dropped by the driver: its queue is full (%w)", unix.EBUSY)}
	t.resolveAtOpen()
	return t, nil
}

// openSocket opens the AF_XDP socket. Some drivers let a socket send in
// zero-copy mode only with a program attached, so there one is attached first:
// one that takes nothing, since its map stays empty.
func (t *XDPTx) openSocket(queue int) error {
	c := &t.cfg
	facts, err := device(t.info.Index)
	if err != nil {
		return err
	}
	// The kernel lets a socket bind to a queue that can only receive, and
	// then never sends: __xsk_generic_xmit.
	if facts.TxQueues > 0 && queue >= facts.TxQueues {
		return badField("Queues", "has queue %d: the device has %d to send, from 0 on", queue, facts.TxQueues)
	}
	may := !facts.FeaturesKnown || facts.Features&xdpActXSKZeroCopy != 0
	if c.Mode != CopyOnly && may && c.Program == nil {
		first := ProgramConfig{Interface: c.Interface, Group: netip.AddrFrom4([4]byte{224, 0, 0, 81}), FirstPort: 1, PinnedMap: c.PinnedMap}
		// Somebody else's serves as well; without any, the test kick tells.
		t.prog, _ = OpenProgram(first)
	}
	rxFrames := 0
	if c.Mode != CopyOnly && may {
		// A driver in zero-copy mode may take the receive queue of the same number
		// along, and receive by this socket's fill ring. It shall have frames, so
		// that what arrives goes on to the network stack, as the program says.
		rxFrames = c.RxFrames
	}
	s := SocketConfig{
		Interface: c.Interface, Queue: queue, TxFrames: c.TxFrames, RxFrames: rxFrames, FrameSize: c.FrameSize,
		Mode: c.Mode, BusyPoll: c.BusyPoll,
		TxMetadata: c.Checksum == ChecksumAuto || c.Checksum == ChecksumOffload,
	}
	t.socket, err = OpenSocket(s)
	copies := err == nil && !t.socket.ZeroCopy()
	if rxFrames > 0 && (copies || c.Mode == ZeroCopyPreferred && errors.Is(err, ErrMemlock)) {
		if copies { // nobody needs the frames to receive into
			t.socket.Close()
			t.socket.Unmap()
		}
		s.Mode, s.RxFrames = CopyOnly, 0
		t.socket, err = OpenSocket(s)
	}
	if err != nil {
		return err
	}
	if err := t.chooseChecksum(facts); err != nil {
		return err
	}
	t.q = t.socket.Tx()
	t.info.ZeroCopy = t.socket.ZeroCopy()
	t.info.WhyCopy = whyCopy(c, facts, t.info.ZeroCopy, false)
	if t.prog != nil && !t.info.ZeroCopy {
		t.prog.Close() // in copy mode nobody needs it
		t.prog = nil
	}
	if t.prog != nil {
		t.info.Program = t.prog.Info()
	}
	return nil
}

// whyCopy explains the mode that was got.
func whyCopy(c *XDPConfig, facts deviceFacts, zeroCopy, generic bool) string {
	switch {
	case zeroCopy || c.Mode == CopyOnly:
		return ""
	case generic:
		return "the XDP program is not the driver's"
	case facts.FeaturesKnown && facts.Features&xdpActXSKZeroCopy == 0:
		return "the driver has no zero-copy"
	}
	return "the driver refused zero-copy for this queue, MTU or program"
}

// Info tells what was chosen and what was got. Safe from any goroutine.
func (t *XDPTx) Info() XDPInfo { return t.info }

// KernelStats returns the kernel's counters of the socket. Safe from any
// goroutine, also after Close.
func (t *XDPTx) KernelStats() KernelStats { return t.socket.Stats() }

// MaxPayload implements Tx.
func (t *XDPTx) MaxPayload() int { return t.cfg.MaxPayload }

// Next implements Tx.
func (t *XDPTx) Next() ([]byte, error) {
	if !t.lent {
		switch {
		case t.closed:
			return nil, ErrClosed
		case t.tail-t.head == uint32(len(t.msgs)):
			return nil, ErrNoFrame // only with messages that had no packet
		}
		// Commit must not fail: all frames and entries are secured here.
		if n := len(t.dests); !t.q.Room(n) || len(t.q.pool.free) < n && (t.q.Reap() == 0 || len(t.q.pool.free) < n) {
			return nil, ErrNoFrame
		}
		t.frame, t.buf, _ = t.q.Get()
		t.lent = true
	}
	return t.buf[headerRoom : headerRoom+t.cfg.MaxPayload : headerRoom+t.cfg.MaxPayload], nil
}

// Commit implements Tx.
func (t *XDPTx) Commit(n int) {
	if !t.lent {
		panic("xsk: Commit without a buffer lent by Next")
	}
	if n < 0 || n > t.cfg.MaxPayload {
		panic(fmt.Sprintf("xsk: Commit of %d bytes, a message may have 0 to %d", n, t.cfg.MaxPayload))
	}
	t.lent = false
	m := xdpMessage{frame: t.frame, size: int32(n)}
	payload := t.buf[headerRoom : headerRoom+n]
	var sum uint64
	if t.sums {
		sum = sum64(payload, 0)
	}
	last := -1
	for i := range t.dests {
		d := &t.dests[i]
		switch {
		case !d.resolved:
			m.failed++
			d.missed++
			t.n.Errors++
		case d.tmpl.n-d.tmpl.ip+n > t.mtu:
			m.failed++
			d.tooBig++
			t.n.TooBig++
		default:
			if last >= 0 { // the one before is not the last one
				frame, buf, _ := t.q.Get()
				copy(buf[headerRoom:], payload)
				t.queue(&t.dests[last].tmpl, frame, buf, n, sum)
			}
			last = i
			m.packets++
		}
	}
	if last >= 0 {
		t.queue(&t.dests[last].tmpl, t.frame, t.buf, n, sum)
	}
	m.end = t.q.ring.next
	*t.msg(t.tail) = m
	t.tail++
	t.n.Messages++
	t.n.Bytes += uint64(n)
}

// queue puts headers in front of the message in buf and queues the packet. Next
// made sure that there is room.
func (t *XDPTx) queue(h *template, frame uint32, buf []byte, n int, sum uint64) {
	start := headerRoom - h.n
	h.seal(buf[start:headerRoom], n, sum)
	if h.meta {
		putMetadata(buf[start-txMetadataLen:start], h.n-udpLen)
		t.q.QueueMeta(frame, start, h.n+n)
		return
	}
	t.q.Queue(frame, start, h.n+n)
}

// Pending implements Tx.
func (t *XDPTx) Pending() int { return int(t.tail - t.head) }

// Close implements Tx. A buffer lent by Next must not be touched any more.
func (t *XDPTx) Close() error {
	if t.closed {
		return nil
	}
	t.closed = true
	var err error
	if t.q != nil {
		t.q.Reap()
		t.q.ring.refresh()
		t.settle()
		t.discard()
	}
	for i := range t.dests {
		t.drain(&t.dests[i])
		if t.dests[i].nudge >= 0 {
			unix.Close(t.dests[i].nudge)
		}
		if e := unix.Close(t.dests[i].fd); e != nil && err == nil {
			err = &Error{Op: "close AF_XDP sender", Interface: t.info.Interface, Err: e}
		}
	}
	if t.socket != nil {
		if e := t.socket.Close(); e != nil && err == nil {
			err = e
		}
		t.socket.Unmap()
		t.q = nil
	}
	if t.prog != nil {
		if e := t.prog.Close(); e != nil && err == nil {
			err = e
		}
	}
	t.nl.close()
	t.lent, t.buf = false, nil
	t.publish()
	return err
}

// Stats implements Tx.
func (t *XDPTx) Stats() TxStats { return t.pub.get() }

func (t *XDPTx) publish() { t.pub.set(&t.n) }

// shown is a copy of counters for other goroutines, brought up to date once per
// batch. The lock is hardly ever contended, and costs as much as two stores.
type shown[T any] struct {
	mu sync.Mutex
	v  T
}

func (s *shown[T]) set(v *T) {
	s.mu.Lock()
	s.v = *v
	s.mu.Unlock()
}

func (s *shown[T]) get() T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.v
}

var _ Tx = (*XDPTx)(nil)
