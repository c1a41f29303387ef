package ipvsync

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// tableShard holds the entries whose hash begins with its number. Everything in
// it is changed under mu alone, and read by anybody: index and entries without
// mu, as docs/memory-model.md says.
type tableShard struct {
	mu    sync.Mutex
	table *Table
	index index
	arena [2]arena // IPv4, IPv6
	side  sideStore
	wheel wheel
	stats TableStats // those of this shard; Entries is not used
	_     [128]byte
}

// arena holds entries of one size. Entry 0 is not used.
type arena struct {
	region
	size uintptr       // bytes of an entry
	used atomic.Uint32 // entries that were ever used, from 1 on
	free uint32        // list by the wheel's link
	cap  uint32
}

func (s *tableShard) open(t *Table, entries uint64) (err error) {
	s.table = t
	s.wheel.init()
	if s.index, err = newIndex(entries); err != nil {
		return err
	}
	for i, size := range [...]uintptr{entry4, entry6} {
		a := &s.arena[i]
		a.size, a.cap = size, uint32(entries)
		if a.region, err = newRegion(uintptr(entries+1) * size); err != nil {
			return err
		}
	}
	return nil
}

func (s *tableShard) regions() [3]*region {
	return [...]*region{&s.index.region, &s.arena[0].region, &s.arena[1].region}
}

// entry is the first word of r.
func (s *tableShard) entry(r ref) *uint64 {
	if r&ref6 != 0 {
		return s.arena[1].word(uintptr(r&^ref6) * entry6)
	}
	return s.arena[0].word(uintptr(r) * entry4)
}

// read copies an entry for whoever holds mu.
func (s *tableShard) read(r ref, m *image) *uint64 {
	p := s.entry(r)
	n := words4
	if r&ref6 != 0 {
		n = words6
	}
	for i := range n {
		m[i] = *wordAfter(p, i)
	}
	return p
}

// write publishes an entry: its life alone, or all of it. Word 7 must be right.
func (s *tableShard) write(r ref, p *uint64, m *image, lifeOnly bool) {
	m.bump()
	n := words4
	switch {
	case lifeOnly:
		n = wTimeout + 1
	case r&ref6 != 0:
		n = words6
	}
	publishWords(p, &m[0], n)
}

// room says whether the shard has an entry to spare for the family.
func (s *tableShard) room(v6 bool) bool {
	a := &s.arena[family(v6)]
	return a.free != 0 || a.used.Load() < a.cap
}

// take is an unused entry; there is room.
func (s *tableShard) take(v6 bool) ref {
	a := &s.arena[family(v6)]
	n := a.free
	if n != 0 {
		a.free = uint32(*wordAfter(a.word(uintptr(n)*a.size), wWheel))
	} else {
		n = a.used.Load() + 1
		a.used.Store(n)
	}
	if v6 {
		return ref(n) | ref6
	}
	return ref(n)
}

// give makes r unused, and unseen for readers.
func (s *tableShard) give(r ref, p *uint64) {
	a := &s.arena[family(r&ref6 != 0)]
	var m image
	m[wVersion] = *p
	m.setLife(0, 0, 0, 0, 0)
	m.bump()
	publishWords(p, &m[0], wWheel)
	*wordAfter(p, wWheel) = uint64(a.free)
	a.free = uint32(r &^ ref6)
}

func family(v6 bool) int {
	if v6 {
		return 1
	}
	return 0
}

// find is the newest entry of the key in the index, whatever its kind, or 0.
// engine is nil, or the engine data that must match; see kindEngine.
func (s *tableShard) find(k *flowKey, engine []byte) ref {
	tag, b := tagOf(k.hash), s.index.home(k.hash)
	for {
		p := s.index.bucket(b)
		for i := range bucketSlots {
			w := *wordAfter(p, i)
			if w&slotTag == tag && uint32(w) != 0 && s.is(ref(w), k, engine) {
				return ref(w)
			}
		}
		if *p>>56 == 0 {
			return 0
		}
		b = s.index.next(b)
	}
}

// is says whether r is of the key.
func (s *tableShard) is(r ref, k *flowKey, engine []byte) bool {
	if (r&ref6 != 0) != k.v6 {
		return false
	}
	p := s.entry(r)
	ports := *wordAfter(p, wPorts)
	if engine != nil {
		if kind(ports>>40) != kindEngine || ports&(keyMask&^0xffff) != k.ports&^0xffff {
			return false
		}
	} else if ports&keyMask != k.ports || kind(ports>>40) == kindEngine {
		return false
	}
	if !k.v6 {
		if *wordAfter(p, wAddrs) != k.client[0] {
			return false
		}
	} else if *wordAfter(p, wClient6) != k.client[0] || *wordAfter(p, wClient6+1) != k.client[1] ||
		*wordAfter(p, wVirtual6) != k.virtual[0] || *wordAfter(p, wVirtual6+1) != k.virtual[1] {
		return false
	}
	return engine == nil || s.side.hasEngine(uint32(*wordAfter(p, wTimeout)>>32), engine)
}

// older is the next older entry of the same key.
func (s *tableShard) older(r ref) ref { return ref(*wordAfter(s.entry(r), wChain)) }

// pick is the newest entry of the key that is one of two kinds and not over.
// Those of them that are over are removed on the way.
func (s *tableShard) pick(k *flowKey, engine []byte, now uint64, one, two kind) ref {
	r := s.find(k, engine)
	for r != 0 {
		p, next := s.entry(r), s.older(r)
		if kd := kind(*wordAfter(p, wPorts) >> 40); kd == one || kd == two {
			if *wordAfter(p, wDeadline)&deadlineMask > now {
				return r
			}
			s.expire(r, p)
		}
		r = next
	}
	return 0
}

// link enters a new entry into index and chain, as the newest of its key. The
// entry is whole and names head, the newest so far, as the next older one: from
// here on readers find it.
func (s *tableShard) link(r, head ref, hash uint64) {
	if head == 0 {
		if !s.index.put(hash, r) {
			panic(fmt.Sprintf("ipvsync: table index of %d buckets is full", s.index.buckets))
		}
		return
	}
	q := wordAfter(s.entry(head), wChain)
	storeWord(q, *q&0xffffffff|uint64(r)<<32)
	s.index.set(hash, head, r)
}

// unlink takes an entry out of index and chain.
func (s *tableShard) unlink(m *image, r ref, hash uint64) {
	older, newer := ref(m[wChain]), ref(m[wChain]>>32)
	if older != 0 {
		q := wordAfter(s.entry(older), wChain)
		storeWord(q, *q&0xffffffff|uint64(newer)<<32)
	}
	if newer != 0 {
		q := wordAfter(s.entry(newer), wChain)
		storeWord(q, *q&^0xffffffff|uint64(older))
		return
	}
	s.index.set(hash, r, older)
}

// hashOf is the hash by which an entry is in the index.
func (s *tableShard) hashOf(m *image, v6 bool) uint64 {
	var k flowKey
	k.v6, k.ports = v6, m[wPorts]&keyMask
	k.client[0] = m[wAddrs]
	if v6 {
		k.client = [2]uint64{m[wClient6], m[wClient6+1]}
		k.virtual = [2]uint64{m[wVirtual6], m[wVirtual6+1]}
	}
	if m.kind() == kindEngine {
		k.sumEngine(&s.table.seed, s.side.engine(m.options()))
	} else {
		k.sum(&s.table.seed)
	}
	return k.hash
}

// expire removes an entry whose time is over.
func (s *tableShard) expire(r ref, p *uint64) {
	var m image
	s.read(r, &m)
	if subs := s.table.subs.Load(); subs != nil {
		s.tell(subs, Expired, &m, r, m.deadline(), nil)
	}
	s.remove(r, p, &m)
	s.stats.Expired++
}

// remove takes an entry out of everything.
func (s *tableShard) remove(r ref, p *uint64, m *image) {
	kd := m.kind()
	if kd != kindLost {
		s.unlink(m, r, s.hashOf(m, r&ref6 != 0))
	}
	s.wheelUnlink(m)
	if kd == kindNoCport {
		s.table.noCport.Add(-1)
	}
	options := m.options()
	s.give(r, p)
	s.side.drop(options)
	s.table.entries.Add(-1)
}
