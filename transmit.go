package ipvsync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
)

// place finds a place for a record: in the window, in the open message, or in
// the next one; false if the transport has no frame for it.
func (p *port) place(rec []byte) bool {
	if p.window == nil {
		return p.message(rec)
	}
	if !p.window.put(rec) && (!p.drainWindow() || !p.window.put(rec)) {
		return false
	}
	if !p.pending {
		p.startClock()
	}
	return true
}

// move copies plain IPv4 records, back to back, into the open message and those
// that follow, and returns how many. It begins no message once there are budget,
// nor if the transport has no frame.
func (p *port) move(recs []byte, budget int) (n int) {
	for len(recs) > 0 && (p.open || n < budget && p.begin()) {
		k := p.w.AppendPlainIPv4s(recs)
		recs = recs[k*encoder.PlainIPv4Size:]
		n += k
		if p.w.Full() {
			p.seal()
		} else {
			p.appended()
		}
	}
	return n
}

// message copies a record into the open message, or into the next one.
func (p *port) message(rec []byte) bool {
	if p.open && p.w.AppendRaw(rec) {
		p.appended()
		return true
	}
	if p.open && p.w.Count() > 0 {
		p.seal()
	}
	if !p.open && !p.begin() {
		return false
	}
	if !p.w.AppendRaw(rec) {
		// It fitted when it was published: the MTU has become smaller since.
		p.accepted.Store(p.accepted.Load() + 1)
		p.lost.Store(p.lost.Load() + 1)
		return true
	}
	p.appended()
	return true
}

// appended is for a message in which records wait for more.
func (p *port) appended() {
	p.direct = p.window == nil
	if !p.pending {
		p.startClock()
	}
}

// drainWindow moves what waits in the window into messages; false if the
// transport had no frame for all of it.
func (p *port) drainWindow() bool {
	for rec := p.window.first(); rec != nil; rec = p.window.first() {
		if !p.message(rec) {
			return false
		}
		p.window.next()
	}
	p.window.reset()
	return true
}

// begin opens a message in the transport's next frame.
func (p *port) begin() bool {
	buf, err := p.tx.Next()
	if err != nil && errors.Is(err, xsk.ErrNoFrame) {
		p.flush()
		buf, err = p.tx.Next()
	}
	p.noFrame = err != nil
	if p.noFrame {
		return false
	}
	if err := p.w.Init(buf[:min(len(buf), encoder.MaxMessageSize)], p.version, p.cfg.SyncID); err != nil {
		return false // newPort checked the size
	}
	p.open = true
	return true
}

// startClock sets the deadline for the first record that waits.
func (p *port) startClock() {
	p.pending = true
	if d := p.cfg.FlushInterval; d > 0 {
		p.deadline = p.clock() + d
	}
}

// clock is the time of this turn. Asking for it costs as much as a message.
func (p *port) clock() time.Duration {
	if p.now == 0 {
		p.now = time.Since(p.begun)
	}
	return p.now
}

// sealAll seals everything that waits.
func (p *port) sealAll() {
	if p.window != nil && !p.drainWindow() {
		return // without frames; the rest of the window goes on waiting
	}
	if p.open && p.w.Count() > 0 {
		p.seal()
	}
	p.pending = false
}

// sealFull seals the open message if no record fits any more.
func (p *port) sealFull() bool {
	full := p.open && p.w.Full()
	if full {
		p.seal()
	}
	return full
}

// seal commits the open message to the transport.
func (p *port) seal() {
	n := p.w.Count()
	p.commit(p.w.Seal(), n)
	p.open, p.direct = false, false
	p.pending = p.window != nil && p.window.left() > 0
}

func (p *port) commit(message []byte, records int) {
	if p.window != nil {
		p.merged(p.window.takeMerged())
	}
	p.tx.Commit(len(message))
	if p.sealed-p.settled == uint64(len(p.ends)) {
		p.growEnds()
	}
	p.committed += uint64(records)
	p.ends[p.sealed&uint64(len(p.ends)-1)] = p.committed
	p.sealed++
	p.fresh.accepted += uint64(records)
	p.fresh.messages++
	p.fresh.bytes += uint64(len(message))
}

// count shows the messages committed since the last time to Stats, before the
// transport gets to say what has become of them.
func (p *port) count() {
	if p.fresh.messages == 0 {
		return
	}
	p.accepted.Store(p.accepted.Load() + p.fresh.accepted)
	p.messages.Store(p.messages.Load() + p.fresh.messages)
	p.bytes.Store(p.bytes.Load() + p.fresh.bytes)
	p.fresh.accepted, p.fresh.messages, p.fresh.bytes = 0, 0, 0
}

// growEnds is for a transport with more frames than there is room for.
func (p *port) growEnds() {
	ends := make([]uint64, 2*len(p.ends))
	for i := p.settled; i != p.sealed; i++ {
		ends[i%uint64(len(ends))] = p.ends[i%uint64(len(p.ends))]
	}
	p.ends = ends
}

// settle counts the records of the messages that have left the transport, which
// still has pending ones: they were sent, but for those that it gave up.
func (p *port) settle(pending int) {
	settled := p.sealed - uint64(pending)
	if settled == p.settled {
		return
	}
	left := p.ends[(settled-1)&uint64(len(p.ends)-1)]
	n := left - p.left
	p.settled, p.left = settled, left
	// What is given up belongs to messages that have left, but the transport may
	// tell before it lets go of the frames.
	gone := min(n, p.given)
	p.given -= gone
	p.sent.Store(p.sent.Load() + n - gone)
}

// merged counts records that a later one of the same flow replaced.
func (p *port) merged(n uint64) {
	p.accepted.Store(p.accepted.Load() + n)
	p.coalesced.Store(p.coalesced.Load() + n)
}

// onLost counts the records of a message that nobody will get.
func (p *port) onLost(message []byte) {
	var d encoder.Decoder
	d.Open(message)
	n := uint64(d.Header().Count)
	p.lost.Store(p.lost.Load() + n)
	p.given += n
}

// flush hands the committed messages to the network.
func (p *port) flush() {
	p.count()
	if p.down && time.Now().Before(p.retryAt) {
		return
	}
	if p.gone && !p.reopen() {
		return
	}
	if p.tx.Pending() == 0 {
		return
	}
	err := p.tx.Flush()
	p.settle(p.tx.Pending())
	switch {
	case err == nil:
		p.recovered()
		if p.troubled {
			p.setLastError(nil)
		}
	case errors.Is(err, xsk.ErrLinkDown):
		p.failed(err)
	case errors.Is(err, xsk.ErrDeviceGone), errors.Is(err, xsk.ErrBroken), errors.Is(err, xsk.ErrClosed):
		p.gone = true
		p.failed(err)
	default:
		// Some messages were given up, and counted by onLost; the rest left.
		p.recovered()
		p.gaveUp(err)
		if p.gone && p.tx.Pending() == 0 {
			p.reopen() // at once, before more is committed to the old one
		}
	}
}

// gaveUp reports, once in a while, that messages are lost. If they have become
// too long for the interface, a new transport will make shorter ones.
func (p *port) gaveUp(err error) {
	p.setLastError(err)
	p.lossCause = err
	now := time.Now()
	if now.After(p.complain) {
		p.complain = now.Add(complainInterval)
		p.cfg.Logger.Error("messages could not be sent", "port", p.udpPort(), "error", err, "updates lost so far", p.lost.Load())
	}
	if errors.Is(err, xsk.ErrMTU) && now.After(p.remeasure) {
		p.remeasure = now.Add(complainInterval)
		p.gone = true
	}
}

func (p *port) failed(err error) {
	if why := err.Error(); !p.down || why != p.told { // each reason once
		p.told = why
		p.cfg.Logger.Error("sending stops; updates wait in the rings", "port", p.udpPort(), "error", err)
	}
	p.down = true
	p.retryAt = time.Now().Add(retryInterval)
	p.setLastError(err)
}

func (p *port) recovered() {
	if p.down {
		p.cfg.Logger.Info("sending resumes", "port", p.udpPort())
		p.down = false
		p.setLastError(nil)
	}
}

func (p *port) setLastError(err error) {
	p.troubled = err != nil
	p.mu.Lock()
	p.lastErr = err
	p.mu.Unlock()
}

func (p *port) lastError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lastErr
}

// reopen replaces a transport whose device vanished. The old one goes first: it
// may hold what the new one needs, such as a device queue. What it still held is
// lost, and counted. The open message moves to the new one, if there is one at
// once.
func (p *port) reopen() bool {
	var message []byte
	count := 0
	if p.open {
		count = p.w.Count()
		message = append(message, p.w.Seal()...)
		p.open, p.direct = false, false
		p.pending = p.window != nil && p.window.left() > 0
	}
	p.lossCause = p.lastError()
	p.count()
	p.tx.Close() // more than once, if the new one keeps failing
	p.settle(0)
	tx, choice, err := p.openTx()
	if err != nil {
		p.accepted.Store(p.accepted.Load() + uint64(count))
		p.lost.Store(p.lost.Load() + uint64(count))
		p.failed(err)
		return false
	}
	p.mu.Lock()
	p.past = p.past.Plus(p.tx.Stats())
	p.tx, p.txNow, p.choice = tx, tx, choice
	p.mu.Unlock()
	p.gone = false
	p.reopened.Store(p.reopened.Load() + 1)
	p.recovered()
	if message == nil || count == 0 {
		return true
	}
	buf, err := tx.Next()
	if err != nil || len(buf) < len(message) {
		p.accepted.Store(p.accepted.Load() + uint64(count))
		p.lost.Store(p.lost.Load() + uint64(count))
		return true
	}
	copy(buf, message)
	p.commit(message, count)
	return true
}

// flushCall is what the caller of Flush and the loop share.
type flushCall struct {
	ctx  context.Context // when it is done, the caller waits no more
	done chan error      // capacity 1
}

// flushRequest is a caller of Flush: satisfied when every ring has been read up
// to its mark, and the messages sealed until then have left.
type flushRequest struct {
	*flushCall
	lost   uint64 // records lost before it
	marks  []uint64
	passed bool
	sealed uint64
}

func (p *port) takeFlushRequests() {
	for {
		select {
		case call := <-p.flushes:
			r := flushRequest{flushCall: call, lost: p.lost.Load()}
			for i := range p.sources {
				r.marks = append(r.marks, p.sources[i].ring.Head())
			}
			p.waiting = append(p.waiting, r)
		default:
			return
		}
	}
}

// flushDue says whether what waits must go for the sake of a caller of Flush,
// whose updates are all out of the rings by now.
func (p *port) flushDue() bool {
	due := false
	for i := range p.waiting {
		r := &p.waiting[i]
		if !r.passed {
			r.passed = true
			for j := range p.sources {
				if int64(p.sources[j].ring.Tail()-r.marks[j]) < 0 {
					r.passed = false
					break
				}
			}
		}
		due = due || r.passed && r.sealed == 0
	}
	return due
}

// answerFlushRequests comes after what was due has been sealed.
func (p *port) answerFlushRequests() {
	rest := p.waiting[:0]
	for _, r := range p.waiting {
		if r.ctx.Err() != nil {
			continue
		}
		if r.passed && r.sealed == 0 && !p.pending {
			r.sealed = p.sealed + 1 // + 1: 0 means not yet
		}
		if r.sealed > 0 && r.sealed+uint64(p.tx.Pending()) <= p.sealed+1 {
			if n := p.lost.Load() - r.lost; n > 0 {
				r.done <- fmt.Errorf("%w: %d: %w", ErrLost, n, p.lossCause)
			} else {
				r.done <- nil
			}
			continue
		}
		rest = append(rest, r)
	}
	p.waiting = rest
}
