package ipvsync

import (
	"math"

	"github.com/ipvsync/ipvsync/encoder"
)

// How Apply works on a message:
//
//  1. hash the keys of up to tableWindow records, and prefetch their buckets
//  2. look into the buckets, and prefetch the entries that they name
//  3. shard by shard, under its mutex: move its time on, apply its records in order
//
// A table of millions of connections lies in DRAM, and each record is two cache
// lines of it that nobody has. Step 1 and 2 let the processor fetch a dozen at a
// time, in place of one after the other.
const tableWindow = 64

// batch is the working memory of an Apply or a LookupBatch.
type batch struct {
	keys   [tableWindow]flowKey
	kinds  [tableWindow]kind // what LookupBatch looks for
	shards [tableWindow]uint8
	order  [tableWindow]uint8
	lines  [2 * tableWindow]uintptr // cache lines to be fetched
	engine [tableWindow][]byte
	bytes  encoder.Options // engine of keys
}

// Apply takes the accepted records of one message, in order. It keeps nothing
// of conns but copies. It may be called by any goroutine; records of one connection must
// come through one at a time to keep their order. All records count as having
// arrived now. It also ends connections whose time is over, a bounded number.
//
// Messages are applied at the same time as far as they concern different shards. But
// while one connection with the flag NO_CPORT and client port 0 is in the table, any
// record may be its, and each Apply takes the mutexes of all shards: one at a time. So does a
// message with such a record, and one that the table may have no room for.
//
// A Conn does not say which protocol version it came by: Apply takes all for version 1.
// A kernel keeps of a version 0 record the flag bits that its mask for version 1
// leaves out; a Table does not. See [encoder.Flags.Backup].
func (t *Table) Apply(conns []Conn) {
	b := t.batches.Get().(*batch)
	now := t.tick()
	for len(conns) > 0 {
		n := min(len(conns), tableWindow)
		t.applyWindow(b, conns[:n], now)
		conns = conns[n:]
	}
	t.batches.Put(b)
}

func (t *Table) applyWindow(b *batch, conns []Conn, now uint64) {
	together := t.prepare(b, conns)
	t.prefetch(b, len(conns))
	if together || t.noCport.Load() > 0 || t.entries.Load()+int64(len(conns)) > t.max {
		t.applyTogether(b, conns, now, nil)
		return
	}
	order := b.sort(len(conns), len(t.shards))
	var s *tableShard
	for i, at := range order {
		if own := &t.shards[b.shards[at]]; own != s {
			if s != nil {
				s.mu.Unlock()
			}
			s = own
			s.mu.Lock()
			s.advance(now, expireBudget+2*len(conns))
		}
		if t.closed.Load() {
			s.stats.Applied++
			s.stats.Ignored[IgnoredClosed]++
			continue
		}
		if !s.apply(&conns[at], &b.keys[at], b.engine[at], now, false) {
			// Others filled the table meanwhile.
			s.mu.Unlock()
			t.applyTogether(b, conns, now, order[i:])
			return
		}
		s.stats.Applied++
	}
	s.mu.Unlock()
}

// expireBudget and two for each record are how many entries Apply looks at in
// the timer wheel of each shard.
const expireBudget = 64

// applyTogether applies records under the mutexes of all shards: those in
// order, or all. So it does when a connection without client port is concerned,
// which all shards look for, for a connection's record with engine data, which looks
// in another shard, and when the table may be full: then what is over is removed first.
func (t *Table) applyTogether(b *batch, conns []Conn, now uint64, order []uint8) {
	t.lock()
	defer t.unlock()
	full := order != nil
	if order == nil {
		order = b.order[:len(conns)]
		for i := range order {
			order[i] = uint8(i)
		}
	}
	for i := range t.shards {
		s := &t.shards[i]
		budget := expireBudget + 2*len(conns)
		if full || t.entries.Load()+int64(len(conns)) > t.max {
			budget = math.MaxInt
		}
		s.advance(now, budget)
	}
	for _, at := range order {
		s := &t.shards[b.shards[at]]
		s.stats.Applied++
		if t.closed.Load() {
			s.stats.Ignored[IgnoredClosed]++
			continue
		}
		if !s.apply(&conns[at], &b.keys[at], b.engine[at], now, true) {
			s.stats.Refused++
		}
	}
}

func (t *Table) lock() {
	for i := range t.shards {
		t.shards[i].mu.Lock()
	}
}

func (t *Table) unlock() {
	for i := range t.shards {
		t.shards[i].mu.Unlock()
	}
}

// prepare makes keys and prefetches buckets. It says whether a record needs all
// shards.
func (t *Table) prepare(b *batch, conns []Conn) (together bool) {
	b.bytes = b.bytes[:0]
	for i := range conns {
		c := &conns[i]
		k := &b.keys[i]
		k.set(c.Protocol, &c.Client, &c.Virtual)
		b.engine[i] = nil
		if c.Flags&encoder.FlagTemplate == 0 {
			together = together || c.Client.Port == 0 || c.Flags&encoder.FlagNoCport != 0 || len(c.Options) > 0 && hasEngine(c.Options)
			k.sum(&t.seed)
		} else if at := len(b.bytes); len(c.Options) > 0 {
			b.bytes = b.appendEngine(c.Options)
			if len(b.bytes) > at {
				b.engine[i] = b.bytes[at:len(b.bytes):len(b.bytes)]
				k.sumEngine(&t.seed, b.engine[i])
			} else {
				k.sum(&t.seed)
			}
		} else {
			k.sum(&t.seed)
		}
		b.home(t, i)
	}
	prefetchLines(&b.lines[0], len(conns))
	return together
}

// home notes where key i is at home: its shard, and the line of its bucket.
func (b *batch) home(t *Table, i int) {
	hash := b.keys[i].hash
	n := t.shardOf(hash)
	b.shards[i] = uint8(n)
	x := &t.shards[n].index
	b.lines[i] = addressOf(x.bucket(x.home(hash)))
}

// appendEngine appends the engine part of a template's options.
func (b *batch) appendEngine(o encoder.Options) encoder.Options {
	at := len(b.bytes)
	if kept := appendKept(b.bytes[at:], o, false, true); len(kept) > 0 {
		return append(b.bytes[:at], kept...)
	}
	return b.bytes
}

// prefetch asks for the entries that the buckets name.
func (t *Table) prefetch(b *batch, n int) {
	lines := 0
	for i := range n {
		s := &t.shards[b.shards[i]]
		r := s.index.guess(b.keys[i].hash)
		if r == 0 {
			continue
		}
		p := s.entry(r)
		b.lines[lines] = addressOf(p)
		lines++
		if r&ref6 != 0 {
			b.lines[lines] = addressOf(wordAfter(p, words4))
			lines++
		}
	}
	prefetchLines(&b.lines[0], lines)
}

// sort gives the records' numbers by shard, those of one shard in their order.
func (b *batch) sort(n, shards int) []uint8 {
	order := b.order[:n]
	if shards == 1 {
		for i := range order {
			order[i] = uint8(i)
		}
		return order
	}
	var at [maxTableShards + 1]uint8
	for _, s := range b.shards[:n] {
		at[s+1]++
	}
	for i := 1; i <= shards; i++ {
		at[i] += at[i-1]
	}
	for i, s := range b.shards[:n] {
		order[at[s]] = uint8(i)
		at[s]++
	}
	return order
}

// anyShard takes turns.
func (t *Table) anyShard() *tableShard {
	return &t.shards[int(t.turn.Add(1))%len(t.shards)]
}

func (t *Table) shardOf(hash uint64) int       { return int(hash >> (64 - t.shardBits)) }
func (t *Table) shard(hash uint64) *tableShard { return &t.shards[t.shardOf(hash)] }
