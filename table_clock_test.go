package ipvsync

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A clock that is set back costs nothing: what is there ends after its time, what
// comes has room, and the same holds the next time.
func TestTableClockSetBack(t *testing.T) {
	clock := newTestClock()
	table := newTable(t, TableConfig{MaxEntries: 100, Shards: 2, Now: clock.now})
	clock.advance(10 * time.Hour)
	table.Expire()
	for round := range 3 {
		clock.advance(-10*time.Hour + time.Second)
		for i := range 100 {
			table.Apply([]Conn{flow(100*round+i, 10)})
		}
		clock.advance(-time.Hour) // while they live
		if n := table.Len(); n != 100 {
			t.Fatalf("%d entries, want 100", n)
		}
		clock.advance(9 * time.Second)
		if n := table.Len(); n != 100 {
			t.Fatalf("%d entries after 9 s of 10, want 100", n)
		}
		clock.advance(2 * time.Second)
		if n := table.Len(); n != 0 {
			t.Fatalf("%d entries after 11 s of 10", n)
		}
	}
	if st := table.Stats(); st.Refused != 0 || st.Expired != 300 {
		t.Errorf("%+v", st)
	}
}

// A clock that begins with the zero time and is then set leaps further than a
// time.Duration holds.
func TestTableClockFromZero(t *testing.T) {
	clock := &testClock{}
	table := newTable(t, TableConfig{MaxEntries: 100, Now: clock.now})
	for i := range 50 {
		table.Apply([]Conn{flow(i, 10)})
	}
	clock.t = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 50 {
		table.Apply([]Conn{flow(50+i, 10)})
	}
	var saved bytes.Buffer
	if st, err := table.Snapshot(&saved); err != nil || st.Entries != 100 {
		t.Errorf("%+v, %v", st, err)
	}
	clock.advance(9 * time.Second)
	if n := table.Len(); n != 100 {
		t.Errorf("%d entries after 9 s of 10, want 100", n)
	}
	clock.advance(2 * time.Second)
	if n := table.Len(); n != 0 {
		t.Errorf("%d entries after 11 s of 10", n)
	}
}

// Readers of a clock that is set back at random never see the table's time go
// back, and it goes on by no more than the clock did.
func TestTableClockRace(t *testing.T) {
	var source atomic.Int64
	start := time.Unix(1e9, 0)
	var c tableClock
	c.init(func() time.Time { return start.Add(time.Duration(source.Load())) })
	const steps = 2000
	var readers sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		readers.Go(func() {
			last := int64(0)
			for {
				now := c.since()
				if now < last {
					t.Errorf("%d after %d", now, last)
					return
				}
				last = now
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for i := range steps {
		if i%10 == 9 {
			source.Add(-int64(10 * time.Hour))
		} else {
			source.Add(int64(time.Millisecond))
		}
		c.since()
	}
	close(done)
	readers.Wait()
	if got := time.Duration(c.since()); got > steps*time.Millisecond {
		t.Errorf("%v have passed, want at most %v", got, steps*time.Millisecond)
	}
}
