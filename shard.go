package ipvsync

import (
	"fmt"
	"math/bits"
	"sync/atomic"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/ring"
)

// Shard is a handle for one producer: one goroutine at a time may use it. A
// load balancer that steers flows to workers gives each worker its own.
type Shard struct {
	own     *ring.SPSC // of the handle's user
	shared  *ring.MPSC // of Sender.Publish
	sender  *Sender
	port    *port
	alarm   *alarm // of the port
	version encoder.Version
	plain   bool // version 1, where most records are plain IPv4 ones

	maxRecord int                // bytes of the longest record that fits a message
	limits    [numPriorities]int // bytes in use up to which a ring takes an update

	// dropped counts what was refused. Producers of both rings add to it.
	dropped [numDropReasons]atomic.Uint64

	_ [128]byte
	// taken counts the records that the transmit loop took out of both rings;
	// written by that loop.
	taken atomic.Uint64
}

func newShard(s *Sender, p *port) (*Shard, error) {
	cfg := &s.cfg
	own, err := ring.NewSPSC(cfg.RingSize)
	if err != nil {
		return nil, err
	}
	shared, err := ring.NewMPSC(cfg.RingSize)
	if err != nil {
		return nil, err
	}
	sh := &Shard{
		own: own, shared: shared, sender: s, port: p, alarm: &p.alarm, version: s.version(), plain: s.version() == encoder.Version1,
		maxRecord: min(own.MaxRecord(), p.tx.MaxPayload()-encoder.HeaderSize(s.version())),
		limits: [numPriorities]int{
			Refresh:     cfg.RingSize / 100 * cfg.Watermarks.Refresh,
			Update:      cfg.RingSize / 100 * cfg.Watermarks.Update,
			StateChange: cfg.RingSize,
		},
	}
	p.shards = append(p.shards, sh)
	p.sources = append(p.sources, source{own, sh}, source{shared, sh})
	return sh, nil
}

// Publish sends an update. It does not wait, allocates nothing and keeps
// nothing of c. Updates leave in the order in which they were published.
//
// The error says why the update was dropped, and counted: ErrRingFull,
// ErrClosed, or a *encoder.FieldError for what cannot be encoded.
func (sh *Shard) Publish(c *Conn) error { return sh.PublishPriority(c, Update) }

// PublishPriority is Publish with another priority than Update. It panics for one
// that there is not, as an index would.
func (sh *Shard) PublishPriority(c *Conn, p Priority) error {
	if err := sh.reserve(c, p); err != nil {
		return err
	}
	sh.own.Publish()
	if state := sh.alarm.state.Load(); state != awake {
		sh.alarm.wake(state, sh.own)
	}
	return nil
}

// PublishBatch sends updates, which become visible to the transmit loop
// together, and returns how many were taken. The others were dropped, and
// counted; the error is that of the first of them. After one ErrRingFull the rest
// of the batch is dropped as ring_full without a try, shorter records that would
// still have fitted included.
func (sh *Shard) PublishBatch(conns []Conn) (n int, err error) {
	return sh.PublishBatchPriority(conns, Update)
}

// PublishBatchPriority is PublishBatch with another priority than Update. It panics
// for one that there is not, as an index would.
func (sh *Shard) PublishBatchPriority(conns []Conn, p Priority) (n int, err error) {
	for len(conns) > 0 {
		if k := sh.reservePlain(conns, p); k > 0 {
			n += k
			conns = conns[k:]
			continue
		}
		e := sh.reserve(&conns[0], p)
		conns = conns[1:]
		if e == nil {
			n++
			continue
		}
		if err == nil {
			err = e
		}
		if e == ErrRingFull { // the others would find it so, too
			sh.dropped[DropRingFull].Add(uint64(len(conns)))
			break
		}
	}
	if n > 0 {
		sh.own.Publish()
		if state := sh.alarm.state.Load(); state != awake {
			sh.alarm.wake(state, sh.own)
		}
	}
	return n, err
}

// reserve encodes c into the next record of the own ring, or drops it.
func (sh *Shard) reserve(c *Conn, p Priority) error {
	if sh.plain && c.PlainIPv4() && !sh.sender.closed.Load() {
		if b := sh.own.ReserveBelow(encoder.PlainIPv4Size, sh.limits[p]); b != nil {
			encoder.PutPlainIPv4((*[encoder.PlainIPv4Size]byte)(b), c)
			return nil
		}
		return sh.full()
	}
	return sh.reserveAny(c, p)
}

// reservePlain encodes as many of the first connections as are plain IPv4 ones and
// find room in one piece, and returns how many.
func (sh *Shard) reservePlain(conns []Conn, p Priority) int {
	plain := 0
	for plain < len(conns) && conns[plain].PlainIPv4() {
		plain++
	}
	if plain == 0 || !sh.plain || sh.sender.closed.Load() {
		return 0
	}
	room, n := sh.own.ReserveMany(encoder.PlainIPv4Size, plain, sh.limits[p])
	encoder.PutPlainIPv4s(room, conns[:n])
	return n
}

func (sh *Shard) reserveAny(c *Conn, p Priority) error {
	n := encoder.RecordSize(sh.version, c)
	if n > sh.maxRecord || sh.sender.closed.Load() {
		return sh.refuse(n)
	}
	b := sh.own.ReserveBelow(n, sh.limits[p])
	if b == nil {
		return sh.full()
	}
	if _, err := encoder.AppendRecord(b[:0], sh.version, c); err != nil {
		sh.own.Unreserve(n)
		return sh.drop(DropUnencodable, err)
	}
	return nil
}

// publishShared is PublishPriority for any goroutine.
func (sh *Shard) publishShared(c *Conn, p Priority) error {
	if !sh.plain || !c.PlainIPv4() || sh.sender.closed.Load() {
		return sh.publishSharedAny(c, p)
	}
	b, slot := sh.shared.ClaimOne(encoder.PlainIPv4Size, sh.limits[p])
	if b == nil {
		return sh.full()
	}
	encoder.PutPlainIPv4((*[encoder.PlainIPv4Size]byte)(b), c)
	slot.Commit()
	if state := sh.alarm.state.Load(); state != awake {
		sh.alarm.wake(state, sh.shared)
	}
	return nil
}

func (sh *Shard) publishSharedAny(c *Conn, p Priority) error {
	n := encoder.RecordSize(sh.version, c)
	if n > sh.maxRecord || sh.sender.closed.Load() {
		return sh.refuse(n)
	}
	b, slot := sh.shared.ClaimOne(n, sh.limits[p])
	if b == nil {
		return sh.full()
	}
	if _, err := encoder.AppendRecord(b[:0], sh.version, c); err != nil {
		slot.Cancel()
		return sh.drop(DropUnencodable, err)
	}
	slot.Commit()
	if state := sh.alarm.state.Load(); state != awake {
		sh.alarm.wake(state, sh.shared)
	}
	return nil
}

// publishSome publishes the updates of part, at most 64, whose bits are set in some,
// for any goroutine: plain records that follow one another as a group.
func (sh *Shard) publishSome(part []Conn, some uint64, p Priority) (n int, err error) {
	for some != 0 {
		if k := sh.publishPlain(part, some, p); k > 0 {
			n += k
			for range k {
				some &= some - 1
			}
			continue
		}
		e := sh.publishShared(&part[bits.TrailingZeros64(some)], p)
		some &= some - 1
		if e == nil {
			n++
			continue
		}
		if err == nil {
			err = e
		}
		if e == ErrRingFull { // the others would find it so, too
			sh.dropped[DropRingFull].Add(uint64(bits.OnesCount64(some)))
			break
		}
	}
	return n, err
}

// publishPlain publishes the first of some as far as they are plain, all or none,
// and returns how many.
func (sh *Shard) publishPlain(part []Conn, some uint64, p Priority) int {
	plain := 0
	for rest := some; rest != 0 && part[bits.TrailingZeros64(rest)].PlainIPv4(); rest &= rest - 1 {
		plain++
	}
	if plain < 2 || !sh.plain || sh.sender.closed.Load() {
		return 0
	}
	room, slot := sh.shared.ClaimMany(encoder.PlainIPv4Size, plain, sh.limits[p])
	if room == nil {
		return 0
	}
	for ; len(room) > 0; room = room[encoder.PlainIPv4Size:] {
		encoder.PutPlainIPv4((*[encoder.PlainIPv4Size]byte)(room), &part[bits.TrailingZeros64(some)])
		some &= some - 1
	}
	slot.Commit()
	if state := sh.alarm.state.Load(); state != awake {
		sh.alarm.wake(state, sh.shared)
	}
	return plain
}

// full is for a ring without room. A loop that naps is woken; one that is awake
// does what it can.
func (sh *Shard) full() error {
	if state := sh.alarm.state.Load(); state != awake && sh.alarm.state.CompareAndSwap(state, awake) {
		sh.alarm.ring()
	}
	return sh.drop(DropRingFull, ErrRingFull)
}

// refuse is for a closed Sender, or a record of n bytes that fits no message.
func (sh *Shard) refuse(n int) error {
	if sh.sender.closed.Load() {
		return sh.drop(DropClosed, ErrClosed)
	}
	return sh.drop(DropUnencodable, &encoder.FieldError{Field: "record", Err: encoder.ErrTooLong,
		Detail: fmt.Sprintf("%d bytes; a message takes %d", n, sh.maxRecord)})
}

func (sh *Shard) drop(r DropReason, err error) error {
	sh.dropped[r].Add(1)
	return err
}
