package ipvsync

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
)

const (
	// turnBudget is how many records the loop takes from one ring before it
	// looks at the next one.
	turnBudget = 1024
	// retryInterval is how often a transport that failed is tried again.
	retryInterval = 100 * time.Millisecond
	// congestionWait bounds a wait for the transport, so that the loop looks
	// after its other duties.
	congestionWait = 10 * time.Millisecond
)

// transmitLoop is the only consumer of its shards' rings and the only user of
// its transport.
type transmitLoop struct {
	sender  *Sender
	shards  []*Shard
	alarm   alarm
	flushes chan chan struct{}
	closing chan struct{}
	ended   chan struct{}

	// The loop's own from here on.
	tx       xsk.Tx
	w        encoder.Writer
	open     bool      // w has a message
	noFrame  bool      // the transport had no frame for the next message
	deadline time.Time // when the open message must go
	timer    *time.Timer
	down     bool      // the transport failed at the last try
	gone     bool      // only a new transport will help
	retryAt  time.Time // when to try again
	sealed   uint64    // messages committed so far
	inTx     uint64    // records of messages that the transport has not yet taken
	waiting  []flushRequest
	closeErr error

	// Counters, written by the loop.
	messages atomic.Uint64
	bytes    atomic.Uint64
	sent     atomic.Uint64 // records that the network took
	lost     atomic.Uint64 // records given up by the transport
	stranded atomic.Uint64 // records still in the rings when Close gave up
	reopened atomic.Uint64

	mu      sync.Mutex
	lastErr error       // of the transport; nil when it works
	past    xsk.TxStats // of transports that were replaced
	txNow   xsk.Tx      // tx, for Stats
}

// flushRequest is a caller of Flush: satisfied when every ring has been read up
// to its mark, and the messages sealed until then have left.
type flushRequest struct {
	done   chan struct{}
	marks  []uint64
	passed bool
	sealed uint64
}

func newTransmitLoop(s *Sender) (*transmitLoop, error) {
	l := &transmitLoop{
		sender:  s,
		alarm:   newAlarm(),
		flushes: make(chan chan struct{}, 16),
		closing: make(chan struct{}),
		ended:   make(chan struct{}),
		timer:   time.NewTimer(time.Hour),
	}
	l.timer.Stop()
	tx, err := s.cfg.openTx(l.onLost)
	if err != nil {
		return nil, err
	}
	if tx.MaxPayload() < encoder.MinMessageSize {
		tx.Close()
		return nil, configError("MaxSize", "the transport takes %d bytes, want at least %d", tx.MaxPayload(), encoder.MinMessageSize)
	}
	l.tx, l.txNow = tx, tx
	return l, nil
}

// onLost counts the records of a message that nobody will get.
func (l *transmitLoop) onLost(message []byte) {
	var d encoder.Decoder
	d.Open(message)
	n := uint64(d.Header().Count)
	l.lost.Add(n)
	l.inTx -= n
}

func (l *transmitLoop) run() {
	defer close(l.ended)
	closing := false
	var giveUp time.Time
	for {
		expired := l.open && !time.Now().Before(l.deadline)
		n := l.collect()
		l.takeFlushRequests()
		due := l.flushDue()
		if l.open && (expired || due || closing || n == 0 && l.sender.cfg.FlushInterval < 0) {
			l.seal()
		}
		l.flush()
		l.answerFlushRequests()
		if !closing {
			select {
			case <-l.closing:
				closing = true
				giveUp = time.Now().Add(l.sender.cfg.CloseTimeout)
				continue
			default:
			}
		} else if n == 0 && !l.open && l.tx.Pending() == 0 && l.drained() || time.Now().After(giveUp) {
			l.shutDown()
			return
		}
		if n == 0 {
			l.wait(closing)
		}
	}
}

// collect takes records from every ring in turn, and returns how many.
func (l *transmitLoop) collect() int {
	n := 0
	for _, sh := range l.shards {
		n += l.take(sh)
	}
	return n
}

func (l *transmitLoop) take(sh *Shard) int {
	n := 0
	for n < turnBudget {
		rec, ok := sh.ring.Next()
		if !ok {
			break
		}
		if !l.place(rec) {
			sh.ring.Unread(len(rec))
			break
		}
		n++
	}
	if n > 0 {
		sh.ring.Release()
		sh.taken.Store(sh.taken.Load() + uint64(n))
	}
	return n
}

// place copies a record into the open message, or into the next one; false if
// the transport has no frame for it.
func (l *transmitLoop) place(rec []byte) bool {
	if l.open && l.w.AppendRaw(rec) {
		return true
	}
	if l.open {
		l.seal()
	}
	return l.begin() && l.w.AppendRaw(rec)
}

// begin opens a message in the transport's next frame.
func (l *transmitLoop) begin() bool {
	buf, err := l.tx.Next()
	if errors.Is(err, xsk.ErrNoFrame) {
		l.flush()
		buf, err = l.tx.Next()
	}
	l.noFrame = err != nil
	if l.noFrame {
		return false
	}
	if err := l.w.Init(buf[:min(len(buf), encoder.MaxMessageSize)], l.sender.version(), l.sender.cfg.SyncID); err != nil {
		return false // newTransmitLoop checked the size
	}
	l.open = true
	if d := l.sender.cfg.FlushInterval; d > 0 {
		l.deadline = time.Now().Add(d)
	}
	return true
}

// seal commits the open message to the transport.
func (l *transmitLoop) seal() {
	n := l.w.Count()
	m := l.w.Seal()
	l.tx.Commit(len(m))
	l.open = false
	l.sealed++
	l.inTx += uint64(n)
	l.messages.Add(1)
	l.bytes.Add(uint64(len(m)))
}

// flush hands the committed messages to the network.
func (l *transmitLoop) flush() {
	if l.down && time.Now().Before(l.retryAt) {
		return
	}
	if l.gone && !l.reopen() {
		return
	}
	if l.tx.Pending() == 0 {
		return
	}
	err := l.tx.Flush()
	if l.tx.Pending() == 0 {
		l.sent.Add(l.inTx)
		l.inTx = 0
	}
	switch {
	case err == nil:
		l.recovered()
	case errors.Is(err, xsk.ErrLinkDown):
		l.failed(err)
	case errors.Is(err, xsk.ErrDeviceGone), errors.Is(err, xsk.ErrClosed):
		l.gone = true
		l.failed(err)
	default:
		// Some messages were given up, and counted by onLost; the rest left.
		l.setLastError(err)
		l.sender.cfg.Logger.Error("messages could not be sent", "error", err)
	}
}

func (l *transmitLoop) failed(err error) {
	if !l.down {
		l.sender.cfg.Logger.Error("sending stops; updates wait in the rings", "error", err)
	}
	l.down = true
	l.retryAt = time.Now().Add(retryInterval)
	l.setLastError(err)
}

func (l *transmitLoop) recovered() {
	if l.down {
		l.sender.cfg.Logger.Info("sending resumes")
	}
	l.down = false
	l.setLastError(nil)
}

func (l *transmitLoop) setLastError(err error) {
	l.mu.Lock()
	l.lastErr = err
	l.mu.Unlock()
}

func (l *transmitLoop) lastError() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lastErr
}

// reopen replaces a transport whose device vanished. The open message moves to
// the new one; what the old one still held is lost, and counted.
func (l *transmitLoop) reopen() bool {
	tx, err := l.sender.cfg.openTx(l.onLost)
	if err != nil {
		l.failed(err)
		return false
	}
	var message []byte
	count := l.w.Count()
	if l.open {
		message = append(message, l.w.Seal()...)
		l.open = false
	}
	l.tx.Close()
	l.mu.Lock()
	l.past = l.past.Plus(l.tx.Stats())
	l.tx, l.txNow = tx, tx
	l.mu.Unlock()
	l.gone = false
	l.reopened.Add(1)
	if message == nil {
		return true
	}
	buf, err := tx.Next()
	if err != nil || len(buf) < len(message) {
		l.lost.Add(uint64(count))
		return true
	}
	copy(buf, message)
	tx.Commit(len(message))
	l.sealed++
	l.inTx += uint64(count)
	l.messages.Add(1)
	l.bytes.Add(uint64(len(message)))
	return true
}

func (l *transmitLoop) takeFlushRequests() {
	for {
		select {
		case done := <-l.flushes:
			r := flushRequest{done: done}
			for _, sh := range l.shards {
				r.marks = append(r.marks, sh.ring.Head())
			}
			l.waiting = append(l.waiting, r)
		default:
			return
		}
	}
}

// flushDue says whether the open message must go for the sake of a caller of
// Flush, whose updates are all in messages by now.
func (l *transmitLoop) flushDue() bool {
	due := false
	for i := range l.waiting {
		r := &l.waiting[i]
		if r.passed {
			continue
		}
		r.passed = true
		for j, sh := range l.shards {
			if int64(sh.ring.Tail()-r.marks[j]) < 0 {
				r.passed = false
				break
			}
		}
		if r.passed {
			r.sealed = l.sealed
			if l.open {
				r.sealed++ // the one that is about to be sealed
				due = true
			}
		}
	}
	return due
}

func (l *transmitLoop) answerFlushRequests() {
	rest := l.waiting[:0]
	for _, r := range l.waiting {
		if r.passed && r.sealed+uint64(l.tx.Pending()) <= l.sealed {
			close(r.done)
			continue
		}
		rest = append(rest, r)
	}
	l.waiting = rest
}

// wait sleeps until there may be something to do.
func (l *transmitLoop) wait(closing bool) {
	d := time.Duration(-1)
	state := uint32(asleep)
	switch {
	case l.down:
		d = time.Until(l.retryAt)
		state = napping
		if l.noFrame {
			state = awake // rings that fill up are of no use to anybody
		}
	case l.tx.Pending() > 0 || closing:
		if err := l.tx.Wait(congestionWait); err != nil {
			l.failed(err)
		}
		return
	case l.open:
		state, d = napping, time.Until(l.deadline)
	case len(l.waiting) > 0:
		return
	}
	l.alarm.state.Store(state) // pairs with the load in alarm.published
	defer l.alarm.state.Store(awake)
	for _, sh := range l.shards {
		if n := sh.ring.Len(); state == asleep && n > 0 || state == napping && 2*n >= sh.ring.Cap() {
			return
		}
	}
	if d < 0 && state != asleep {
		return
	}
	var timeout <-chan time.Time
	if state != asleep {
		l.timer.Reset(d)
		timeout = l.timer.C
	}
	select {
	case <-l.alarm.bell:
		l.timer.Stop()
	case <-timeout:
	}
}

func (l *transmitLoop) drained() bool {
	for _, sh := range l.shards {
		if sh.ring.Len() > 0 {
			return false
		}
	}
	return true
}

// shutDown ends the loop; what has not left by now is dropped and counted.
func (l *transmitLoop) shutDown() {
	if l.open {
		l.seal()
	}
	err := l.tx.Close() // counts by onLost what it still had
	l.sent.Add(l.inTx)
	l.inTx = 0
	l.sweep()
	for _, r := range l.waiting {
		close(r.done)
	}
	l.waiting = nil
	if n := l.stranded.Load(); n > 0 || l.lastError() != nil {
		err = errors.Join(fmt.Errorf("%d updates were left unsent in the rings", n), l.lastError(), err)
	}
	l.closeErr = err
}

// sweep counts the records that nobody will take out of the rings any more. A
// producer that was inside Publish during Close may still add one, so Stats
// sweeps again.
func (l *transmitLoop) sweep() {
	for _, sh := range l.shards {
		for {
			if _, ok := sh.ring.Next(); !ok {
				break
			}
			l.stranded.Add(1)
			sh.taken.Add(1)
		}
		sh.ring.Release()
	}
}
