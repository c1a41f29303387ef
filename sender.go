package ipvsync

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
)

// The way of an update, from a worker of the load balancer to the network.
//
//  1. Publish (shard.go) encodes the update into a ring of a shard, in wire
//     form. Workers run side by side; nobody waits, a full ring refuses.
//  2. The transmit loop of the shard's port (port.go), one goroutine on a thread
//     of its own, takes the records of all its rings in turn and copies each
//     into the open message, which lies in the transport's frame from its first
//     byte. With coalescing, they wait in a window before that (coalesce.go).
//  3. A message that is full, old enough or asked for by Flush is sealed and
//     committed to the transport, which hands it to the kernel (transmit.go).
//     Only this stage waits for the network; while it does, records wait in the
//     rings.

// Sender sends connection updates to backups. NewSender makes one; its methods
// may be called from any goroutine.
type Sender struct {
	cfg    SenderConfig
	shards []*Shard
	ports  []*port

	closed    atomic.Bool // written by Close; Publish refuses from then on
	closeOnce sync.Once
	closeErr  error
}

// NewSender opens the transports and starts the transmit loops. Errors are a
// *ConfigError, or those of package xsk.
func NewSender(cfg SenderConfig) (_ *Sender, err error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	s := &Sender{cfg: cfg}
	defer func() {
		if err != nil {
			for _, p := range s.ports {
				p.tx.Close()
			}
		}
	}()
	for i := range cfg.Ports {
		p, err := newPort(s, i)
		if err != nil {
			return nil, err
		}
		s.ports = append(s.ports, p)
	}
	for i := range cfg.Shards {
		sh, err := newShard(s, s.ports[i%cfg.Ports])
		if err != nil {
			return nil, err
		}
		s.shards = append(s.shards, sh)
	}
	for _, p := range s.ports {
		go p.run()
	}
	return s, nil
}

// DefaultMaxSize is the message limit of a Sender on the interface: that of a
// Linux master, 1500 less the headers of IP and UDP (start_sync_thread in
// ip_vs_sync.c), or less, so that no packet is fragmented. 0 if there is no such
// interface.
func DefaultMaxSize(iface string, group netip.Addr, peers []netip.AddrPort) int {
	ifi, err := net.InterfaceByName(iface)
	if err != nil {
		return 0
	}
	overhead := xsk.Overhead4
	if group.Is6() || slices.ContainsFunc(peers, func(p netip.AddrPort) bool { return p.Addr().Is6() }) {
		overhead = xsk.Overhead6
	}
	return min(ifi.MTU, 1500) - overhead
}

// Modes tells, for each port, by which mode it sends now, and why by none that
// is preferred to it. The Choice is empty for a transport of OpenTx.
func (s *Sender) Modes() []xsk.Choice {
	var all []xsk.Choice
	for _, p := range s.ports {
		p.mu.Lock()
		all = append(all, p.choice)
		p.mu.Unlock()
	}
	return all
}

// Shards is the number of single-producer handles.
func (s *Sender) Shards() int { return len(s.shards) }

// Shard is the single-producer handle i, from 0 to Shards()−1. It panics for
// another i, as an index would.
func (s *Sender) Shard(i int) *Shard { return s.shards[i] }

// Publish sends an update from any goroutine. It does not wait for the network
// and keeps nothing of c. Updates of one flow leave in the order in which they
// were published, as long as all of them come through Publish, or all through
// one and the same Shard.
//
// The error says why the update was dropped, and counted: ErrRingFull,
// ErrClosed, or a *encoder.FieldError for what cannot be encoded.
func (s *Sender) Publish(c *Conn) error {
	return s.PublishPriority(c, Update)
}

// PublishPriority is Publish with another priority than Update. It panics for one
// that there is not, as an index would.
func (s *Sender) PublishPriority(c *Conn, p Priority) error {
	return s.shards[s.shardOf(c)].publishShared(c, p)
}

// PublishBatch sends updates from any goroutine, as Publish does one after the
// other, but those of one shard together: the more of them a shard gets, the less they
// cost. That is for IPv4 without options; the others cost what they cost by Publish,
// and up to a fifth more for being dealt out. It returns how many were taken. The others
// were dropped, and counted; the error is that of one of them. Updates are dealt out
// to the shards 64 at a time: after one ErrRingFull, the rest of that shard's among
// the 64 may be dropped as ring_full without a try, shorter records that would still
// have fitted included.
func (s *Sender) PublishBatch(conns []Conn) (n int, err error) {
	return s.PublishBatchPriority(conns, Update)
}

// PublishBatchPriority is PublishBatch with another priority than Update. It panics
// for one that there is not, as an index would.
func (s *Sender) PublishBatchPriority(conns []Conn, p Priority) (n int, err error) {
	for len(conns) > 0 {
		part := conns[:min(len(conns), batchPart)]
		conns = conns[len(part):]
		k, e := s.publishPart(part, p)
		n += k
		if err == nil {
			err = e
		}
	}
	return n, err
}

// batchPart is how many updates of a batch are dealt out to shards at a time: a bit
// each.
const batchPart = 64

func (s *Sender) publishPart(part []Conn, p Priority) (n int, err error) {
	switch {
	case len(s.shards) == 1:
		return s.shards[0].publishSome(part, ^uint64(0)>>(64-len(part)), p)
	case len(part) < 2*len(s.shards): // too few for groups
		for i := range part {
			if e := s.PublishPriority(&part[i], p); e == nil {
				n++
			} else if err == nil {
				err = e
			}
		}
		return n, err
	}
	var some [batchPart / 2]uint64 // of each shard, which updates
	used := uint32(0)
	for i := range part {
		shard := s.shardOf(&part[i])
		some[shard] |= 1 << i
		used |= 1 << shard
	}
	for ; used != 0; used &= used - 1 {
		shard := bits.TrailingZeros32(used)
		k, e := s.shards[shard].publishSome(part, some[shard], p)
		n += k
		if err == nil {
			err = e
		}
	}
	return n, err
}

// shardOf is the number of the shard to which updates of the flow of c go that
// anybody publishes.
func (s *Sender) shardOf(c *Conn) int {
	if len(s.shards) == 1 {
		return 0
	}
	i, _ := bits.Mul64(flowHash(c), uint64(len(s.shards))) // as even as the remainder, without a division
	return int(i)
}

// Flush sends everything that was published before the call, without waiting
// for messages to fill. It returns when the network has taken it: nil, or
// ErrLost if the transport gave up any message meanwhile; what it gave up before
// the call, only the counters tell. If ctx is done before,
// the error wraps that of ctx, and of the transport if it fails.
func (s *Sender) Flush(ctx context.Context) error {
	if s.closed.Load() {
		return fmt.Errorf("flush: %w", ErrClosed)
	}
	calls := make([]*flushCall, len(s.ports))
	for i, p := range s.ports {
		calls[i] = &flushCall{ctx: ctx, done: make(chan error, 1)}
		select {
		case p.flushes <- calls[i]:
		case <-p.ended:
			return fmt.Errorf("flush: %w", ErrClosed)
		case <-ctx.Done():
			return fmt.Errorf("flush: %w", ctx.Err())
		}
		p.alarm.ring()
	}
	var errs []error
	for i, p := range s.ports {
		select {
		case err := <-calls[i].done:
			errs = append(errs, err)
		case <-p.ended: // Close sends everything that it can, too
			errs = append(errs, p.closeErr)
		case <-ctx.Done():
			return fmt.Errorf("flush: %w", errors.Join(ctx.Err(), p.lastError()))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// Close sends what is in the rings, waits for the network to take it, at most
// for CloseTimeout, and lets everything go. What could not be sent is counted
// as dropped; the error then says how much, and wraps ErrLost if the transport gave
// up any since the Sender was made. Updates published meanwhile and later are
// refused. A further Close returns the same.
func (s *Sender) Close() error {
	s.closeOnce.Do(func() {
		s.closed.Store(true)
		for _, p := range s.ports {
			close(p.closing)
			p.alarm.ring()
		}
		var errs []error
		for _, p := range s.ports {
			<-p.ended
			errs = append(errs, p.closeErr)
		}
		s.closeErr = errors.Join(errs...)
	})
	return s.closeErr
}

// version of the protocol that this Sender speaks.
func (s *Sender) version() encoder.Version { return s.cfg.version() }
