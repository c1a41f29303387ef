package ipvsync

import (
	"bytes"
	"iter"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
)

// Key is what a connection is found by. KeyOf makes it from a Conn. It may be
// compared with ==.
type Key struct {
	Protocol encoder.Protocol
	Client   encoder.Endpoint
	Virtual  encoder.Endpoint
	// Template looks for a persistence template, which lives apart from a
	// connection of the same key.
	Template bool
	// Engine and EngineData are of a template's persistence engine, whose key
	// they are in place of the client's port. Others have none.
	Engine, EngineData string
}

// KeyOf is the key of c. It allocates only for a template with engine data.
func KeyOf(c *Conn) Key {
	k := Key{Protocol: c.Protocol, Client: c.Client, Virtual: c.Virtual, Template: c.Template()}
	if k.Template && hasEngine(c.Options) {
		name, data, _ := c.Options.PE()
		name, _, _ = bytes.Cut(name, []byte{0}) // where a kernel's ends, and the table's
		k.Engine, k.EngineData = string(name), string(data)
		k.Client.Port = 0
	}
	return k
}

// Entry is a connection of a Table, as it was at one moment.
type Entry struct {
	// Conn is as a record would carry it. Flags are those that a backup keeps,
	// and SYNC; Timeout is the whole one in seconds, never 0. Options are what a
	// backup keeps of them; the table's own bytes, not to be changed.
	Conn
	// Expires is what is left of the lifetime, seen from when the entry was asked for.
	Expires time.Duration
}

// toEntry makes an Entry of what the shard holds; now is in ticks.
func (s *tableShard) toEntry(m *image, r ref, now uint64, e *Entry) {
	m.conn(r&ref6 != 0, &e.Conn)
	e.Options = s.side.get(m.options())
	e.Expires = 0
	if d := m.deadline(); d > now {
		e.Expires = time.Duration(d-now) * tableTick
	}
}

// Lookup finds an entry that is alive. Without Template it finds the newest
// connection of the key; or, as the kernel does for a packet, one of which the client's port
// is not known yet. Not found are connections that the kernel does not find
// either: those of client port 0 without the flag NO_CPORT, and those of another
// with it. It takes no lock and does not allocate.
func (t *Table) Lookup(key Key) (e Entry, found bool) {
	var k flowKey
	switch want := k.ask(&key, &t.seed); want {
	case 0:
	case kindEngine:
		found = t.lookupEngine(&key, &k, &e)
	default:
		found = t.lookup(&k, want, nil, 0, &e)
	}
	runtime.KeepAlive(t) // or its memory would be unmapped meanwhile
	if !found {
		e = Entry{}
	}
	return e, found
}

// ask makes the key, and says which kind of entry is looked for first: 0 for a key
// that none can have. For kindEngine the hash is still to be made.
func (k *flowKey) ask(key *Key, seed *hashSeed) kind {
	if key.Client.Family != key.Virtual.Family || key.Client.Family != encoder.IPv4 && key.Client.Family != encoder.IPv6 {
		return 0
	}
	k.set(key.Protocol, &key.Client, &key.Virtual)
	k.sum(seed)
	switch {
	case key.Template && key.EngineData != "":
		return kindEngine
	case key.Template:
		return kindTemplate
	case key.Client.Port == 0:
		return kindNoCport
	}
	return kindConn
}

func (t *Table) lookupEngine(key *Key, k *flowKey, e *Entry) bool {
	var o encoder.Options
	o, err := o.AppendPE(key.Engine, []byte(key.EngineData))
	if err != nil {
		return false
	}
	k.sumEngine(&t.seed, o)
	return t.lookup(k, kindEngine, o, 0, e)
}

// patience is how often a reader tries without the mutex. A try fails when the
// writer changes the very entry at this moment; again and again, when it lost
// its processor in the middle.
const patience = 64

// lookup finds an entry of one kind; or, if there is no connection with the client's
// port, one of which that is not known. since is the time, or 0 if it is still to be asked for.
func (t *Table) lookup(k *flowKey, want kind, engine []byte, since int64, e *Entry) bool {
	if t.shard(k.hash).lookup(k, want, engine, since, e) {
		return true
	}
	if want != kindConn || t.noCport.Load() == 0 {
		return false
	}
	z := k.withoutCport(&t.seed)
	return t.shard(z.hash).lookup(&z, kindNoCport, nil, since, e)
}

func (s *tableShard) lookup(k *flowKey, want kind, engine []byte, since int64, e *Entry) bool {
	for range patience {
		if found, sure := s.tryLookup(k, want, engine, since, e); sure {
			return found
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found, _ := s.tryLookup(k, want, engine, since, e)
	return found
}

// tryLookup looks once. It is not sure if it met an entry that was being changed
// or had become another's.
func (s *tableShard) tryLookup(k *flowKey, want kind, engine []byte, since int64, e *Entry) (found, sure bool) {
	tag, b := tagOf(k.hash), s.index.home(k.hash)
	for {
		p := s.index.bucket(b)
		first := atomic.LoadUint64(p)
		for i := range bucketSlots {
			w := atomic.LoadUint64(wordAfter(p, i))
			if w&slotTag != tag || uint32(w) == 0 || (w&uint64(ref6) != 0) != k.v6 {
				continue
			}
			found, sure := s.follow(ref(w), k, want, engine, since, e)
			if found || !sure {
				return found, sure
			}
			if now := atomic.LoadUint64(wordAfter(p, i)); now&slotBits != w&slotBits {
				return false, false
			}
		}
		if first>>56 == 0 {
			return false, true
		}
		b = s.index.next(b)
	}
}

// follow looks for an entry of the wanted kind from r on to older ones.
func (s *tableShard) follow(r ref, k *flowKey, want kind, engine []byte, since int64, e *Entry) (found, sure bool) {
	var m image
	// The clock first: if it says that what is loaded after is over, it is.
	if since == 0 {
		p := s.entry(r)
		lines := [2]uintptr{addressOf(p), addressOf(wordAfter(p, words4))}
		prefetchLines(&lines[0], 1+family(k.v6)) // the clock takes as long as the entry needs to come
		since = s.table.since()
	}
	for first := true; r != 0; first = false {
		p := s.entry(r)
		if !m.load(p, k.v6) {
			return false, false
		}
		if m.kind() == kindEngine != (engine != nil) || !m.matches(k, engine != nil) {
			// Another key of the same tag; or behind the first, an entry that
			// was given to another key meanwhile.
			return false, first
		}
		if m.kind() == want {
			if left := int64(m.deadline())*int64(tableTick) - since; left > 0 {
				m.conn(k.v6, &e.Conn)
				e.Expires = time.Duration(left)
				e.Options = s.side.get(m.options())
				if m.options() != 0 && atomic.LoadUint64(p) != m[wVersion] {
					return false, false
				}
				if engine == nil || string(engineOf(e.Options)) == string(engine) {
					return true, true
				}
			}
		}
		if engine != nil {
			return false, true
		}
		r = ref(m[wChain])
	}
	return false, true
}

// matches is has, without the client's port for a template with engine data.
func (m *image) matches(k *flowKey, engine bool) bool {
	if !engine {
		return m.has(k)
	}
	z := *k
	z.ports = k.ports&^0xffff | m[wPorts]&0xffff
	return m.has(&z)
}

// All yields every entry that is alive, in no order, while updates go on: each as
// it was at one moment; none twice, unless it ended and came again. One that comes or ends meanwhile may be
// among them or not. Options are the table's own bytes, not to be changed.
func (t *Table) All() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		defer runtime.KeepAlive(t)
		for i := range t.shards {
			s := &t.shards[i]
			for f, flag := range [...]ref{0, ref6} {
				// Entries that come later may be new; those are not missed.
				for n := uint32(1); n <= s.arena[f].used.Load(); n++ {
					var e Entry
					if s.snapshot(ref(n)|flag, &e) && !yield(e) {
						return
					}
				}
			}
		}
	}
}

// snapshot reads one entry, if it is alive.
func (s *tableShard) snapshot(r ref, e *Entry) bool {
	for range patience {
		if alive, sure := s.trySnapshot(r, e); sure {
			return alive
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	alive, _ := s.trySnapshot(r, e)
	return alive
}

func (s *tableShard) trySnapshot(r ref, e *Entry) (alive, sure bool) {
	var m image
	p, since := s.entry(r), s.table.since() // before what it judges
	if !m.load(p, r&ref6 != 0) {
		return false, false
	}
	left := int64(m.deadline())*int64(tableTick) - since
	if m.kind() == 0 || left <= 0 {
		return false, true
	}
	m.conn(r&ref6 != 0, &e.Conn)
	e.Options = s.side.get(m.options())
	e.Expires = time.Duration(left)
	return true, m.options() == 0 || atomic.LoadUint64(p) == m[wVersion]
}
