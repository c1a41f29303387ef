package ipvsync

import (
	"slices"
	"sync"
	"sync/atomic"
)

// ChangeKind says what happened to an entry of a Table.
type ChangeKind uint8

// Kinds of changes.
const (
	Added    ChangeKind = iota // it is new
	Updated                    // a record changed it, or just started its timer again
	Replaced                   // a record of another destination ended the old one and made this
	Expired                    // its time was over
)

var changeNames = [...]string{"added", "updated", "replaced", "expired"}

func (k ChangeKind) String() string {
	if int(k) < len(changeNames) {
		return changeNames[k]
	}
	return "unknown"
}

// Change is one change of a Table.
type Change struct {
	Kind  ChangeKind
	Entry Entry // after it; for Expired, what ended
	Old   Conn  // Replaced: what was there before
}

// Subscription gets the changes of a Table from Subscribe on. Changes of one
// connection come in their order.
type Subscription struct {
	table   *Table
	changes chan Change
	missed  atomic.Uint64
	mu      sync.Mutex // between the senders, and Close
	closed  bool
}

// subscribers are replaced as a whole; nil if there are none.
type subscribers []*Subscription

// Subscribe begins a subscription with a queue of up to size changes, at least
// 1. The table never waits for a subscriber: a change that finds the queue full
// is missed by it, and counted. Who missed some looks at All for what it should
// have.
func (t *Table) Subscribe(size int) *Subscription {
	sub := &Subscription{table: t, changes: make(chan Change, max(size, 1))}
	t.subsMu.Lock()
	defer t.subsMu.Unlock()
	if t.closed.Load() {
		sub.end()
		return sub
	}
	var subs subscribers
	if old := t.subs.Load(); old != nil {
		subs = slices.Clone(*old)
	}
	subs = append(subs, sub)
	t.subs.Store(&subs)
	return sub
}

// Changes is where the changes come. It is closed, with what is left in it to be
// read, by Close, and by the table's.
func (s *Subscription) Changes() <-chan Change { return s.changes }

// Missed is the number of changes that found the queue full.
func (s *Subscription) Missed() uint64 { return s.missed.Load() }

// Close ends the subscription. It may be called more than once.
func (s *Subscription) Close() {
	t := s.table
	t.subsMu.Lock()
	if old := t.subs.Load(); old != nil {
		subs := slices.DeleteFunc(slices.Clone(*old), func(o *Subscription) bool { return o == s })
		if len(subs) == 0 {
			t.subs.Store(nil)
		} else {
			t.subs.Store(&subs)
		}
	}
	t.subsMu.Unlock()
	s.end()
}

func (s *Subscription) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.changes)
	}
}

// endSubscriptions is for the table's Close, which has set closed.
func (t *Table) endSubscriptions() {
	t.subsMu.Lock()
	defer t.subsMu.Unlock()
	if subs := t.subs.Swap(nil); subs != nil {
		for _, s := range *subs {
			s.end()
		}
	}
}

// tell gives a change to all and returns how many missed it.
func (subs *subscribers) tell(c *Change) (missed uint64) {
	for _, s := range *subs {
		s.mu.Lock()
		if !s.closed {
			select {
			case s.changes <- *c:
			default:
				s.missed.Add(1)
				missed++
			}
		}
		s.mu.Unlock()
	}
	return missed
}

// tell gives the change of entry r, which m is an image of, to all subscribers.
func (s *tableShard) tell(subs *subscribers, kind ChangeKind, m *image, r ref, now uint64, old *Conn) {
	c := Change{Kind: kind}
	s.toEntry(m, r, now, &c.Entry)
	if old != nil {
		c.Old = *old
	}
	s.stats.Missed += subs.tell(&c)
}
