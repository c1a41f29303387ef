package bench

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/puzpuzpuz/xsync/v4"
)

// slotRing is the textbook ring for one producer and one consumer, in the manner
// of a disruptor, in plain Go: slots of a cache line, an index for each side on a
// line of its own, each side's copy of the other's, and batches.
type slotRing struct {
	slots []slot

	_        [128]byte
	head     atomic.Uint64
	next     uint64 // the producer's own
	tailSeen uint64

	_    [128]byte
	tail atomic.Uint64
	read uint64 // the consumer's own

	_ [128]byte
}

type slot struct {
	rec rawRecord
	_   [64 - recordSize]byte
}

// slotQueue publishes batch records by one store.
func slotQueue(name string, batch int) func(*testing.B) queue {
	return func(*testing.B) queue {
		r := &slotRing{slots: make([]slot, queueLen)}
		mask := uint64(len(r.slots) - 1)
		return queue{name, func() func([]rawRecord) {
			return func(recs []rawRecord) {
				for ; len(recs) > 0; recs = recs[batch:] {
					end := r.next + uint64(batch)
					for end-r.tailSeen > uint64(len(r.slots)) {
						if r.tailSeen = r.tail.Load(); end-r.tailSeen > uint64(len(r.slots)) {
							apart()
						}
					}
					for i := range recs[:batch] {
						r.slots[(r.next+uint64(i))&mask].rec = recs[i]
					}
					r.next = end
					r.head.Store(end)
				}
			}
		}, func() func(func(*rawRecord)) int {
			var rec rawRecord
			return func(use func(*rawRecord)) int {
				head := r.head.Load()
				n := int(head - r.read)
				for ; r.read != head; r.read++ {
					rec = r.slots[r.read&mask].rec
					use(&rec)
				}
				if n > 0 {
					r.tail.Store(head)
				}
				return n
			}
		}}
	}
}

// xsyncSleeping is xsync's SPSCQueue at its best: a side that is ahead sleeps for some
// 20 µs, so that the two hardly ever meet. Its capacity lies in the cache line of the
// producer's index, so every TryDequeue beside a TryEnqueue waits for that line:
// by Gosched, as its documentation has it, or by apart it is 2.5 times as slow.
// 1024 to 16384 elements are alike, 256 too few.
func xsyncSleeping(*testing.B) queue {
	q := xsync.NewSPSCQueue[rawRecord](4096)
	wait := func() { time.Sleep(20 * time.Microsecond) }
	return queue{"xsync SPSCQueue, sleeping", func() func([]rawRecord) {
		return func(recs []rawRecord) {
			for i := range recs {
				for !q.TryEnqueue(recs[i]) {
					wait()
				}
			}
		}
	}, func() func(func(*rawRecord)) int {
		var rec rawRecord
		return func(use func(*rawRecord)) (n int) {
			for {
				var ok bool
				if rec, ok = q.TryDequeue(); !ok {
					break
				}
				use(&rec)
				n++
			}
			if n == 0 {
				wait()
			}
			return n
		}
	}}
}

// unbounded is xsync's UMPSCQueue, made for many producers and one consumer.
// It has no bound, so its producers never wait.
func xsyncUnbounded(*testing.B) queue {
	q := xsync.NewUMPSCQueue[rawRecord]()
	return queue{"xsync UMPSCQueue", func() func([]rawRecord) {
		return func(recs []rawRecord) {
			for i := range recs {
				q.Enqueue(recs[i])
			}
		}
	}, func() func(func(*rawRecord)) int {
		var rec rawRecord
		return func(use func(*rawRecord)) int {
			rec = q.Dequeue()
			use(&rec)
			return 1
		}
	}}
}
