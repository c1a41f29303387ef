package ipvsync

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
)

// Resync gives a backup that was away the connections that already exist, as
// ordinary messages. What makes it more than a loop around Publish is the pace:
//
//	           one message's worth          Flush          until it is due
//	conns ──► Sender.Publish, Refresh ──► the network ──► wait ──► the next
//
// A stock kernel backup takes messages out of its socket with one thread, and
// the socket has the default buffer of the system, which holds few messages
// (docs/resync.md). Whatever does not fit is dropped there, and only a counter
// of that host knows. So no more than Burst messages ever leave back to back,
// and the average is Rate.

// Defaults of a resync: docs/resync.md says how they were measured, and
// TestKernelBurst holds them against stock kernels.
const (
	DefaultResyncRate  = 50000 // records a second: 1250 full messages
	DefaultResyncBurst = 16    // messages back to back: a third of a default socket buffer, at 4 KB a message
)

// resyncTries is how often records are sent when the transport gives them up:
// a device that vanished takes what was committed to it along.
const resyncTries = 3

// ResyncConfig is the pace of a resync. The zero value is the default.
type ResyncConfig struct {
	// Rate is the most records a second, on average; 0 means DefaultResyncRate.
	Rate int
	// Burst is the most messages that leave back to back when the schedule has to
	// be caught up with, 1 to 1024, whatever their size; lateness beyond that is
	// forgiven. 0 means DefaultResyncBurst.
	Burst int
	// Progress is called after each message or burst of them, in the goroutine of
	// Resync, with the counters so far; nil is nobody.
	Progress func(ResyncStats)
}

// ResyncStats say what became of the connections of a resync. At its end
//
//	Records = Sent + Refused + Lost + Unconfirmed
type ResyncStats struct {
	Records     uint64 // connections taken from the iterator
	Sent        uint64 // the network took them
	Refused     uint64 // cannot be encoded, such as IPv6 in version 0; see FirstRefused
	Lost        uint64 // in batches of which the transport gave some up, time and again, or the Sender was closed
	Unconfirmed uint64 // in the Sender when ctx ended: sent if it still can
	Repeated    uint64 // times that a record was published once more: the transport had given some up
	Waited      uint64 // times that a ring was full, mostly of live updates, which go first
	Messages    uint64 // that the records make up; the Sender may split them differently
	Elapsed     time.Duration

	// FirstRefused is why the first of Refused cannot be encoded; nil if none.
	FirstRefused error
}

// Resync publishes the connections through s, paced so that a stock kernel
// backup can follow, and returns when the network has taken them all. It may run
// beside live updates of the same Sender, which go first when a ring fills up.
//
// Connections leave in the order of conns. Each is published as soon as it was
// taken from conns, and the waiting is done before the next is taken: an
// iterator over live state, such as Table.Conns, is read as late as possible, and
// an update published through Sender.Publish after that stays the later one.
// (Updates that go through a Shard of their own may be overtaken for as long as
// a message takes.) Their Options need to be valid only until the next is taken.
//
// Timeout is what a backup restarts its timer with: send what is left of a
// connection's life, not the whole timeout of its state. Table.Conns does.
//
// With several Ports the pace is that of all of them together: a message's worth
// is spread over them, so each sends no more messages than one alone would, and
// they are not full.
//
// The error is nil, or says why it ended early: it wraps ctx's, ErrClosed, or
// ErrLost for what the transport gave up. What a backup's host drops nobody here can
// see; docs/resync.md says where it is counted.
func Resync(ctx context.Context, s *Sender, conns iter.Seq[Conn], cfg ResyncConfig) (ResyncStats, error) {
	if cfg.Rate == 0 {
		cfg.Rate = DefaultResyncRate
	}
	if cfg.Burst == 0 {
		cfg.Burst = DefaultResyncBurst
	}
	if cfg.Rate < 0 {
		return ResyncStats{}, configError("Rate", "is %d records a second, want 1 or more", cfg.Rate)
	}
	if cfg.Burst < 0 || cfg.Burst > 1024 {
		return ResyncStats{}, configError("Burst", "is %d messages, want 1 to 1024", cfg.Burst)
	}
	room := encoder.MaxMessageSize
	for _, sh := range s.shards {
		room = min(room, sh.maxRecord)
	}
	return (&resync{ctx: ctx, s: s, cfg: cfg, room: room, now: time.Now, sleep: sleep}).run(conns)
}

// sleep is cut short by ctx.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *resync) run(conns iter.Seq[Conn]) (ResyncStats, error) {
	start := r.now()
	r.pace = newPace(start, r.cfg.Rate, r.cfg.Burst)
	var err error
	for c := range conns {
		if err = r.add(&c); err != nil {
			break
		}
	}
	if err == nil {
		err = r.flush()
	}
	r.stats.Elapsed = r.now().Sub(start)
	if err != nil {
		err = fmt.Errorf("resync: %w", err)
	}
	return r.stats, err
}

// resync is one run.
type resync struct {
	ctx   context.Context
	s     *Sender
	cfg   ResyncConfig
	stats ResyncStats
	pace  pace
	room  int // bytes of records in a message
	now   func() time.Time
	sleep func(context.Context, time.Duration) error

	used, count int    // of the message that is being filled
	full        int    // messages published since the last Flush
	batch       []Conn // records published since then, to be sent again
	options     []byte // theirs
	before      uint64 // updates that the Sender had lost before the first of them
	cause       error  // why it lost some since, as far as a Flush has told
}

// add publishes one connection, and waits if it ends a message.
func (r *resync) add(c *Conn) error {
	r.stats.Records++
	if len(r.batch) == 0 {
		r.before, r.cause = r.lost(), nil
	}
	switch err := r.publish(c); {
	case err == nil:
	case errors.Is(err, ErrClosed):
		r.stats.Lost++
		return r.end(err)
	case r.ctx.Err() != nil:
		r.stats.Unconfirmed++
		return r.end(err)
	default:
		r.stats.Refused++
		if r.stats.FirstRefused == nil {
			r.stats.FirstRefused = fmt.Errorf("%v: %w", c, err)
		}
		return nil
	}
	kept := *c
	if len(c.Options) > 0 {
		at := len(r.options)
		r.options = append(r.options, c.Options...)
		kept.Options = r.options[at:len(r.options):len(r.options)]
	}
	r.batch = append(r.batch, kept)

	size := encoder.RecordSize(r.s.version(), c)
	if r.used = align4(r.used) + size; r.used > r.room || r.count == encoder.MaxRecords {
		r.ended() // it did not fit: the Sender has begun another message with it
		r.used = size
	}
	r.count++
	// The next one is most likely as long as this one.
	if align4(r.used)+size > r.room || r.count == encoder.MaxRecords {
		r.ended()
		return r.wait()
	}
	return nil
}

func align4(n int) int { return (n + 3) &^ 3 }

// ended accounts for a message.
func (r *resync) ended() {
	r.pace.sent(r.now(), r.count)
	r.stats.Messages++
	r.full++
	r.used, r.count = 0, 0
}

// publish gives c to the Sender, and waits for a full ring. The error is that of
// ctx, ErrClosed, or says why c cannot be encoded.
func (r *resync) publish(c *Conn) error {
	for {
		err := r.s.PublishPriority(c, Refresh)
		if !errors.Is(err, ErrRingFull) {
			return err
		}
		r.stats.Waited++
		switch err := r.s.Flush(r.ctx); {
		case errors.Is(err, ErrLost):
			r.cause = err // perhaps of this batch: flush looks at the counters
		case err != nil:
			return err
		}
	}
}

// lost is how many updates the Sender has lost so far, live ones among them. A
// Flush tells only of those since its call, and a full message leaves before.
func (r *resync) lost() (n uint64) {
	for _, p := range r.s.ports {
		n += p.lost.Load()
	}
	return n
}

// wait goes on at once while the schedule has to be caught up with, but for no
// more than a burst. Otherwise it sends what there is and waits until the next
// message is due.
func (r *resync) wait() error {
	if r.pace.due().After(r.now()) || r.full >= r.cfg.Burst {
		if err := r.flush(); err != nil {
			return err
		}
		if left := r.pace.due().Sub(r.now()); left > 0 {
			return r.sleep(r.ctx, left)
		}
	}
	return nil
}

// flush sends what was published, again if the transport gave any of it up.
func (r *resync) flush() error {
	if r.count > 0 {
		r.ended()
	}
	for try := 1; ; try++ {
		err := r.s.Flush(r.ctx)
		r.pace.flushed(r.now(), r.full)
		if err != nil && !errors.Is(err, ErrLost) {
			return r.end(err)
		}
		if err != nil {
			r.cause = err
		}
		lost := r.lost() - r.before
		if len(r.batch) == 0 || err == nil && lost == 0 {
			break
		}
		if try == resyncTries {
			r.stats.Lost += uint64(len(r.batch))
			r.batch = r.batch[:0]
			if r.cause == nil {
				r.cause = fmt.Errorf("%w: %d", ErrLost, lost)
			}
			return r.cause
		}
		if err := r.again(); err != nil {
			return r.end(err)
		}
	}
	r.stats.Sent += uint64(len(r.batch))
	r.batch, r.options, r.full = r.batch[:0], r.options[:0], 0
	if r.cfg.Progress != nil {
		r.cfg.Progress(r.stats)
	}
	return nil
}

// again publishes the batch once more: which of it was lost is not known, and
// twice does no harm. What was not lost has left, so all of it takes its time again.
func (r *resync) again() error {
	if err := r.sleep(r.ctx, r.pace.span(int64(len(r.batch)))); err != nil {
		return err
	}
	r.pace.again(r.now(), len(r.batch))
	r.before = r.lost()
	for i := range r.batch {
		if err := r.publish(&r.batch[i]); err != nil {
			return err
		}
		r.stats.Repeated++
	}
	return nil
}

// end counts what is still on the way when nothing more can be done about it.
func (r *resync) end(err error) error {
	n := uint64(len(r.batch))
	r.batch = r.batch[:0]
	if errors.Is(err, ErrClosed) {
		r.stats.Lost += n
	} else {
		r.stats.Unconfirmed += n
	}
	return err
}
