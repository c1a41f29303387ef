package ipvsync

import (
	"sync"
	"sync/atomic"
	"time"
)

// tableClock is the time of a Table. It never goes back, whatever its source does:
// the wheels have passed what was, and what is over stays so.
type tableClock struct {
	now   func() time.Time // nil: time.Now, which is monotonic
	start time.Time        // by time.Now

	// With now:
	base   atomic.Pointer[clockBase]
	latest atomic.Int64 // the latest that since gave
	mu     sync.Mutex   // for writers of base
}

// clockBase is a moment: by the source, and of the table.
type clockBase struct {
	at    time.Time
	since int64
}

const (
	// clockDisorder is how far two readings may be apart because their goroutines
	// did not run meanwhile. What is more is a clock that was set back.
	clockDisorder = int64(time.Second)
	// clockMost leaves room for the longest timeout, 136 years, before int64 ends.
	clockMost = 1 << 62
)

func (c *tableClock) init(now func() time.Time) {
	if c.now = now; now == nil {
		c.start = time.Now()
		return
	}
	c.base.Store(&clockBase{at: now()})
}

// since is the time since init, in nanoseconds.
func (c *tableClock) since() int64 {
	if c.now == nil {
		return int64(time.Since(c.start))
	}
	return c.checked()
}

// checked is since by now.
func (c *tableClock) checked() int64 {
	b := c.base.Load() // before the clock: a new base never meets an old reading
	if v, ok := c.follow(b, c.now()); ok {
		return v
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.now()
	if v, ok := c.follow(c.base.Load(), at); ok {
		return v // another goroutine was here first
	}
	v := c.latest.Load()
	c.base.Store(&clockBase{at, v})
	return v
}

// follow is since for a reading, unless the clock has leapt.
func (c *tableClock) follow(b *clockBase, at time.Time) (int64, bool) {
	d := int64(at.Sub(b.at)) // no more than int64 holds, whatever the times
	if d > clockMost-b.since {
		return 0, false
	}
	v := b.since + d
	for {
		latest := c.latest.Load()
		switch {
		case v < latest-clockDisorder:
			return 0, false
		case v <= latest:
			return latest, true
		case c.latest.CompareAndSwap(latest, v):
			return v, true
		}
	}
}
