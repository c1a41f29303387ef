package ipvsync

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
)

// The way of an update, from a worker of the load balancer to the network.
//
//  1. Publish (shard.go) encodes the update into the ring of the shard, in wire
//     form. Workers run side by side, each with a shard of its own; nobody
//     waits, a full ring refuses.
//  2. The transmit loop (transmit.go), one goroutine, takes the records of all
//     rings in turn and copies each into the open message, which lies in the
//     transport's frame from its first byte.
//  3. A message that is full, old enough or asked for by Flush is sealed and
//     committed to the transport, which hands it to the kernel. Only this stage
//     waits for the network; while it does, records wait in the rings.

// Sender sends connection updates to backups. NewSender makes one; its methods
// may be called from any goroutine.
type Sender struct {
	cfg    SenderConfig
	shards []*Shard
	shared []sharedShard
	loop   *transmitLoop

	closed    atomic.Bool // written by Close; Publish refuses from then on
	closeOnce sync.Once
	closeErr  error
}

// sharedShard is a shard for publishers that have none of their own.
type sharedShard struct {
	mu    sync.Mutex
	shard *Shard
	_     [128]byte
}

// NewSender opens the transport and starts the transmit loop. Errors are a
// *ConfigError, or those of package xsk.
func NewSender(cfg SenderConfig) (*Sender, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	s := &Sender{cfg: cfg}
	loop, err := newTransmitLoop(s)
	if err != nil {
		return nil, err
	}
	s.loop = loop
	s.shared = make([]sharedShard, cfg.Shards)
	for i := range 2 * cfg.Shards {
		sh, err := newShard(s, loop)
		if err != nil {
			loop.tx.Close()
			return nil, err
		}
		loop.shards = append(loop.shards, sh)
		if i < cfg.Shards {
			s.shards = append(s.shards, sh)
		} else {
			s.shared[i-cfg.Shards].shard = sh
		}
	}
	go loop.run()
	return s, nil
}

func (cfg *SenderConfig) openTx(lost func([]byte)) (xsk.Tx, error) {
	if cfg.OpenTx != nil {
		return cfg.OpenTx(lost)
	}
	c := cfg.udp()
	c.TTL, c.Loop, c.Peers, c.SndBuf = cfg.TTL, cfg.Loop, cfg.Peers, cfg.SocketBuffer
	c.Lost = lost
	if c.MaxPayload == 0 {
		c.MaxPayload = kernelMaxSize(c)
	}
	return xsk.OpenUDPTx(c)
}

// kernelMaxSize is the message limit that a Linux master takes on the interface:
// min(MTU, 1500) less the headers of IP and UDP (set_sync_mesg_maxlen in
// ip_vs_sync.c). 0 if there is no such interface; opening will say so.
func kernelMaxSize(c xsk.UDPConfig) int {
	ifi, err := net.InterfaceByName(c.Interface)
	if err != nil {
		return 0
	}
	overhead := xsk.Overhead4
	if c.Group.Is6() || slices.ContainsFunc(c.Peers, func(p netip.AddrPort) bool { return p.Addr().Is6() }) {
		overhead = xsk.Overhead6
	}
	return min(ifi.MTU, 1500) - overhead
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
	sh := &s.shared[flowHash(c)%uint64(len(s.shared))]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.shard.Publish(c)
}

// flowHash is the xxhash of the flow's key: protocol, client and virtual
// endpoint, as in the kernel's table (struct ip_vs_conn_param).
func flowHash(c *Conn) uint64 {
	var key [37]byte
	copy(key[0:16], c.Client.Addr[:])
	copy(key[16:32], c.Virtual.Addr[:])
	key[32], key[33] = byte(c.Client.Port>>8), byte(c.Client.Port)
	key[34], key[35] = byte(c.Virtual.Port>>8), byte(c.Virtual.Port)
	key[36] = byte(c.Protocol)
	return xxhash.Sum64(key[:])
}

// Flush sends everything that was published before the call, without waiting
// for messages to fill. It returns when the network has taken it, or when ctx
// is done: then the error wraps that of ctx, and of the transport if it fails.
func (s *Sender) Flush(ctx context.Context) error {
	if s.closed.Load() {
		return fmt.Errorf("flush: %w", ErrClosed)
	}
	done := make(chan struct{})
	select {
	case s.loop.flushes <- done:
	case <-s.loop.ended:
		return fmt.Errorf("flush: %w", ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("flush: %w", ctx.Err())
	}
	s.loop.alarm.ring()
	select {
	case <-done:
		return nil
	case <-s.loop.ended:
		return s.loop.closeErr // Close sends everything that it can, too
	case <-ctx.Done():
		return fmt.Errorf("flush: %w", errors.Join(ctx.Err(), s.loop.lastError()))
	}
}

// Close sends what is in the rings, waits for the network to take it, at most
// for CloseTimeout, and lets everything go. What could not be sent is counted
// as dropped; the error then says how much. Updates published meanwhile and
// later are refused. A further Close returns the same.
func (s *Sender) Close() error {
	s.closeOnce.Do(func() {
		s.closed.Store(true)
		close(s.loop.closing)
		s.loop.alarm.ring()
		<-s.loop.ended
		s.closeErr = s.loop.closeErr
	})
	return s.closeErr
}

// version of the protocol that this Sender speaks.
func (s *Sender) version() encoder.Version { return s.cfg.version() }
