package ipvsync

import (
	"context"
	"errors"
	"math"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Table is what a Linux backup would hold after the same records: every
// connection with the state, the timeout and the flags that the kernel would
// give it, for as long as the kernel would keep it. docs/wire-format.md, "The
// backup's table", has the rules. Apply is made to be a Receiver's handler:
//
//	table, err := ipvsync.NewTable(ipvsync.TableConfig{MaxEntries: 4 << 20})
//	receiver, err := ipvsync.NewReceiver(cfg, func(m *ipvsync.Message) { table.Apply(m.Conns) })
//	go table.Run(ctx)
//
// All methods may be called concurrently. Lookup, LookupBatch and All take no lock,
// unless a writer is caught in the middle of an entry again and again.
//
// It is the table of a backup without services of its own: a kernel that
// has the service of a record adds what it knows about it.
//
// Entries lie outside of Go's heap, 64 bytes for IPv4 and 128 for IPv6, and
// another 13 for finding each; the garbage collector does not see them. Address
// space for MaxEntries of both families is reserved at once, memory is taken as
// they fill, and given back by Close.
type Table struct {
	shards    []tableShard
	shardBits uint
	seed      hashSeed
	max       int64
	clock     tableClock
	batches   sync.Pool // of *batch
	closed    atomic.Bool

	_       [128]byte
	entries atomic.Int64 // entries, those that are over but not yet removed included
	noCport atomic.Int64 // entries of kindNoCport
	subs    atomic.Pointer[subscribers]
	subsMu  sync.Mutex    // for writers of subs
	turn    atomic.Uint32 // of anyShard
}

// Sizes of a Table.
const (
	// DefaultTableEntries is enough for a million connections, which take 77 MB.
	// The index, 13 bytes for each, is spread over its whole size from the
	// start; so a table should not be made much larger than it can get.
	DefaultTableEntries = 1 << 20
	// MaxTableEntries is how many a table may be made for.
	MaxTableEntries = 1 << 30

	maxTableShards = 64
)

// TableConfig says how large a Table may get. The zero value of each field is
// the default.
type TableConfig struct {
	// MaxEntries is the most connections that are held, of both families
	// together; 0 means DefaultTableEntries. When it is reached, what is over is
	// removed, and a record that would still add a connection changes nothing:
	// TableStats.Refused counts it. A kernel would take it.
	MaxEntries int
	// Shards is the number of parts that can be changed at the same time, a power
	// of two up to 64; 0 means one, or with several processors, as many as
	// there are to run goroutines, rounded up.
	Shards int
	// Now is the clock; nil means time.Now. It must be monotonic, which time.Now
	// is, and may be called by several goroutines. If it is set back, or
	// leaps to more than 146 years from the start, no time has passed by that, and it goes on from there.
	Now func() time.Time
}

// Errors of a Table.
var (
	// ErrTableFull means that an entry was not loaded because MaxEntries are there.
	ErrTableFull = errors.New("table is full")
	// ErrUnloadable means that no backup can hold such an entry.
	ErrUnloadable = errors.New("entry cannot be in a backup's table")
)

// NewTable makes an empty table. Errors are a *ConfigError, or the kernel's
// refusal to reserve address space.
func NewTable(cfg TableConfig) (*Table, error) {
	if cfg.MaxEntries == 0 {
		cfg.MaxEntries = DefaultTableEntries
	}
	if cfg.MaxEntries < 1 || cfg.MaxEntries > MaxTableEntries {
		return nil, configError("MaxEntries", "is %d, want 1 to %d", cfg.MaxEntries, MaxTableEntries)
	}
	if cfg.Shards == 0 {
		cfg.Shards = min(1<<bits.Len(uint(runtime.GOMAXPROCS(0)-1)), maxTableShards)
	}
	if cfg.Shards < 1 || cfg.Shards > maxTableShards || cfg.Shards&(cfg.Shards-1) != 0 {
		return nil, configError("Shards", "is %d, want a power of two from 1 to %d", cfg.Shards, maxTableShards)
	}
	t := &Table{
		shards: make([]tableShard, cfg.Shards), shardBits: uint(bits.Len(uint(cfg.Shards)) - 1),
		max: int64(cfg.MaxEntries),
	}
	for i := range t.seed {
		t.seed[i] = rand.Uint64() | 1
	}
	t.batches.New = func() any { return new(batch) }
	t.clock.init(cfg.Now)
	for i := range t.shards {
		if err := t.shards[i].open(t, shareOf(cfg.MaxEntries, cfg.Shards)); err != nil {
			unmap(t.regions())
			return nil, err
		}
	}
	// Readers may still be at work when Close returns; they hold the Table.
	runtime.AddCleanup(t, unmap, t.regions())
	return t, nil
}

// regions is the memory of the table. Nothing in it leads back to the table.
func (t *Table) regions() (all []region) {
	for i := range t.shards {
		for _, r := range t.shards[i].regions() {
			all = append(all, *r)
		}
	}
	return all
}

func unmap(regions []region) {
	for i := range regions {
		regions[i].unmap()
	}
}

// shareOf is how many entries one of several shards must have room for. A hash
// spreads n over them with a deviation of about √(n/shards); eight times that is
// never seen.
func shareOf(n, shards int) uint64 {
	if shards == 1 {
		return uint64(n)
	}
	mean := float64(n) / float64(shards)
	return min(uint64(n), uint64(mean+8*math.Sqrt(mean)+32))
}

// since is the time since the table was made, in nanoseconds.
func (t *Table) since() int64 { return t.clock.since() }

// tick is the same in ticks. A deadline in ticks is over when it is reached.
func (t *Table) tick() uint64 { return uint64(t.since() / int64(tableTick)) }

const ticksPerSecond = uint64(time.Second / tableTick)

// deadlineOf is the tick in which an entry ends that lives for some seconds from
// a moment in tick now: not early, and late by less than a tick.
func deadlineOf(now uint64, seconds uint32) uint64 { return now + 1 + uint64(seconds)*ticksPerSecond }

// grow counts a new entry, if there may be one.
func (t *Table) grow() bool {
	if t.entries.Add(1) > t.max {
		t.entries.Add(-1)
		return false
	}
	return true
}

// Len is the number of connections and templates. It removes those whose time is
// over first, and so takes longer after a while without Apply, Expire and Run.
func (t *Table) Len() int {
	t.Expire()
	return int(t.entries.Load())
}

// Expire removes all entries whose time is over. Nothing shows them anyway; this
// frees their memory and tells subscribers. Apply does it too, a bounded number
// at a time, in the shards that it changes, so Expire is for a table that is
// sometimes idle; Run calls it regularly.
func (t *Table) Expire() {
	now := t.tick()
	for i := range t.shards {
		s := &t.shards[i]
		for done := false; !done; {
			s.mu.Lock() // for a while, so that Apply need not wait for millions
			done = s.advance(now, expireTurn)
			s.mu.Unlock()
		}
	}
}

// expireTurn is how many entries Expire looks at under a mutex, at 50 to 200 ns each.
const expireTurn = 1000

// Run calls Expire eight times a second, until ctx is done; then it returns nil.
func (t *Table) Run(ctx context.Context) error {
	tick := time.NewTicker(tableTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			t.Expire()
		}
	}
}

// Close gives the memory back and ends all subscriptions. The table is empty from
// then on, and ignores what is applied. It may be called more than once.
func (t *Table) Close() error {
	t.lock()
	defer t.unlock()
	if t.closed.Swap(true) {
		return nil
	}
	for i := range t.shards {
		s := &t.shards[i]
		for _, r := range s.regions() {
			r.clear()
		}
		s.side.clear()
		s.wheel.init()
		for j := range s.arena {
			s.arena[j].used.Store(0)
			s.arena[j].free = 0
		}
	}
	t.entries.Store(0)
	t.noCport.Store(0)
	t.endSubscriptions()
	return nil
}
