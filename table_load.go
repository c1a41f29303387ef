package ipvsync

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
)

// Load puts an entry of another table into this one, as it is: with its flags,
// its timeout and, what Apply could not do, with what is left of its lifetime,
// e.Expires. It is how a snapshot comes back.
//
// An entry that is there is newer, and is kept; one with nothing left of its
// lifetime is not loaded: both are counted, and no error. A connection that Lookup
// never finds, as its client port is 0 without NO_CPORT or another with it, is always
// new, as with Apply: loaded twice, it is there twice. Errors are ErrTableFull, ErrUnloadable and
// ErrClosed. When the table is full, all that is over is removed first.
func (t *Table) Load(e Entry) error {
	var k flowKey
	k.set(e.Protocol, &e.Client, &e.Virtual)
	var engine []byte
	if e.Template() && hasEngine(e.Options) {
		engine = appendKept(nil, e.Options, false, true)
	}
	if engine != nil {
		k.sumEngine(&t.seed, engine)
	} else {
		k.sum(&t.seed)
	}
	s := t.shard(k.hash)
	if kindOf(e.Flags.Backup(encoder.Version1), e.Client.Port, engine != nil) == kindLost {
		s = t.anyShard() // as Apply does
	}
	since := t.since()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Loads++
	err := s.load(&e, &k, engine, since)
	if errors.Is(err, ErrTableFull) {
		// What is over may be in other shards.
		s.mu.Unlock()
		t.Expire()
		s.mu.Lock()
		err = s.load(&e, &k, engine, since)
	}
	if err != nil {
		s.stats.LoadsRefused++
	}
	return err
}

func (s *tableShard) load(e *Entry, k *flowKey, engine []byte, since int64) error {
	c, now := &e.Conn, uint64(since/int64(tableTick))
	if s.table.closed.Load() {
		return ErrClosed
	}
	// A connection's record may have found a template: then its state is out
	// of a template's range.
	if why := refused(c); why != NumIgnoreReasons && !(why == IgnoredInvalid && c.Template() && c.State <= math.MaxUint8) || c.Timeout == 0 {
		return fmt.Errorf("load %s: %w: flags, state, family or timeout", c, ErrUnloadable)
	}
	if e.Expires <= 0 {
		s.stats.LoadsOver++
		return nil
	}
	f := c.Flags.Backup(encoder.Version1)
	if kd := kindOf(f, c.Client.Port, engine != nil); kd != kindLost && s.pick(k, engine, now, kd, kd) != 0 {
		s.stats.LoadsKept++
		return nil
	}
	if !s.room(k.v6) || !s.table.grow() {
		return fmt.Errorf("load %s: %w", c, ErrTableFull)
	}
	left := min(e.Expires, math.MaxInt64-time.Duration(since)-tableTick)
	deadline := uint64((since + int64(left) + int64(tableTick) - 1) / int64(tableTick))
	r, m := s.insert(c, k, engine, f, deadline, c.Timeout, now)
	s.stats.Loaded++
	if subs := s.table.subs.Load(); subs != nil {
		s.tell(subs, Added, &m, r, now, nil)
	}
	return nil
}
