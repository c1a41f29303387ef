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
	// be caught up with, 1 to 1024; 0 means DefaultResyncBurst.
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
	Lost        uint64 // given up by the transport, time and again, or the Sender was closed
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
// With several Ports a message's worth is spread over all of them, so their
// messages are not full; the pace is that of one port, each backup thread having a
// socket of its own.
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
	start := time.Now()
	r := &resync{
		ctx: ctx, s: s, cfg: cfg, room: room,
		pace: newPace(start, cfg.Rate, cfg.Burst, room/encoder.PlainIPv4Size),
	}
	var err error
	for c := range conns {
		if err = r.add(&c); err != nil {
			break
		}
	}
	if err == nil {
		err = r.flush()
	}
	r.stats.Elapsed = time.Since(start)
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

	used, count int    // of the message that is being filled
	full        int    // messages published since the last Flush
	batch       []Conn // records published since then, to be sent again
	options     []byte // theirs
}

// add publishes one connection, and waits if it ends a message.
func (r *resync) add(c *Conn) error {
	r.stats.Records++
	ok, err := r.publish(c)
	if !ok || err != nil {
		return err
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
	r.pace.sent(r.count)
	r.stats.Messages++
	r.full++
	r.used, r.count = 0, 0
}

// publish says whether the Sender took c: if not, it is counted. A full ring is
// waited for.
func (r *resync) publish(c *Conn) (ok bool, err error) {
	for {
		err := r.s.PublishPriority(c, Refresh)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, ErrRingFull):
			r.stats.Waited++
			if err := r.s.Flush(r.ctx); err != nil && !errors.Is(err, ErrLost) {
				r.stats.Unconfirmed++
				return false, r.end(err)
			}
		case errors.Is(err, ErrClosed):
			r.stats.Lost++
			return false, r.end(err)
		default:
			r.stats.Refused++
			if r.stats.FirstRefused == nil {
				r.stats.FirstRefused = fmt.Errorf("%v: %w", c, err)
			}
			return false, nil
		}
	}
}

// wait goes on at once while the schedule has to be caught up with, but for no
// more than a burst. Otherwise it sends what there is and waits until the next
// message is due.
func (r *resync) wait() error {
	now := time.Now()
	left := r.pace.next(now).Sub(now)
	if left <= 0 && r.full < r.cfg.Burst {
		return nil
	}
	if err := r.flush(); err != nil {
		return err
	}
	// Flush may have waited for the network.
	now = time.Now()
	if left = r.pace.next(now).Sub(now); left <= 0 {
		return nil
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

// flush sends what was published, again if the transport gave any of it up.
func (r *resync) flush() error {
	if r.count > 0 {
		r.ended()
	}
	for try := 1; ; try++ {
		err := r.s.Flush(r.ctx)
		switch {
		case err == nil:
			r.stats.Sent += uint64(len(r.batch))
		case !errors.Is(err, ErrLost):
			return r.end(err)
		case try < resyncTries:
			// Which of them were lost is not known, and twice does no harm.
			for i := range r.batch {
				if ok, err := r.publish(&r.batch[i]); err != nil || !ok {
					return r.end(err)
				}
				r.stats.Repeated++
			}
			continue
		default:
			r.stats.Lost += uint64(len(r.batch))
			r.batch = r.batch[:0]
			return err
		}
		r.batch, r.options, r.full = r.batch[:0], r.options[:0], 0
		if r.cfg.Progress != nil {
			r.cfg.Progress(r.stats)
		}
		return nil
	}
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

// pace is the schedule of a resync: n records take n/rate seconds, counted from
// a fixed moment, so that nothing adds up. Who is late may catch up, but only by
// the length of a burst: beyond that the moment moves.
type pace struct {
	from  time.Time // of the monotonic clock
	n     int64     // records sent since
	rate  int64     // records a second
	slack time.Duration
}

// newPace allows burst messages of perMessage records back to back.
func newPace(now time.Time, rate, burst, perMessage int) pace {
	p := pace{from: now, rate: int64(rate)}
	p.slack = p.span(int64(burst-1) * int64(perMessage))
	return p
}

// span is the time that n records take.
func (p *pace) span(n int64) time.Duration {
	return time.Duration(n/p.rate)*time.Second + time.Duration(n%p.rate*int64(time.Second)/p.rate)
}

func (p *pace) sent(records int) { p.n += int64(records) }

// next is when the next message is due.
func (p *pace) next(now time.Time) time.Time {
	due := p.from.Add(p.span(p.n))
	if late := now.Sub(due); late > p.slack {
		p.from, p.n = now.Add(-p.slack), 0
		return p.from
	}
	return due
}

// remaining is a timeout for what is left of a life: whole seconds, rounded up,
// as 0 would be the default of the state.
func remaining(left time.Duration) uint32 {
	s := (left + time.Second - 1) / time.Second
	return uint32(min(max(s, 1), 1<<32-1))
}
