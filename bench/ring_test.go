package bench

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/ipvsync/ipvsync/ring"
)

// What goes through a queue here: a record in wire form. It is copied in by the
// producer and copied out by the consumer, as by the engine.
type rawRecord = [recordSize]byte

const (
	queueBytes = 1 << 20 // of our rings
	queueLen   = queueBytes / 64
	queueBatch = recordsPerMessage // a turn is a multiple of it
	queueTurn  = 50_000            // batches: 2 million records
)

// queue is one way to hand records from goroutines to another. put and get begin
// a turn: what they return is used by one goroutine each.
type queue struct {
	name string
	// put queues all of the records, and waits for room.
	put func() func(recs []rawRecord)
	// get takes what is there, at least one record, or returns 0.
	get func() func(use func(rec *rawRecord)) int
}

// side is a queue between producers and a consumer, each a goroutine, as a side
// of a duel: a turn is over when the consumer has everything.
func (q queue) side(producers int) side {
	var got atomic.Uint64
	return side{name: q.name, send: func(n int) {
		var all sync.WaitGroup
		for p := range producers {
			share := n / producers
			if p == 0 {
				share += n % producers
			}
			all.Go(func() {
				put := q.put()
				recs := make([]rawRecord, queueBatch)
				for i := range share {
					recs[i%queueBatch][0]++
					put(recs)
				}
			})
		}
		all.Go(func() {
			get := q.get()
			sum, count := uint64(0), 0
			use := func(rec *rawRecord) { sum += uint64(rec[0]) + uint64(rec[35]) } // here, lest each get allocate it
			for count < n*queueBatch {
				k := get(use)
				if count += k; k == 0 {
					apart()
				}
			}
			sink.Add(sum)
			got.Add(uint64(count))
		})
		all.Wait()
	}, arrived: func() uint64 { return got.Load() / queueBatch }}
}

// apart is what a side does that is ahead of the other: it stays away from the
// other's memory for some hundred nanoseconds, which makes every queue here
// faster, and lets another goroutine in where there are more than processors.
func apart() {
	for range 500 {
		pauseWord.Load()
	}
	if runtime.NumCPU() < 3 {
		runtime.Gosched()
	}
}

func spscQueue(b *testing.B) queue {
	r, err := ring.NewSPSC(queueBytes)
	if err != nil {
		b.Fatal(err)
	}
	return queue{"SPSC", func() func([]rawRecord) {
		return func(recs []rawRecord) {
			for len(recs) > 0 {
				room, n := r.ReserveMany(recordSize, len(recs), queueBytes)
				if n == 0 {
					one := r.Reserve(recordSize) // at the end of the block
					if one == nil {
						apart()
						continue
					}
					room, n = one, 1
				}
				for i := range recs[:n] {
					*(*rawRecord)(room[i*recordSize:]) = recs[i]
				}
				recs = recs[n:]
				r.Publish()
			}
		}
	}, func() func(func(*rawRecord)) int { return take(r) }}
}

func spscOneByOne(b *testing.B) queue {
	q := spscQueue(b)
	put := q.put()
	q.name = "SPSC, one by one"
	q.put = func() func([]rawRecord) {
		return func(recs []rawRecord) {
			for i := range recs {
				put(recs[i : i+1])
			}
		}
	}
	return q
}

// mpscQueue claims batch records at once.
func mpscQueue(name string, batch int) func(b *testing.B) queue {
	return func(b *testing.B) queue {
		r, err := ring.NewMPSC(queueBytes)
		if err != nil {
			b.Fatal(err)
		}
		claim := func() ([]byte, ring.Slot) {
			if batch == 1 {
				return r.ClaimOne(recordSize, queueBytes)
			}
			return r.ClaimMany(recordSize, batch, queueBytes)
		}
		return queue{name, func() func([]rawRecord) {
			return func(recs []rawRecord) {
				for ; len(recs) > 0; recs = recs[batch:] {
					room, slot := claim()
					for ; room == nil; room, slot = claim() {
						apart()
					}
					for i := range recs[:batch] {
						*(*rawRecord)(room[i*recordSize:]) = recs[i]
					}
					slot.Commit()
				}
			}
		}, func() func(func(*rawRecord)) int { return take(r) }}
	}
}

// take walks what one of our rings has, as the transmit loop does.
func take[R interface {
	Look() ring.Run
	Release(ring.Run)
}](r R) func(func(*rawRecord)) int {
	var rec rawRecord
	return func(use func(*rawRecord)) (n int) {
		run := r.Look()
		for recs, size, ok := run.PeekMany(); ok; recs, size, ok = run.PeekMany() {
			count := len(recs) / size
			for i := range count {
				rec = *(*rawRecord)(recs[i*size:])
				use(&rec)
			}
			run.AdvanceMany(count)
			n += count
		}
		r.Release(run)
		return n
	}
}

func channelQueue(*testing.B) queue {
	ch := make(chan rawRecord, queueLen)
	return queue{"channel", func() func([]rawRecord) {
		return func(recs []rawRecord) {
			for i := range recs {
				ch <- recs[i]
			}
		}
	}, func() func(func(*rawRecord)) int {
		var rec rawRecord // here, lest each record be allocated
		return func(use func(*rawRecord)) int {
			rec = <-ch
			use(&rec)
			return 1
		}
	}}
}

// batchChannel sends slices of 40 records, and gets them back by another channel:
// the best that channels can do, if 40 records are at hand at once.
func batchChannel(*testing.B) queue {
	const slices = queueLen / queueBatch
	ch, free := make(chan []rawRecord, slices), make(chan []rawRecord, slices)
	for range slices {
		free <- make([]rawRecord, queueBatch)
	}
	return queue{"channel of batches", func() func([]rawRecord) {
		return func(recs []rawRecord) {
			s := <-free
			copy(s, recs)
			ch <- s
		}
	}, func() func(func(*rawRecord)) int {
		var rec rawRecord
		return func(use func(*rawRecord)) int {
			s := <-ch
			for i := range s {
				rec = s[i]
				use(&rec)
			}
			free <- s
			return len(s)
		}
	}}
}

// mutexQueue appends under a mutex; the consumer swaps the slice for another and
// reads without it. batch is how many records are appended by one Lock.
func mutexQueue(name string, batch int) func(*testing.B) queue {
	return func(*testing.B) queue {
		var mu sync.Mutex
		list := make([]rawRecord, 0, queueLen)
		other := make([]rawRecord, 0, queueLen)
		return queue{name, func() func([]rawRecord) {
			return func(recs []rawRecord) {
				for len(recs) > 0 {
					mu.Lock()
					if len(list)+batch > queueLen {
						mu.Unlock()
						apart()
						continue
					}
					list = append(list, recs[:batch]...)
					mu.Unlock()
					recs = recs[batch:]
				}
			}
		}, func() func(func(*rawRecord)) int {
			var rec rawRecord
			return func(use func(*rawRecord)) int {
				mu.Lock()
				list, other = other[:0], list
				mu.Unlock()
				for i := range other {
					rec = other[i]
					use(&rec)
				}
				return len(other)
			}
		}}
	}
}

func xsyncSPSC(*testing.B) queue {
	return tryQueue[*xsync.SPSCQueue[rawRecord]]("xsync SPSCQueue", xsync.NewSPSCQueue[rawRecord](queueLen))
}

func xsyncMPMC(*testing.B) queue {
	return tryQueue[*xsync.MPMCQueue[rawRecord]]("xsync MPMCQueue", xsync.NewMPMCQueue[rawRecord](queueLen))
}

// tryQueue is a queue of github.com/puzpuzpuz/xsync, a well-kept library of
// concurrent structures: one record at a time, as its interface has it.
func tryQueue[Q interface {
	TryEnqueue(rawRecord) bool
	TryDequeue() (rawRecord, bool)
}](name string, q Q) queue {
	return queue{name, func() func([]rawRecord) {
		return func(recs []rawRecord) {
			for i := range recs {
				for !q.TryEnqueue(recs[i]) {
					apart()
				}
			}
		}
	}, func() func(func(*rawRecord)) int {
		var rec rawRecord
		return func(use func(*rawRecord)) (n int) {
			for n < queueLen {
				var ok bool
				if rec, ok = q.TryDequeue(); !ok {
					break
				}
				use(&rec)
				n++
			}
			return n
		}
	}}
}

// BenchmarkQueue: records of 36 bytes from one goroutine to another, and from two
// to one.
func BenchmarkQueue(b *testing.B) {
	for _, c := range []struct {
		producers int
		ours      func(*testing.B) queue
		theirs    []func(*testing.B) queue
	}{
		{1, spscQueue, []func(*testing.B) queue{channelQueue, batchChannel, mutexQueue("mutex and slice", 1),
			mutexQueue("mutex and slice, batches", queueBatch), xsyncSPSC, xsyncSleeping,
			slotQueue("plain Go ring, batches", queueBatch)}},
		{1, spscOneByOne, []func(*testing.B) queue{channelQueue, mutexQueue("mutex and slice", 1), xsyncSPSC, xsyncSleeping,
			slotQueue("plain Go ring", 1)}},
		{2, mpscQueue("MPSC", 1), []func(*testing.B) queue{channelQueue, batchChannel, mutexQueue("mutex and slice", 1),
			mutexQueue("mutex and slice, batches", queueBatch), xsyncMPMC, xsyncUnbounded}},
		{2, mpscQueue("MPSC, batches", queueBatch), []func(*testing.B) queue{batchChannel, mutexQueue("mutex and slice, batches", queueBatch)}},
	} {
		for _, theirs := range c.theirs {
			ours, theirs := c.ours(b), theirs(b)
			b.Run(ours.name+" against "+theirs.name, func(b *testing.B) {
				duel(b, queueTurn, ours.side(c.producers), theirs.side(c.producers))
			})
		}
	}
}
