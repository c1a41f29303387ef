package ipvsync

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
)

// A connection of this test is a function of a client and two numbers, of which
// all its fields tell: who sees one that is torn notices.
func relatedConn(client, dest, life int) Conn {
	c := flow(client, 0)
	if client%3 == 0 {
		c = flow6(client, 0)
		c.Dest.Addr[12] = byte(dest)
	}
	c.Virtual.Port = uint16(client)
	c.Fwmark = uint32(dest)
	c.Dest.Port, c.Dest.Addr[3] = uint16(dest), byte(dest)
	c.State = encoder.State(life % 11)
	c.Timeout = uint32(100 + life)
	c.Flags = encoder.Flags(life%4) * 0x200 & encoder.FlagSeqMask
	if life%5 == 0 {
		c.Options, _ = c.Options.AppendSeq(encoder.Seq{Init: uint32(client), Delta: uint32(dest)}, encoder.Seq{})
	}
	return c
}

// related says whether an entry is one of relatedConn.
func related(e *Entry) error {
	client := int(e.Virtual.Port)
	want := relatedConn(client, int(e.Fwmark), int(e.Timeout)-100)
	in, _, ok := e.Options.Seq() // it stays when a record without any comes
	if ok && in != (encoder.Seq{Init: uint32(client), Delta: e.Fwmark}) {
		return fmt.Errorf("options %v of %v", in, &want)
	}
	want.Options, want.Flags = e.Options, want.Flags|encoder.FlagSync
	if !e.Conn.Equal(&want) {
		return fmt.Errorf("torn: %v, want %v", &e.Conn, &want)
	}
	if e.Expires <= 0 { // no upper bound: a reader that sleeps has an old clock, and time flies here
		return fmt.Errorf("%v expires in %v", &e.Conn, e.Expires)
	}
	return nil
}

// Readers beside two writers, of which each has its connections, while entries
// are added, updated, replaced, expire, and are used again: what they see is
// whole, and is what they asked for. What never ends is always found. Time is
// moved by one of the writers, which keeps some of its connections alive.
func TestTableInParallel(t *testing.T) {
	const clients, always = 400, 50
	var elapsed atomic.Int64
	start := time.Unix(1e9, 0)
	table := newTable(t, TableConfig{MaxEntries: clients, Now: func() time.Time { return start.Add(time.Duration(elapsed.Load())) }})
	rounds := 20000
	if onHeap {
		rounds = 4000
	}
	write := func(first int, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 0))
		stay := make([]Conn, 0, always)
		for i := range rounds {
			var conns []Conn
			for range 20 {
				conns = append(conns, relatedConn(2*r.IntN(clients/2)+first, 1+r.IntN(3), r.IntN(200)))
			}
			table.Apply(conns)
			if i%10 == 0 && first == 0 { // time passes, but less than 100 s until the next
				stay = stay[:0]
				for c := range always {
					stay = append(stay, relatedConn(2*c, 1+r.IntN(3), r.IntN(200)))
				}
				table.Apply(stay)
				elapsed.Add(int64(20 * time.Second))
				table.Apply(stay)
			}
		}
	}
	for c := range always { // before anybody reads
		table.Apply([]Conn{relatedConn(2*c, 1, 1)})
	}
	var writers, readers sync.WaitGroup
	var done atomic.Bool
	for i := range 2 {
		writers.Go(func() { write(i, uint64(i)) })
	}
	var found, seen atomic.Int64
	check := func(e *Entry) bool {
		if err := related(e); err != nil {
			t.Error(err)
			return false
		}
		return true
	}
	readers.Go(func() {
		for n := 0; !done.Load(); n++ {
			c := relatedConn(n%clients, 1, 1)
			e, ok := table.Lookup(KeyOf(&c))
			if !ok && n%clients < 2*always && n%2 == 0 {
				t.Errorf("client %d is not found", n%clients)
				return
			}
			if !ok {
				continue
			}
			found.Add(1)
			if e.Client != c.Client || !check(&e) {
				t.Errorf("asked for %v, got %v", &c, &e.Conn)
				return
			}
		}
	})
	var foundMany atomic.Int64
	readers.Go(func() {
		const burst = 3 * tableWindow / 2
		var keys [burst]Key
		var entries [burst]Entry
		var ok [burst]bool
		for n := 0; !done.Load(); n += burst {
			for i := range keys {
				c := relatedConn((n+i)%clients, 1, 1)
				keys[i] = KeyOf(&c)
			}
			count := table.LookupBatch(keys[:], entries[:], ok[:])
			foundMany.Add(int64(count))
			for i := range keys {
				client := (n + i) % clients
				if !ok[i] && client < 2*always && client%2 == 0 {
					t.Errorf("client %d is not found among many", client)
					return
				}
				if !ok[i] {
					continue
				}
				count--
				if entries[i].Client != keys[i].Client || !check(&entries[i]) {
					t.Errorf("asked for %+v, got %v", &keys[i], &entries[i].Conn)
					return
				}
			}
			if count != 0 {
				t.Errorf("%d found more than there are", count)
				return
			}
		}
	})
	readers.Go(func() {
		for !done.Load() {
			for e := range table.All() {
				seen.Add(1)
				if !check(&e) {
					return
				}
			}
			table.Len()
			checkTable(t, table)
		}
	})
	writers.Wait()
	done.Store(true)
	readers.Wait()
	if st := table.Stats(); found.Load() == 0 || foundMany.Load() == 0 || seen.Load() == 0 || st.Expired == 0 || st.Replaced == 0 || st.Refused > 0 {
		t.Errorf("found %d and %d, seen %d, %+v", found.Load(), foundMany.Load(), seen.Load(), st)
	}
}

// A reader that meets an entry in the middle of being written, by a writer that
// lost its processor, waits for the mutex and does not turn: it comes back when
// the mutex is free, even if the mark never goes.
func TestTableReaderBehindAStoppedWriter(t *testing.T) {
	table := newTable(t, TableConfig{MaxEntries: 10, Shards: 1})
	c := flow(1, 60)
	table.Apply([]Conn{c})
	s := &table.shards[0]
	s.mu.Lock()
	p := s.entry(1)
	whole := *p
	storeWord(p, whole|1) // what publishWords does first
	looked, ranged := make(chan bool), make(chan bool)
	go func() {
		_, ok := table.Lookup(KeyOf(&c))
		looked <- ok
	}()
	go func() {
		for range table.All() {
			t.Error("All yields an entry that is being written")
		}
		ranged <- true
	}()
	s.mu.Unlock()
	if <-looked {
		t.Error("found while it was being written")
	}
	<-ranged
	s.mu.Lock()
	storeWord(p, whole)
	s.mu.Unlock()
	if _, ok := table.Lookup(KeyOf(&c)); !ok {
		t.Error("not found after it was written")
	}
}
