package ipvsync

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
)

// Message is what a Receiver hands to its handler: the accepted records of one
// datagram. Everything in it is lent for the span of the call.
type Message struct {
	Src     netip.AddrPort // who sent it
	Header  encoder.Header
	Conns   []Conn // accepted records, in order; may be empty
	Trailer []byte // what follows the last record, which Linux ignores; mostly nil
}

// Handler gets every message that is not ignored as a whole. It is called by
// one goroutine, the one in Run, and holds up the receiving while it runs.
type Handler func(*Message)

// Receiver receives the updates of masters and decides about each record as a
// Linux backup does. NewReceiver makes one.
type Receiver struct {
	cfg     ReceiverConfig
	handler Handler

	// Used by Run alone.
	decoder encoder.Decoder
	message Message
	n       received

	mu     sync.Mutex
	shown  received    // n as of the last batch
	rx     xsk.Rx      // replaced by Run when its device vanishes
	choice xsk.Choice  // how it came to be
	past   xsk.RxStats // of transports that were replaced
	closed bool
	ran    bool
	done   chan struct{} // closed when Run has returned

	reopened atomic.Uint64
}

// received are the counters of ReceiverStats by these names.
type received struct {
	messages, bytes, records, accepted, unread uint64
	ignored, refused                           [encoder.NumReasons]uint64
}

// NewReceiver opens the transport and joins the group: from now on messages
// queue up in the socket. Run hands them to handler. Errors are a *ConfigError,
// or those of package xsk.
func NewReceiver(cfg ReceiverConfig, handler Handler) (*Receiver, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	if handler == nil {
		return nil, configError("handler", "is required")
	}
	r := &Receiver{cfg: cfg, handler: handler, done: make(chan struct{})}
	r.decoder = encoder.Decoder{SyncID: cfg.SyncID, Engines: cfg.Engines}
	// As many as one message can hold, so that decoding never grows it.
	r.message.Conns = make([]Conn, encoder.MaxRecords)
	rx, choice, err := r.cfg.openRx()
	if err != nil {
		return nil, err
	}
	r.rx, r.choice = rx, choice
	return r, nil
}

// drainTimeout bounds how long Run goes on after its context is done, for a
// network that never pauses.
const drainTimeout = time.Second

// Run receives until ctx is done, then returns nil; or until Close, then it
// returns ErrClosed. It may be called once. A link that goes down and a device
// that vanishes do not end it: it logs, and goes on when they are back. When
// ctx is done it first handles what has already arrived, for a second at most.
func (r *Receiver) Run(ctx context.Context) error {
	r.mu.Lock()
	if r.ran || r.closed {
		r.mu.Unlock()
		return ErrClosed
	}
	r.ran = true
	r.mu.Unlock()
	defer close(r.done)
	stop := context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.rx.Wake()
	})
	defer stop()
	if len(r.cfg.CPUs) > 0 {
		defer r.bind()()
	}
	down := false
	var end time.Time // when to stop, once ctx is done
	for {
		wait := time.Duration(-1)
		if r.cfg.BusyPoll {
			wait = 0
		}
		if ctx.Err() != nil {
			wait = 0
			if end.IsZero() {
				end = time.Now().Add(drainTimeout)
			}
		}
		batch, err := r.rx.Receive(wait)
		for i := range batch {
			r.handle(&batch[i], i == len(batch)-1)
		}
		r.rx.Release()
		switch {
		case err == nil:
			if down && len(batch) > 0 {
				r.cfg.Logger.Info("receiving resumes")
				down = false
			}
		case errors.Is(err, xsk.ErrClosed):
			return ErrClosed
		case errors.Is(err, xsk.ErrDeviceGone):
			if again, err := r.reopen(ctx, err); !again {
				return err
			}
		default:
			if !down {
				r.cfg.Logger.Error("receiving is disturbed", "error", err)
			}
			down = true
		}
		if !end.IsZero() && (len(batch) == 0 || time.Now().After(end)) {
			return nil
		}
	}
}

// bind gives the calling goroutine a thread of its own, on its processors, until the
// function that it returns is called.
func (r *Receiver) bind() (free func()) {
	runtime.LockOSThread()
	var was, set unix.CPUSet
	for _, cpu := range r.cfg.CPUs {
		set.Set(cpu)
	}
	err := unix.SchedGetaffinity(0, &was)
	if err == nil {
		err = unix.SchedSetaffinity(0, &set)
	}
	if err != nil {
		r.cfg.Logger.Error("the receiver cannot be bound to its processors; it runs anywhere", "cpus", r.cfg.CPUs, "error", err)
		return runtime.UnlockOSThread
	}
	return func() {
		if unix.SchedSetaffinity(0, &was) == nil {
			runtime.UnlockOSThread() // else the thread ends with the goroutine
		}
	}
}

// reopen tries until there is a device again; false if Run is to end instead, with
// the error. The old transport goes first: it may hold what the new one needs.
func (r *Receiver) reopen(ctx context.Context, cause error) (bool, error) {
	r.cfg.Logger.Error("receiving stops", "error", cause)
	r.rx.Close()
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	told := ""
	for ; ; <-tick.C {
		if ctx.Err() != nil {
			return false, nil
		}
		rx, choice, err := r.cfg.openRx()
		r.mu.Lock()
		if r.closed {
			r.mu.Unlock()
			if err == nil {
				rx.Close()
			}
			return false, ErrClosed
		}
		if err != nil {
			r.mu.Unlock()
			if why := err.Error(); why != told { // each reason once
				told = why
				r.cfg.Logger.Error("receiving cannot resume yet; it is tried again", "error", err)
			}
			continue
		}
		r.past = r.past.Plus(r.rx.Stats())
		r.rx, r.choice = rx, choice
		r.mu.Unlock()
		r.reopened.Add(1)
		r.cfg.Logger.Info("receiving resumes")
		return true, nil
	}
}

// handle decodes one datagram and calls the handler. With the last of a batch it shows
// the counters: one atomic addition for each counter and message would cost a tenth of
// what decoding does.
func (r *Receiver) handle(dg *xsk.Datagram, last bool) {
	r.n.messages++
	r.n.bytes += uint64(len(dg.Payload))
	ok := r.decode(dg)
	if last {
		r.mu.Lock()
		r.shown = r.n
		r.mu.Unlock()
	}
	if ok {
		r.handler(&r.message)
	}
}

// decode makes the message of a datagram; false if that is ignored as a whole.
func (r *Receiver) decode(dg *xsk.Datagram) bool {
	d := &r.decoder
	if reason := d.Open(dg.Payload); reason != encoder.Accepted {
		r.n.ignored[reason]++
		return false
	}
	conns := r.message.Conns[:encoder.MaxRecords]
	n := 0
	for {
		reason, ok := d.Next(&conns[min(n, encoder.MaxRecords-1)])
		if !ok {
			break
		}
		if reason == encoder.Accepted {
			n++
			continue
		}
		r.n.refused[reason]++
	}
	r.n.records += uint64(d.Header().Count)
	r.n.unread += uint64(d.Unread())
	r.n.accepted += uint64(n)
	m := &r.message
	m.Src, m.Header, m.Conns, m.Trailer = dg.Src, d.Header(), conns[:n], d.Trailer()
	return true
}

// Close ends Run and lets everything go. It may be called from any goroutine
// but the handler's, and more than once.
func (r *Receiver) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	ran, rx := r.ran, r.rx
	r.mu.Unlock()
	err := rx.Close()
	if ran {
		<-r.done
	}
	return err
}

// Stats reads the counters, without stopping anybody. Those of messages are as of the
// last batch that came.
func (r *Receiver) Stats() ReceiverStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := &r.shown
	return ReceiverStats{
		Messages: n.messages, Bytes: n.bytes, Records: n.records, Accepted: n.accepted, Unread: n.unread,
		Ignored: n.ignored, Refused: n.refused, Reopened: r.reopened.Load(),
		Mode: r.choice.Mode, Transport: r.past.Plus(r.rx.Stats()),
	}
}
