package ipvsync

import (
	"github.com/ipvsync/ipvsync/encoder"
)

// The rules of a Linux backup's table: ip_vs_proc_conn of ip_vs_sync.c, with
// ip_vs_conn_in_get, ip_vs_ct_in_get and ip_vs_conn_new of ip_vs_conn.c, Linux
// 6.1. docs/wire-format.md, "The backup's table", says how each was seen.

// updated are the flags that a record changes in an entry that is there:
// IP_VS_CONN_F_BACKUP_UPD_MASK.
const updated = encoder.FlagInactive | encoder.FlagSeqMask

// templateNoCport are refused together, in any record.
const templateNoCport = encoder.FlagTemplate | encoder.FlagNoCport

// refused says why a record changes nothing, whatever is in the table.
// NumIgnoreReasons means that it is not refused.
func refused(c *Conn) IgnoreReason {
	switch {
	case c.Flags&encoder.FlagOnePacket != 0:
		return IgnoredOnePacket
	case c.Flags&templateNoCport == templateNoCport:
		return IgnoredTemplateNoCport
	case c.Virtual.Family != c.Client.Family || c.Dest.Family != c.Client.Family ||
		c.Client.Family != encoder.IPv4 && c.Client.Family != encoder.IPv6:
		return IgnoredInvalid
	case c.Flags&encoder.FlagTemplate != 0:
		if c.State > encoder.TemplateAssured {
			return IgnoredInvalid
		}
	case int(c.State) >= len(defaultTimeouts[c.Protocol]):
		return IgnoredInvalid
	}
	return NumIgnoreReasons
}

// kindOf is who will find an entry made from a record with these flags.
func kindOf(f encoder.Flags, cport uint16, engine bool) kind {
	switch {
	case f&encoder.FlagTemplate != 0 && engine:
		return kindEngine
	case f&encoder.FlagTemplate != 0:
		return kindTemplate
	case f&encoder.FlagNoCport != 0 && cport == 0:
		return kindNoCport
	case f&encoder.FlagNoCport == 0 && cport != 0:
		return kindConn
	}
	return kindLost
}

// defaultTimeouts are the seconds that a timeout of 0 becomes, by protocol and
// state; a protocol without an entry has no connections. tcp_timeouts,
// udp_timeouts and sctp_timeouts of ip_vs_proto_*.c; ESP and AH have none, and
// get what templates get.
var defaultTimeouts = [256][]uint32{
	encoder.TCP:  {2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120},
	encoder.UDP:  {300},
	encoder.SCTP: {2, 4, 61, 61, 61, 61, 61, 61, 900, 61, 61, 61, 4, 61},
	encoder.ESP:  {templateTimeout},
	encoder.AH:   {templateTimeout},
}

const templateTimeout = 3 * 60

// timeoutOf is a record's timeout, for an entry with flags f.
func timeoutOf(c *Conn, f encoder.Flags) uint32 {
	switch {
	case c.Timeout != 0:
		return c.Timeout
	case f&encoder.FlagTemplate != 0:
		return templateTimeout
	}
	return defaultTimeouts[c.Protocol][c.State]
}

// apply does with one record what a backup does. The caller holds the mutex of
// s, which k belongs to, or all with together: without, there is no connection
// whose client port is not known, and c is none with engine data. It fails, having changed nothing, when a new
// entry is needed and there is no room.
func (s *tableShard) apply(c *Conn, k *flowKey, engine []byte, now uint64, together bool) bool {
	if why := refused(c); why != NumIgnoreReasons {
		s.stats.Ignored[why]++
		return true
	}
	template := c.Flags&encoder.FlagTemplate != 0
	cport := uint16(k.ports)
	home, key := s, k // where the entry is that is found, and its key there
	var r ref
	switch {
	case template && engine != nil:
		r = s.pick(k, engine, now, kindEngine, kindEngine)
	case template:
		r = s.pick(k, nil, now, kindTemplate, kindTemplate)
	case len(c.Options) > 0 && hasEngine(c.Options):
		// The kernel looks where templates with this data are, and only there.
		z := *k
		data := appendKept(nil, c.Options, false, true)
		z.sumEngine(&s.table.seed, data)
		home, key = s.table.shard(z.hash), &z
		if r = home.pick(key, data, now, kindEngine, kindEngine); r != 0 && (cport == 0 || uint16(*wordAfter(home.entry(r), wPorts)) != cport) {
			r = 0
		}
	default:
		if cport != 0 {
			r = s.pick(k, nil, now, kindConn, kindTemplate)
		}
		if r == 0 && together && s.table.noCport.Load() > 0 {
			z := k.withoutCport(&s.table.seed)
			home, key = s.table.shard(z.hash), &z
			r = home.pick(key, nil, now, kindNoCport, kindNoCport)
		}
	}
	if r == 0 {
		if together && kindOf(c.Flags, cport, engine != nil) == kindLost {
			s = s.table.anyShard() // repeats of one key would all be in one
		}
		return s.add(c, k, engine, now)
	}
	var m image
	p := home.read(r, &m)
	if !template && !m.goesTo(&c.Dest, k.v6) {
		if c.Flags&encoder.FlagInactive != 0 {
			s.stats.Ignored[IgnoredInactive]++
			return true
		}
		return s.replace(home, r, p, &m, c, k, key, engine, now)
	}
	home.update(r, p, &m, c, now)
	return true
}

// update takes over what a record changes in the entry that it found.
func (s *tableShard) update(r ref, p *uint64, m *image, c *Conn, now uint64) {
	f := c.Flags&updated | m.flags()&^updated
	seconds := timeoutOf(c, f)
	options := m.options()
	if len(c.Options) > 0 {
		if kept := appendKept(nil, c.Options, true, false); len(kept) > 0 {
			kept = append(kept, s.side.engine(options)...)
			options = s.side.keep(kept)
		}
	}
	old := m.options()
	m.setLife(f, c.State, deadlineOf(now, seconds), seconds, options)
	s.wheelMove(r, p, m, now)
	s.write(r, p, m, true)
	if options != old {
		s.side.drop(old)
	}
	s.stats.Updated++
	if subs := s.table.subs.Load(); subs != nil {
		s.tell(subs, Updated, m, r, now, nil)
	}
}

// add makes a new entry, if there is room.
func (s *tableShard) add(c *Conn, k *flowKey, engine []byte, now uint64) bool {
	if !s.room(k.v6) || !s.table.grow() {
		return false
	}
	f := c.Flags.Backup(encoder.Version1)
	seconds := timeoutOf(c, f)
	r, m := s.insert(c, k, engine, f, deadlineOf(now, seconds), seconds, now)
	s.stats.Added++
	if subs := s.table.subs.Load(); subs != nil {
		s.tell(subs, Added, &m, r, now, nil)
	}
	return true
}

// insert writes a new entry, for which there is room and which is counted.
func (s *tableShard) insert(c *Conn, k *flowKey, engine []byte, f encoder.Flags, deadline uint64, seconds uint32, now uint64) (ref, image) {
	kd := kindOf(f, uint16(k.ports), engine != nil)
	var options uint32
	if len(c.Options) > 0 {
		options = s.side.keep(appendKept(nil, c.Options, true, kd == kindEngine))
	}
	r := s.take(k.v6)
	p := s.entry(r)
	var m image
	m[wVersion] = *p
	m.setLife(f, c.State, deadline, seconds, options)
	m.setIdentity(k, c, kd)
	s.wheelLink(r, &m, now)
	var head ref
	if kd != kindLost {
		head = s.find(k, engine)
	}
	m[wChain] = uint64(head)
	s.write(r, p, &m, false)
	if kd != kindLost {
		s.link(r, head, k.hash)
	}
	if kd == kindNoCport {
		s.table.noCport.Add(1)
	}
	return r, m
}

// replace ends entry r of shard home, found by key, and makes a new one in its
// place from c, of key k in shard s.
func (s *tableShard) replace(home *tableShard, r ref, p *uint64, m *image, c *Conn, k, key *flowKey, engine []byte, now uint64) bool {
	f := c.Flags.Backup(encoder.Version1)
	seconds := timeoutOf(c, f)
	deadline := deadlineOf(now, seconds)
	kd := kindOf(f, uint16(k.ports), false)
	var old *Conn
	subs := s.table.subs.Load()
	if subs != nil {
		var e Entry
		home.toEntry(m, r, now, &e)
		old = &e.Conn
	}
	if key != k || kd == kindLost {
		// Not in the same place of the index.
		if home != s && !s.room(k.v6) {
			return false
		}
		home.remove(r, p, m)
		s.table.entries.Add(1)
		var made image
		r, made = s.insert(c, k, nil, f, deadline, seconds, now)
		m = &made
	} else {
		// A reader finds the old entry or the new one, and never neither.
		dropped := m.options()
		var options uint32
		if len(c.Options) > 0 {
			options = s.side.keep(appendKept(nil, c.Options, true, false))
		}
		m.setIdentity(k, c, kd)
		m.setLife(f, c.State, deadline, seconds, options)
		s.wheelMove(r, p, m, now)
		s.write(r, p, m, false)
		s.side.drop(dropped)
	}
	s.stats.Replaced++
	if subs != nil {
		s.tell(subs, Replaced, m, r, now, old)
	}
	return true
}

// hasEngine says whether options carry engine data with a name.
func hasEngine(o encoder.Options) bool {
	_, data, _ := o.PE()
	return len(data) > 0
}
