package ipvsync

import (
	"fmt"
	"slices"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
)

// twinTable is the kernel's rules once more, as slow and plain as can be: a list
// in order of creation, searched from its end, as the kernel's hash chains are.
type twinTable struct {
	clock   *testClock
	start   time.Time
	max     int
	entries []*twinEntry
	stats   TableStats
	changes []string
}

type twinEntry struct {
	conn   Conn
	engine string // name, NUL, data
	seq    string // both directions, printed
	dies   time.Time
}

func newTwin(clock *testClock, max int) *twinTable {
	return &twinTable{clock: clock, start: clock.t, max: max}
}

func engineName(o encoder.Options) string {
	name, data, _ := o.PE()
	if len(data) == 0 {
		return ""
	}
	return string(name) + "\x00" + string(data)
}

func seqName(o encoder.Options) string {
	if in, out, ok := o.Seq(); ok {
		return fmt.Sprint(in, out)
	}
	return ""
}

// deathOf is when what is armed now ends: times are counted in ticks, and rounded up.
func (w *twinTable) deathOf(seconds uint32) time.Time {
	ticks := w.clock.t.Sub(w.start) / tableTick
	return w.start.Add((ticks + 1) * tableTick).Add(time.Duration(seconds) * time.Second)
}

func (w *twinTable) note(kind ChangeKind, e *twinEntry) {
	w.changes = append(w.changes, fmt.Sprint(kind, " ", describe(&e.conn, e.engine, e.seq)))
}

func (w *twinTable) purge() {
	w.entries = slices.DeleteFunc(w.entries, func(e *twinEntry) bool {
		if e.dies.After(w.clock.t) {
			return false
		}
		w.stats.Expired++
		w.note(Expired, e)
		return true
	})
}

func sameEndpoint(p encoder.Protocol, a, b encoder.Endpoint) bool {
	if p == 0 && a.Family == encoder.IPv6 {
		return a.Port == b.Port && b.Family == encoder.IPv6 && [4]byte(a.Addr[:4]) == [4]byte(b.Addr[:4])
	}
	return a == b
}

// newest is the last entry that matches.
func (w *twinTable) newest(match func(*twinEntry) bool) *twinEntry {
	for _, e := range slices.Backward(w.entries) {
		if match(e) {
			return e
		}
	}
	return nil
}

// inGet is ip_vs_conn_in_get.
func (w *twinTable) inGet(c *Conn) *twinEntry {
	try := func(cport uint16) *twinEntry {
		client := c.Client
		client.Port = cport
		return w.newest(func(e *twinEntry) bool {
			return e.engine == "" && e.conn.Client == client && e.conn.Virtual == c.Virtual && e.conn.Protocol == c.Protocol &&
				(cport == 0) == (e.conn.Flags&encoder.FlagNoCport != 0)
		})
	}
	if e := try(c.Client.Port); e != nil {
		return e
	}
	return try(0)
}

// ctGet is ip_vs_ct_in_get.
func (w *twinTable) ctGet(c *Conn, engine string) *twinEntry {
	return w.newest(func(e *twinEntry) bool {
		client := e.conn.Client
		if engine != "" {
			client.Port = c.Client.Port
		}
		return e.conn.Template() && e.engine == engine && client == c.Client && sameEndpoint(c.Protocol, e.conn.Virtual, c.Virtual) &&
			e.conn.Protocol == c.Protocol
	})
}

func (w *twinTable) timeout(c *Conn, template bool) uint32 {
	switch {
	case c.Timeout != 0:
		return c.Timeout
	case template || c.Protocol == encoder.ESP || c.Protocol == encoder.AH:
		return 180
	case c.Protocol == encoder.UDP:
		return 300
	case c.Protocol == encoder.TCP:
		return []uint32{2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120}[c.State]
	}
	return []uint32{2, 4, 61, 61, 61, 61, 61, 61, 900, 61, 61, 61, 4, 61}[c.State]
}

func (w *twinTable) apply(c *Conn) {
	w.stats.Applied++
	engine := engineName(c.Options)
	var found *twinEntry
	switch {
	case c.Flags&0x2000 != 0:
		w.stats.Ignored[IgnoredOnePacket]++
		return
	case c.Flags&0x1800 == 0x1800:
		w.stats.Ignored[IgnoredTemplateNoCport]++
		return
	case c.Template():
		found = w.ctGet(c, engine)
	case engine == "":
		found = w.inGet(c)
	default: // ip_vs_conn_in_get, in the chain of the engine data
		found = w.newest(func(e *twinEntry) bool {
			return e.engine == engine && c.Client.Port != 0 && e.conn.Client == c.Client && e.conn.Virtual == c.Virtual &&
				e.conn.Protocol == c.Protocol
		})
	}
	if found != nil && !c.Template() && found.conn.Dest != c.Dest {
		if c.Flags&0x100 != 0 {
			w.stats.Ignored[IgnoredInactive]++
			return
		}
		w.entries = slices.DeleteFunc(w.entries, func(e *twinEntry) bool { return e == found })
		w.stats.Replaced++
		w.note(Replaced, w.create(c, engine))
		return
	}
	if found == nil {
		if len(w.entries) == w.max {
			w.stats.Refused++
			return
		}
		w.stats.Added++
		w.note(Added, w.create(c, engine))
		return
	}
	w.stats.Updated++
	found.conn.Flags = found.conn.Flags&^0x700 | c.Flags&0x700
	found.conn.State = c.State
	found.conn.Timeout = w.timeout(c, found.conn.Template())
	found.dies = w.deathOf(found.conn.Timeout)
	if s := seqName(c.Options); s != "" {
		found.seq = s
	}
	w.note(Updated, found)
}

func (w *twinTable) create(c *Conn, engine string) *twinEntry {
	e := &twinEntry{conn: *c, seq: seqName(c.Options)}
	e.conn.Options = nil
	e.conn.Flags = c.Flags&0x1f87 | 0x20
	if c.Template() {
		e.engine = engine
	}
	if c.Protocol == 0 && c.Family() == encoder.IPv6 {
		clear(e.conn.Virtual.Addr[4:])
	}
	e.conn.Timeout = w.timeout(c, c.Template())
	e.dies = w.deathOf(e.conn.Timeout)
	w.entries = append(w.entries, e)
	return e
}

// lookup is what Table.Lookup promises.
func (w *twinTable) lookup(c *Conn) *twinEntry {
	if c.Template() {
		return w.ctGet(c, engineName(c.Options))
	}
	try := func(cport uint16) *twinEntry {
		client := c.Client
		client.Port = cport
		return w.newest(func(e *twinEntry) bool {
			return !e.conn.Template() && e.conn.Client == client && e.conn.Virtual == c.Virtual && e.conn.Protocol == c.Protocol &&
				(cport == 0) == (e.conn.Flags&encoder.FlagNoCport != 0)
		})
	}
	if e := try(c.Client.Port); e != nil {
		return e
	}
	return try(0)
}

func describe(c *Conn, engine, seq string) string {
	d := *c
	d.Options = nil
	return fmt.Sprintf("%s fwmark %d, engine %q, seq %s", &d, c.Fwmark, engine, seq)
}

func (w *twinTable) describe(e *twinEntry) string {
	return fmt.Sprint(describe(&e.conn, e.engine, e.seq), " ", e.dies.Sub(w.clock.t))
}

func describeEntry(e *Entry) string {
	return fmt.Sprint(describe(&e.Conn, engineName(e.Options), seqName(e.Options)), " ", e.Expires)
}
