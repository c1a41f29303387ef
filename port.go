package ipvsync

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/ring"
	"github.com/ipvsync/ipvsync/xsk"
)

const (
	// turnBudget is how many records a loop takes from one ring before it looks
	// at the next one, about: two trains of UDP with 44 messages of 40 each.
	turnBudget = 2 * 44 * 40
	// lagSpins is how long a loop that has emptied its rings keeps away from them,
	// in turns of an empty loop: about a microsecond. A consumer at the heels of its
	// producer takes cache lines from it that are still being written: 80 million
	// updates a second instead of 150 (BenchmarkEngine).
	lagSpins = 4000
	// spinTurns is how often an idle loop looks at its rings before it sleeps:
	// some microseconds, about what it costs to be woken.
	spinTurns = 10
	// retryInterval is how often a transport that failed is tried again.
	retryInterval = 100 * time.Millisecond
	// complainInterval is how often the loss of messages is logged.
	complainInterval = time.Second
	// congestionWait bounds a wait for the transport, so that the loop looks
	// after its other duties.
	congestionWait = 10 * time.Millisecond
	// unfencedNap bounds a sleep where the kernel has no membarrier, and a
	// record might be published unseen.
	unfencedNap = time.Millisecond
)

// port is one UDP port of a Sender, with the transmit loop that is the only
// consumer of its shards' rings and the only user of its transport.
type port struct {
	number  int
	cfg     *SenderConfig
	version encoder.Version
	shards  []*Shard
	sources []source
	alarm   alarm
	flushes chan *flushCall
	closing chan struct{}
	ended   chan struct{}

	// The loop's own from here on.
	tx        xsk.Tx
	w         encoder.Writer
	window    *window       // where records wait to be merged; nil without coalescing
	open      bool          // w has a message
	direct    bool          // w has a message, in which records wait, and more may go right into it
	pending   bool          // a record waits, in the message or in the window
	begun     time.Time     // what clock counts from
	deadline  time.Duration // when it must go, by clock
	now       time.Duration // clock of this turn, or zero if nobody has asked yet
	timer     *time.Timer
	turn      int       // source to begin the next turn with
	idle      int       // turns without work
	noFrame   bool      // the transport had no frame for the next message
	down      bool      // the transport failed at the last try
	gone      bool      // only a new transport will help
	retryAt   time.Time // when to try again
	complain  time.Time // when to log again that messages are given up
	remeasure time.Time // when to look again whether the MTU has changed
	sealed    uint64    // messages committed so far
	ends      []uint64  // of each message that has not settled, records committed up to its end; at its number mod the length, a power of two
	committed uint64    // records in messages committed so far
	settled   uint64    // messages that have left the transport, one way or the other
	left      uint64    // records in them
	given     uint64    // records among them that the transport gave up, since the last settle
	waiting   []flushRequest
	told      string // why it failed, as logged last
	troubled  bool   // lastErr is set
	lossCause error  // why the transport gave messages up, the last time
	closeErr  error

	fresh struct{ accepted, messages, bytes uint64 } // not yet in the counters below

	// Counters, written by the loop; see PortStats. accepted is stored before
	// what comes of the records, and read after it, so that no reader sees more
	// go than came.
	accepted  atomic.Uint64 // records taken out of rings
	coalesced atomic.Uint64
	messages  atomic.Uint64
	bytes     atomic.Uint64
	sent      atomic.Uint64 // records that the network took
	lost      atomic.Uint64 // records given up by the transport
	unsent    atomic.Uint64 // records that were not sent when Close gave up
	reopened  atomic.Uint64
	turns     atomic.Uint64
	sleeps    atomic.Uint64

	mu      sync.Mutex
	lastErr error       // of the transport; nil when it works
	past    xsk.TxStats // of transports that were replaced
	txNow   xsk.Tx      // tx, for Stats
	choice  xsk.Choice  // how it came to be
}

// source is a ring that a loop takes records from.
type source struct {
	ring  sourceRing
	shard *Shard
}

type sourceRing interface {
	Look() ring.Run
	Release(ring.Run)
	Len() int
	Cap() int
	Head() uint64
	Tail() uint64
}

func newPort(s *Sender, number int) (*port, error) {
	p := &port{
		number:  number,
		cfg:     &s.cfg,
		version: s.version(),
		alarm:   newAlarm(),
		flushes: make(chan *flushCall, 16),
		closing: make(chan struct{}),
		ended:   make(chan struct{}),
		timer:   time.NewTimer(time.Hour),
		begun:   time.Now(),
		ends:    make([]uint64, 256),
	}
	p.timer.Stop()
	if s.cfg.Coalesce > 0 {
		p.window = newWindow(s.cfg.Coalesce, p.version)
	}
	tx, choice, err := p.openTx()
	if err != nil {
		return nil, err
	}
	p.tx, p.txNow, p.choice = tx, tx, choice
	return p, nil
}

// run is the transmit loop.
func (p *port) run() {
	runtime.LockOSThread() // never unlocked: the thread ends with the loop, and its affinity with it
	defer close(p.ended)
	p.bind()
	closing := false
	var giveUp time.Time
	for {
		p.turns.Store(p.turns.Load() + 1)
		p.now = 0
		expired := p.pending && p.clock() >= p.deadline
		n := p.collect()
		p.takeFlushRequests()
		if due := p.flushDue(); p.pending && (expired || due || closing || n == 0 && p.cfg.FlushInterval < 0) {
			p.sealAll()
		}
		p.flush()
		p.answerFlushRequests()
		switch {
		case closing:
			if n == 0 && !p.pending && p.tx.Pending() == 0 && p.drained() || time.Now().After(giveUp) {
				p.shutDown()
				return
			}
		default:
			select {
			case <-p.closing:
				closing = true
				giveUp = time.Now().Add(p.cfg.CloseTimeout)
				continue
			default:
			}
		}
		if n < turnBudget && (n > 0 || !p.cfg.BusyPoll) {
			for range lagSpins {
			}
		}
		if n > 0 {
			p.idle = 0
			continue
		}
		p.idle++
		p.wait(closing)
	}
}

// udpPort is the port's number for people.
func (p *port) udpPort() int { return int(p.cfg.Port) + p.number }

// bind puts the loop's thread on its processor.
func (p *port) bind() {
	if p.number >= len(p.cfg.CPUs) {
		return
	}
	cpu := p.cfg.CPUs[p.number]
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		p.cfg.Logger.Error("the transmit loop cannot be bound to its processor; it runs anywhere",
			"port", p.udpPort(), "cpu", cpu, "error", err)
	}
}

// collect takes records from every ring in turn, and returns how many. The
// first in turn is another one each time, so that none is last for ever when
// frames are scarce.
func (p *port) collect() int {
	n := 0
	for i := range p.sources {
		n += p.take(&p.sources[(p.turn+i)%len(p.sources)])
	}
	if p.turn++; p.turn == len(p.sources) {
		p.turn = 0
	}
	return n
}

func (p *port) take(src *source) int {
	run := src.ring.Look()
	n := 0
	// A turn that must end does so between messages: then all of them are flushed, and
	// the transport has its whole room, in one piece, for those of the next turn.
	for n < turnBudget || p.direct && n < turnBudget+encoder.MaxRecords {
		recs, size, ok := run.PeekMany()
		if !ok {
			break
		}
		if size == encoder.PlainIPv4Size { // as most are: the short cuts
			if len(recs) == size {
				if p.direct && p.w.AppendPlainIPv4(recs) {
					run.Advance()
					n++
					continue
				}
			} else if p.window == nil {
				k := p.move(recs, turnBudget-n)
				if k == 0 {
					break
				}
				run.AdvanceMany(k)
				n += k
				continue
			}
		}
		if n >= turnBudget && p.sealFull() {
			break
		}
		if !p.place(recs[:size:size]) {
			break // without a place, the record comes again
		}
		run.Advance()
		n++
	}
	src.ring.Release(run)
	p.sealFull()
	if n > 0 {
		src.shard.taken.Store(src.shard.taken.Load() + uint64(n))
	}
	return n
}

// wait sleeps until there may be something to do.
func (p *port) wait(closing bool) {
	d := time.Duration(-1) // no end
	state := uint32(asleep)
	switch {
	case p.down:
		d = max(time.Until(p.retryAt), 0)
		state = napping
		if p.noFrame {
			state = awake // rings that fill up are of no use to anybody
		}
	case p.tx.Pending() > 0 || closing:
		if err := p.tx.Wait(congestionWait); err != nil {
			p.failed(err)
		}
		return
	case p.cfg.BusyPoll || len(p.waiting) > 0 || p.pending && p.cfg.FlushInterval < 0:
		return
	case p.pending:
		d = max(p.deadline-time.Since(p.begun), 0)
		state = napping
	case p.idle < spinTurns:
		return
	}
	if state != awake && !p.alarm.announce(state) && (d < 0 || d > unfencedNap) {
		d = unfencedNap
	}
	if !p.work(state) {
		p.sleep(d)
	}
	p.alarm.state.Store(awake)
}

// work says whether there is something for which state would be left.
func (p *port) work(state uint32) bool {
	for i := range p.sources {
		r := p.sources[i].ring
		n := r.Len()
		if state == asleep && n > 0 || state == napping && 2*n >= r.Cap() {
			return true
		}
	}
	return false
}

func (p *port) sleep(d time.Duration) {
	p.sleeps.Store(p.sleeps.Load() + 1)
	if d < 0 {
		<-p.alarm.bell
		return
	}
	p.timer.Reset(d)
	select {
	case <-p.alarm.bell:
		p.timer.Stop()
	case <-p.timer.C:
	}
}

func (p *port) drained() bool {
	for i := range p.sources {
		if p.sources[i].ring.Len() > 0 {
			return false
		}
	}
	return true
}

// shutDown ends the loop; what has not left by now is dropped and counted.
func (p *port) shutDown() {
	if p.pending {
		p.sealAll()
	}
	p.count()
	err := p.tx.Close() // counts by onLost what it still had
	p.settle(0)
	p.sweep()
	unsent, lost := p.unsent.Load(), p.lost.Load()
	if unsent+lost > 0 {
		err = errors.Join(fmt.Errorf("port %d: %d updates were not sent", p.number, unsent+lost), p.lastError(), err)
	}
	if lost > 0 {
		err = errors.Join(err, fmt.Errorf("%w: %d", ErrLost, lost))
	}
	p.closeErr = err
	for _, r := range p.waiting {
		r.done <- err
	}
	p.waiting = nil
}

// sweep counts the records that nobody will take out of the rings any more. A
// producer that was inside Publish during Close may still add one, so Stats
// sweeps again.
func (p *port) sweep() {
	n := uint64(0)
	if p.window != nil {
		p.merged(p.window.takeMerged())
		n += uint64(p.window.left())
		p.window.reset()
	}
	for i := range p.sources {
		r := p.sources[i].ring
		for run := r.Look(); run.Len() > 0; run = r.Look() {
			before := n
			for _, ok := run.Peek(); ok; _, ok = run.Peek() {
				run.Advance()
				n++
			}
			r.Release(run)
			p.sources[i].shard.taken.Add(n - before)
		}
	}
	p.accepted.Add(n)
	p.unsent.Add(n)
}
