package xsk

import (
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTxQueueRandom runs random programs against the fake kernel, with indices
// that wrap at 2^32, and checks after each step that every frame is in exactly
// one place.
func TestTxQueueRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for run := range 60 {
		rng := rand.New(rand.NewPCG(seed, uint64(run)))
		frames := 1 + rng.IntN(200)
		ring, compRing := 1<<rng.IntN(8), 1<<rng.IntN(8)
		start := -uint32(rng.IntN(500))
		q, k := newFakeTx(frames, ring, compRing, start, rng)
		k.mood = run % 3
		var lent []uint32
		var want []uint64
		var dropped []uint32
		for step := range 2000 {
			switch op := rng.IntN(10); {
			case op < 4:
				if f, buf, ok := q.Get(); ok {
					if len(buf) != 2048 {
						t.Fatalf("a frame of %d bytes", len(buf))
					}
					lent = append(lent, f)
				} else if q.pool.count(frameFree) != 0 {
					t.Fatal("Get has none although some are free")
				}
			case op < 7 && len(lent) > 0:
				f := lent[len(lent)-1]
				off := rng.IntN(100)
				room := q.Room(1)
				if ok := q.Queue(f, off, 1+rng.IntN(1500)); ok != room {
					t.Fatalf("Queue is %v with room %v", ok, room)
				} else if ok {
					lent = lent[:len(lent)-1]
					want = append(want, uint64(f)<<11+uint64(off))
				}
			case op == 7 && len(lent) > 0:
				q.Put(lent[0])
				lent = lent[1:]
			case op == 8:
				k.next = []unix.Errno{0, 0, 0, unix.EAGAIN, unix.ENOBUFS, unix.EINTR, unix.ENETDOWN}[rng.IntN(7)]
				e := q.Flush(func(i uint32) { dropped = append(dropped, i) })
				if e != 0 && !isBackPressure(e) && e != unix.ENETDOWN {
					t.Fatalf("Flush: %v", e)
				}
			default:
				k.complete(rng.IntN(len(k.inFlight) + 1))
				if rng.IntN(2) == 0 {
					q.Reap()
				}
			}
			inRing := int(q.ring.next - k.at)
			done := int(*k.comp.producer - *k.comp.consumer)
			if f, l, n := q.pool.count(frameFree), q.pool.count(frameLent), q.pool.count(frameKernel); f != len(q.pool.free) ||
				l != len(lent) || n != inRing+len(k.inFlight)+done || f+l+n != frames {
				t.Fatalf("run %d step %d: %d free (%d on the stack), %d lent (%d), %d with the kernel (%d in the ring, %d in flight, %d done)",
					run, step, f, len(q.pool.free), l, len(lent), n, inRing, len(k.inFlight), done)
			}
		}
		if q.n.invalid != 0 {
			t.Errorf("%d completions refused", q.n.invalid)
		}
		if len(k.sent) > len(want) {
			t.Fatalf("%d sent, %d queued", len(k.sent), len(want))
		}
		for i, a := range k.sent {
			if a != want[i] {
				t.Fatalf("packet %d is at %#x, want %#x", i, a, want[i])
			}
		}
		if k.mood == 2 {
			if len(dropped) != len(k.dropped) {
				t.Fatalf("%d drops told of %d", len(dropped), len(k.dropped))
			}
			for i := range dropped {
				if dropped[i] != k.dropped[i] {
					t.Fatalf("run %d: drop %d is of index %d, want %d", run, i, dropped[i], k.dropped[i])
				}
			}
		}
	}
}

// TestTxQueueDrains: however late the kernel shows its index, one Flush gets
// everything out that there is room for.
func TestTxQueueDrains(t *testing.T) {
	for _, mood := range []int{0, 1} {
		for _, n := range []int{1, 32, 33, 64, 65, 2048} {
			q, k := newFakeTx(2048, 2048, 2048, -uint32(n/2), rand.New(rand.NewPCG(1, 2)))
			k.mood = mood
			for range n {
				f, _, _ := q.Get()
				q.Queue(f, 0, 60)
			}
			if e := q.Flush(nil); e != 0 || q.Pending() != 0 || len(k.sent) != n {
				t.Errorf("mood %d: %d of %d sent, %d pending, errno %d", mood, len(k.sent), n, q.Pending(), e)
			}
		}
	}
}

// TestTxQueueNeverReaped: a completion ring that is full gives back-pressure in
// a bounded number of kicks, and recovers.
func TestTxQueueNeverReaped(t *testing.T) {
	q, k := newFakeTx(256, 256, 16, 0, rand.New(rand.NewPCG(1, 2)))
	k.budget = 1000
	k.mood = 1
	for range 256 {
		f, _, _ := q.Get()
		q.Queue(f, 0, 60)
	}
	q.kick = func() unix.Errno { return unix.EAGAIN } // the completion ring is full
	if e := q.Flush(nil); e != unix.EAGAIN || q.n.kicks > 256/copyBudget+2 || q.Pending() != 256 {
		t.Fatalf("errno %d after %d kicks, %d pending; want EAGAIN after a few, 256 pending", e, q.n.kicks, q.Pending())
	}
	q.kick = k.kick
	for range 1000 {
		if q.Flush(nil) == 0 && q.Pending() == 0 {
			break
		}
		k.complete(len(k.inFlight))
	}
	if len(k.sent) != 256 {
		t.Errorf("%d sent of 256", len(k.sent))
	}
}

// TestTxQueueRefuses: what the kernel would choke on never gets to it, and what
// the kernel must not say is not believed.
func TestTxQueueRefuses(t *testing.T) {
	q, k := newFakeTx(4, 4, 4, 0, rand.New(rand.NewPCG(1, 2)))
	f, _, _ := q.Get()
	for _, c := range []struct {
		frame  uint32
		off, n int
	}{{f, -1, 10}, {f, 0, 0}, {f, 0, 2049}, {f, 2048, 1}, {f, 2000, 49}, {f + 1, 0, 60}, {1 << 20, 0, 60}} {
		if q.Queue(c.frame, c.off, c.n) {
			t.Errorf("Queue of %+v was taken", c)
		}
	}
	q.Put(f)
	q.Put(f) // twice
	if n := len(q.pool.free); n != 4 {
		t.Errorf("%d frames free of 4", n)
	}
	f, _, _ = q.Get()
	q.Queue(f, 0, 60)
	for _, addr := range []uint64{uint64(f) << 11, uint64(f) << 11, 1 << 40, 4 << 11} {
		k.comp.entries[*k.comp.producer&3] = addr
		*k.comp.producer++
	}
	q.Reap()
	if len(q.pool.free) != 4 || q.n.invalid != 3 {
		t.Errorf("%d free, %d completions refused, want 4 and 3", len(q.pool.free), q.n.invalid)
	}
	*k.tx.consumer += 1000 // beyond what was queued
	if n := q.Pending(); n < 0 || n > 4 {
		t.Errorf("%d pending", n)
	}
}

// TestRxQueueRandom is TestTxQueueRandom for the receiving half.
func TestRxQueueRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for run := range 40 {
		rng := rand.New(rand.NewPCG(seed, uint64(run)))
		frames := 1 + rng.IntN(100)
		q, k := newFakeRx(frames, 1<<rng.IntN(7), 1<<rng.IntN(7), -uint32(rng.IntN(300)))
		q.Refill()
		var lent []uint32
		delivered, taken := uint32(0), uint32(0)
		for step := range 2000 {
			switch rng.IntN(4) {
			case 0:
				for range rng.IntN(20) {
					if k.deliver(1 + delivered%1700) {
						delivered++
					}
				}
			case 1:
				if f, b, ok := q.Take(); ok {
					if uint32(len(b)) != 1+taken%1700 {
						t.Fatalf("packet %d has %d bytes", taken, len(b))
					}
					taken++
					lent = append(lent, f)
				}
			case 2:
				if len(lent) > 0 {
					q.Put(lent[0])
					lent = lent[1:]
				}
			case 3:
				q.Refill()
			}
			inFill := int(*k.fill.producer - k.at)
			inRx := int(*k.rx.producer - q.ring.next)
			if f, l, n := q.pool.count(frameFree), q.pool.count(frameLent), q.pool.count(frameKernel); f != len(q.pool.free) ||
				l != len(lent) || n != inFill+inRx || f+l+n != frames {
				t.Fatalf("run %d step %d: %d free, %d lent (%d), %d with the kernel (%d to fill, %d received) of %d",
					run, step, f, l, len(lent), n, inFill, inRx, frames)
			}
		}
		if q.invalid != 0 {
			t.Errorf("%d descriptors refused", q.invalid)
		}
	}
}

// TestRxQueueRefuses: descriptors that are not of a frame that the kernel had.
func TestRxQueueRefuses(t *testing.T) {
	q, k := newFakeRx(4, 8, 8, 0)
	q.Refill()
	put := func(d unix.XDPDesc) {
		k.rx.entries[*k.rx.producer&7] = d
		*k.rx.producer++
	}
	first := q.pool.addr(0)
	put(unix.XDPDesc{Addr: 0, Len: 60})              // of the other half
	put(unix.XDPDesc{Addr: 1 << 50, Len: 60})        // of nobody
	put(unix.XDPDesc{Addr: first + 2000, Len: 100})  // beyond its frame
	put(unix.XDPDesc{Addr: first, Len: 60})          // a frame that is free by now
	put(unix.XDPDesc{Addr: first + 2048, Len: 2048}) // fine
	put(unix.XDPDesc{Addr: first + 2048, Len: 60})   // has been lent
	f, b, ok := q.Take()
	if !ok || f != 1 || len(b) != 2048 {
		t.Errorf("frame %d, %d bytes, %v", f, len(b), ok)
	}
	if _, _, ok := q.Take(); ok || q.invalid != 5 {
		t.Errorf("taken: %v, refused: %d, want 5", ok, q.invalid)
	}
}

// TestRingsParallel runs both halves against kernels on goroutines of their own,
// for the race detector: each index has one writer, and what is published is
// complete.
func TestRingsParallel(t *testing.T) {
	const packets = 20000
	q, k := newFakeTx(64, 32, 64, 1<<32-100, rand.New(rand.NewPCG(3, 4)))
	q.zc = true // kicks only wake: here they do nothing
	q.kick = func() unix.Errno { return 0 }
	rq, rk := newFakeRx(64, 32, 64, 1<<32-50)
	rq.Refill()
	done := make(chan struct{})
	go func() { // the wire: what is sent on one side is received on the other
		defer close(done)
		for n := 0; n < packets; {
			if k.at == atomic.LoadUint32(k.tx.producer) {
				runtime.Gosched()
				continue
			}
			d := k.tx.entries[k.at&31]
			if !rk.deliver(d.Len) {
				runtime.Gosched()
				continue
			}
			k.at++
			atomic.StoreUint32(k.tx.consumer, k.at)
			k.inFlight = append(k.inFlight, d.Addr)
			k.complete(1)
			n++
		}
	}()
	received := make(chan struct{})
	go func() {
		defer close(received)
		for n := 0; n < packets; {
			f, b, ok := rq.Take()
			if !ok {
				rq.Refill()
				runtime.Gosched()
				continue
			}
			if len(b) != 1+n%1500 {
				t.Errorf("packet %d has %d bytes", n, len(b))
				return
			}
			rq.Put(f)
			n++
		}
	}()
	for n := 0; n < packets; {
		f, buf, ok := q.Get()
		if !ok || !q.Room(1) {
			if ok {
				q.Put(f)
			}
			q.Flush(nil)
			runtime.Gosched()
			continue
		}
		buf[0] = byte(n)
		q.Queue(f, 0, 1+n%1500)
		if n++; n%7 == 0 {
			q.Flush(nil)
		}
	}
	q.Flush(nil)
	<-done
	<-received
}
