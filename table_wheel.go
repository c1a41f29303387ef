package ipvsync

import "time"

// A shard's timer wheel: one slot for each tick of the next seventeen minutes,
// which is more than the kernel's longest default timeout. An entry is linked in
// the slot of its deadline, or in the last one if that is too far away. A refresh
// leaves it where it is: when the slot comes due the entry is looked at, and goes
// to the slot of its deadline if that is later. Only a deadline before the slot
// moves it at once. So a refresh touches nothing but its entry, and time costs
// each entry one look in seventeen minutes.
const (
	wheelSlots = 1 << 13
	tableTick  = time.Second / 8
)

type wheel struct {
	pos   uint64 // the next tick to be looked at; all before are done
	slots []ref  // the first entry of each
}

func (w *wheel) init() { w.slots = make([]ref, wheelSlots) }

// links of an entry in word 7: next in the low half, previous in the high; the
// first of a slot has no previous.

// wheelLink links an entry for its deadline, and says so in m: word 1 and 7. The
// caller writes both.
func (s *tableShard) wheelLink(r ref, m *image, now uint64) {
	w := &s.wheel
	at := m.deadline()
	last := max(w.pos, now) + wheelSlots - 1
	if at = min(max(at, w.pos), last); at-w.pos >= wheelSlots && at%wheelSlots == w.pos%wheelSlots {
		at-- // not into the slot that may be at work
	}
	slot := at % wheelSlots
	first := w.slots[slot]
	if first != 0 {
		q := wordAfter(s.entry(first), wWheel)
		*q = *q&0xffffffff | uint64(r)<<32
	}
	w.slots[slot] = r
	m[wWheel] = uint64(first)
	m.setSlot(slot)
}

func (s *tableShard) wheelUnlink(m *image) {
	next, prev := ref(m[wWheel]), ref(m[wWheel]>>32)
	if next != 0 {
		q := wordAfter(s.entry(next), wWheel)
		*q = *q&0xffffffff | uint64(prev)<<32
	}
	if prev != 0 {
		q := wordAfter(s.entry(prev), wWheel)
		*q = *q&^0xffffffff | uint64(next)
		return
	}
	s.wheel.slots[m.slot()] = next
}

// wheelMove links an entry anew if its deadline, set in m, is before its slot.
func (s *tableShard) wheelMove(r ref, p *uint64, m *image, now uint64) {
	w := &s.wheel
	linked := w.pos + (m.slot()-w.pos)%wheelSlots
	if m.deadline() >= linked {
		return
	}
	m[wWheel] = *wordAfter(p, wWheel)
	s.wheelUnlink(m)
	s.wheelLink(r, m, now)
	*wordAfter(p, wWheel) = m[wWheel]
}

// advance looks at the slots up to now, and at no more than budget entries. It
// says whether that was all.
func (s *tableShard) advance(now uint64, budget int) bool {
	w := &s.wheel
	if now >= w.pos+wheelSlots {
		w.pos = now - wheelSlots + 1 // once around is everything
	}
	for ; w.pos <= now; w.pos++ {
		slot := w.pos % wheelSlots
		for r := w.slots[slot]; r != 0; r = w.slots[slot] {
			if budget--; budget < 0 {
				return false
			}
			p := s.entry(r)
			if *wordAfter(p, wDeadline)&deadlineMask <= now {
				s.expire(r, p)
				continue
			}
			var m image
			m[wDeadline], m[wWheel] = *wordAfter(p, wDeadline), *wordAfter(p, wWheel)
			s.wheelUnlink(&m)
			s.wheelLink(r, &m, now)
			*wordAfter(p, wWheel) = m[wWheel]
			storeWord(wordAfter(p, wDeadline), m[wDeadline]) // the deadline in it is the same
		}
	}
	return true
}
