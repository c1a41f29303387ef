package ipvsync

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
)

// plainMap is the obvious way to write a backup's table: a Go map of pointers to
// entries, and a mutex, held for a message. Like mapTable it has the rules that these
// records meet, and no timers: only the deadline.
type plainMap struct {
	mu      sync.Mutex
	entries map[plainKey]*plainEntry
	start   time.Time
}

type plainKey struct {
	client, virtual encoder.Endpoint
	protocol        encoder.Protocol
	template        bool
}

type plainEntry struct {
	Conn
	deadline time.Duration
}

func (m *plainMap) Len() int { return len(m.entries) }

func (m *plainMap) Apply(conns []Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Since(m.start)
	for i := range conns {
		c := &conns[i]
		if refused(c) != NumIgnoreReasons {
			continue
		}
		k := plainKey{c.Client, c.Virtual, c.Protocol, c.Template()}
		e := m.entries[k]
		switch {
		case e == nil || e.deadline <= now || e.Dest != c.Dest && c.Flags&encoder.FlagInactive == 0:
			e = &plainEntry{Conn: *c}
			e.Flags = c.Flags.Backup(1)
			m.entries[k] = e
		case e.Dest != c.Dest:
			continue
		default:
			e.Flags = c.Flags&updated | e.Flags&^updated
		}
		e.State, e.Timeout = c.State, timeoutOf(c, e.Flags)
		e.deadline = now + time.Duration(e.Timeout)*time.Second
	}
}

// mapTable is the same, packed by hand for IPv4 and nothing else: what is hardest to beat.
type mapTable struct {
	mu      sync.Mutex
	entries map[mapKey]*mapEntry
	start   time.Time
}

type mapKey struct {
	client, virtual [4]byte
	cport, vport    uint16
	protocol        encoder.Protocol
	template        bool
}

type mapEntry struct {
	dest     [4]byte
	dport    uint16
	state    encoder.State
	flags    encoder.Flags
	fwmark   uint32
	timeout  uint32
	deadline time.Duration
	options  encoder.Options
}

func mapKeyOf(c *Conn) mapKey {
	return mapKey{[4]byte(c.Client.Addr[:4]), [4]byte(c.Virtual.Addr[:4]), c.Client.Port, c.Virtual.Port, c.Protocol, c.Template()}
}

func (m *mapTable) Len() int { return len(m.entries) }

func (m *mapTable) Apply(conns []Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Since(m.start)
	for i := range conns {
		c := &conns[i]
		if refused(c) != NumIgnoreReasons {
			continue
		}
		k := mapKeyOf(c)
		e := m.entries[k]
		if e != nil && e.deadline > now {
			if e.dest == [4]byte(c.Dest.Addr[:4]) && e.dport == c.Dest.Port {
				e.flags = c.Flags&updated | e.flags&^updated
				e.state, e.timeout = c.State, timeoutOf(c, e.flags)
				e.deadline = now + time.Duration(e.timeout)*time.Second
				continue
			}
			if c.Flags&encoder.FlagInactive != 0 {
				continue
			}
		}
		m.entries[k] = newMapEntry(c, now)
	}
}

func newMapEntry(c *Conn, now time.Duration) *mapEntry {
	f := c.Flags.Backup(1)
	e := &mapEntry{dest: [4]byte(c.Dest.Addr[:4]), dport: c.Dest.Port, state: c.State, flags: f, fwmark: c.Fwmark, timeout: timeoutOf(c, f)}
	e.deadline = now + time.Duration(e.timeout)*time.Second
	return e
}

func (e *mapEntry) conn(k *mapKey, c *Conn) {
	setAddr4(&c.Client, binary.NativeEndian.Uint32(k.client[:]))
	setAddr4(&c.Virtual, binary.NativeEndian.Uint32(k.virtual[:]))
	setAddr4(&c.Dest, binary.NativeEndian.Uint32(e.dest[:]))
	c.Client.Port, c.Virtual.Port, c.Dest.Port, c.Protocol = k.cport, k.vport, e.dport, k.protocol
	c.State, c.Flags, c.Fwmark, c.Timeout, c.Options = e.state, e.flags, e.fwmark, e.timeout, e.options
}

// valueTable is mapTable with the entries in the map itself: no allocation, no
// pointer to follow, nothing for the collector to scan. Options, which these
// connections have not, would be in a second map.
type valueTable struct {
	mu      sync.Mutex
	entries map[mapKey]valueEntry
	start   time.Time
}

type valueEntry struct {
	dest     [4]byte
	dport    uint16
	state    encoder.State
	flags    encoder.Flags
	fwmark   uint32
	timeout  uint32
	deadline uint32 // seconds
}

func (m *valueTable) Len() int { return len(m.entries) }

func (m *valueTable) Apply(conns []Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := uint32(time.Since(m.start) / time.Second)
	for i := range conns {
		c := &conns[i]
		if refused(c) != NumIgnoreReasons {
			continue
		}
		k := mapKeyOf(c)
		e, ok := m.entries[k]
		ok = ok && e.deadline > now
		switch same := e.dest == [4]byte(c.Dest.Addr[:4]) && e.dport == c.Dest.Port; {
		case ok && same:
			e.flags = c.Flags&updated | e.flags&^updated
		case ok && c.Flags&encoder.FlagInactive != 0:
			continue
		default:
			e = valueEntry{dest: [4]byte(c.Dest.Addr[:4]), dport: c.Dest.Port, flags: c.Flags.Backup(1), fwmark: c.Fwmark}
		}
		e.state, e.timeout = c.State, timeoutOf(c, e.flags)
		e.deadline = now + e.timeout
		m.entries[k] = e
	}
}
