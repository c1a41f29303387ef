package ipvsync

import (
	"fmt"
	"sync/atomic"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/ring"
)

// Shard is a handle for one producer: one goroutine at a time may use it. A
// load balancer that steers flows to workers gives each worker its own.
type Shard struct {
	ring      *ring.SPSC
	sender    *Sender
	alarm     *alarm
	version   encoder.Version
	maxRecord int // bytes of the longest record that fits a message

	// dropped counts what Publish refused; written by the producer.
	dropped [numDropReasons]atomic.Uint64

	_ [128]byte
	// taken counts the records that the transmit loop took out of the ring;
	// written by that loop.
	taken atomic.Uint64
}

func newShard(s *Sender, l *transmitLoop) (*Shard, error) {
	r, err := ring.NewSPSC(s.cfg.RingSize)
	if err != nil {
		return nil, configError("RingSize", "%v", err)
	}
	return &Shard{
		ring: r, sender: s, alarm: &l.alarm, version: s.version(),
		maxRecord: min(r.MaxRecord(), l.tx.MaxPayload()-encoder.HeaderSize(s.version())),
	}, nil
}

// Publish sends an update. It does not wait, allocates nothing and keeps
// nothing of c. Updates leave in the order in which they were published.
//
// The error says why the update was dropped, and counted: ErrRingFull,
// ErrClosed, or a *encoder.FieldError for what cannot be encoded.
func (sh *Shard) Publish(c *Conn) error {
	if sh.sender.closed.Load() {
		return sh.drop(DropClosed, ErrClosed)
	}
	n := encoder.RecordSize(sh.version, c)
	if n > sh.maxRecord {
		return sh.drop(DropUnencodable, sh.tooLong(n))
	}
	b := sh.ring.Reserve(n)
	if b == nil {
		sh.alarm.ring()
		return sh.drop(DropRingFull, ErrRingFull)
	}
	if _, err := encoder.AppendRecord(b[:0], sh.version, c); err != nil {
		sh.ring.Cancel()
		return sh.drop(DropUnencodable, err)
	}
	sh.ring.Publish()
	sh.alarm.published(sh.ring)
	return nil
}

func (sh *Shard) drop(r DropReason, err error) error {
	sh.dropped[r].Add(1)
	return err
}

func (sh *Shard) tooLong(n int) error {
	return &encoder.FieldError{Field: "record", Err: encoder.ErrTooLong,
		Detail: fmt.Sprintf("%d bytes; a message takes %d", n, sh.maxRecord)}
}
