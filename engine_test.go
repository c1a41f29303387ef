package ipvsync

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// Every shard and every way to publish at once, through several ports, over the
// network: each flow's updates arrive in order, and all of them.
func TestOrderThroughAllShardsAndPorts(t *testing.T) { inModes(t, testOrderThroughAllShardsAndPorts) }

func testOrderThroughAllShardsAndPorts(t *testing.T, mode xsk.Mode) {
	a, b := xsktest.VethPair(t)
	const shards, ports, flows, updates = 4, 3, 40, 60
	const total = 4 * shards * flows * updates
	c := newCollector(t, total)
	receive(t, b, ReceiverConfig{Link: Link{Mode: mode}, Ports: ports}, c.handle)
	if mode == xsk.ModeCopy {
		mode = xsk.ModeAuto // there is a queue for one port only
	}
	s := send(t, a, SenderConfig{Link: Link{Mode: mode}, Shards: shards, Ports: ports})
	if m := s.Modes(); mode == xsk.ModeAuto && (m[0].Mode != xsk.ModeCopy || m[2].Mode != xsk.ModeUDPGSO || len(m[2].Rejected) != 3) {
		t.Errorf("%v", m)
	}
	var wg sync.WaitGroup
	for i := range shards {
		// One flow belongs to one publisher: a shard's own goroutine, singly and
		// in batches, or any number of those that use Sender.Publish and PublishBatch.
		wg.Go(func() {
			batch := make([]Conn, flows)
			for u := range uint32(updates) {
				for n := range flows {
					conn := flow(i*flows+n, u+1)
					if err := s.Shard(i).Publish(&conn); err != nil {
						t.Error(err)
					}
					batch[n] = flow((shards+i)*flows+n, u+1)
				}
				if n, err := s.Shard(i).PublishBatch(batch); n != flows || err != nil {
					t.Errorf("%d of the batch were taken: %v", n, err)
				}
			}
		})
		wg.Go(func() {
			batch := make([]Conn, flows)
			for u := range uint32(updates) {
				for n := range flows {
					conn := flow((2*shards+i)*flows+n, u+1)
					if err := s.Publish(&conn); err != nil {
						t.Error(err)
					}
					batch[n] = flow((3*shards+i)*flows+n, u+1)
				}
				if n, err := s.PublishBatch(batch); n != flows || err != nil {
					t.Errorf("%d of the batch were taken: %v", n, err)
				}
			}
		})
	}
	wg.Wait()
	c.wait()
	if err := s.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	st := s.Stats()
	if len(st.Ports) != ports || len(st.Shards) != shards || st.Sent != total {
		t.Errorf("%+v", st)
	}
	for i, p := range st.Ports {
		if p.Sent == 0 {
			t.Errorf("port %d sent nothing", i)
		}
	}
}

// When the network stops, refreshes are refused first, state changes last, and
// every refusal is counted.
func TestPriorities(t *testing.T) {
	for name, shared := range map[string]bool{"shard": false, "sender": true} {
		t.Run(name, func(t *testing.T) {
			k := &sink{}
			s := newMemSender(t, k, SenderConfig{Shards: 1, RingSize: 1 << 14})
			k.block(true)
			publish := s.Shard(0).PublishPriority
			if shared {
				publish = s.PublishPriority
			}
			refusedAt := [numPriorities]int{}
			taken, refused := 0, 0
			// The loop takes what the frames hold; then the ring fills up.
			for p := range numPriorities {
				for full := 0; full < 2000; {
					c := flow(taken, 1)
					if err := publish(&c, p); errors.Is(err, ErrRingFull) {
						full++
						refused++
						runtime.Gosched()
						continue
					} else if err != nil {
						t.Fatal(err)
					}
					taken++
					full = 0
				}
				refusedAt[p] = s.Stats().Shards[0].Waiting
			}
			if r := refusedAt; !(r[Refresh] <= 1<<14*75/100 && r[Refresh] < r[Update] && r[Update] <= 1<<14*90/100 && r[Update] < r[StateChange]) {
				t.Errorf("refused at %v bytes in the ring", r)
			}
			if n := s.Stats().Dropped[DropRingFull]; n != uint64(refused) {
				t.Errorf("%d refused, %d counted", refused, n)
			}
			k.block(false)
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if k.n.Load() != uint64(taken) {
				t.Errorf("%d of %d sent", k.n.Load(), taken)
			}
		})
	}
}

// Whatever sleeps is woken: each update is published when the loop may be on
// any point of its way to sleep, and waited for.
func TestNoUpdateIsLeftLying(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, interval := range []time.Duration{Immediately, 50 * time.Microsecond} {
		k := &sink{}
		s := newMemSender(t, k, SenderConfig{Shards: 2, FlushInterval: interval})
		rng := rand.New(rand.NewPCG(seed, 0))
		deadline := time.Now().Add(time.Minute)
		slept := uint64(0)
		for i := range uint64(5000) {
			for range rng.IntN(3000) {
				s.ports[0].alarm.state.Load() // a random while
			}
			// Now and then it must really sleep, not only be about to.
			for i%50 == 0 && (s.ports[0].alarm.state.Load() != asleep || s.ports[0].sleeps.Load() == slept) {
				runtime.Gosched()
			}
			if i%50 == 0 {
				slept = s.ports[0].sleeps.Load()
			}
			c := flow(int(i), 1)
			publish := s.Publish
			if i%2 == 0 {
				publish = s.Shard(0).Publish
			}
			if err := publish(&c); err != nil {
				t.Fatal(err)
			}
			for k.n.Load() != i+1 {
				if time.Now().After(deadline) {
					t.Fatalf("update %d lies in the ring: %+v", i, s.Stats())
				}
				runtime.Gosched()
			}
		}
		if st := s.Stats(); st.Ports[0].Sleeps == 0 {
			t.Error("the loop never slept: nothing was tested")
		}
	}
}

// An idle loop does not turn.
func TestIdleLoopSleeps(t *testing.T) {
	k := &sink{}
	s := newMemSender(t, k, SenderConfig{Shards: 1})
	c := flow(1, 1)
	if err := s.Publish(&c); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	port := func() PortStats { return s.Stats().Ports[0] }
	for s.ports[0].alarm.state.Load() != asleep {
		runtime.Gosched()
	}
	before := port().Turns
	busy := time.Now()
	for time.Since(busy) < 50*time.Millisecond {
		runtime.Gosched() // leave it every chance to turn
	}
	// It says that it sleeps, then looks once more: that turn may still come.
	if after := port().Turns; after > before+1 {
		t.Errorf("%d turns while there was nothing to do", after-before)
	}
}

func TestBusyPollAndAffinity(t *testing.T) {
	k := &sink{}
	s := newMemSender(t, k, SenderConfig{Shards: 1, Ports: 2, BusyPoll: true, CPUs: []int{0, 1 << 9}})
	const total = 1000
	for i := range total {
		c := flow(i, 1)
		if err := s.Publish(&c); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Sent != total || st.Ports[0].Sleeps+st.Ports[1].Sleeps != 0 {
		t.Errorf("%+v", st)
	}
}

// Counters that are read while updates flow never show more that left than came.
func TestStatsUnderLoad(t *testing.T) {
	k := &sink{}
	s := newMemSender(t, k, SenderConfig{Shards: 2, Coalesce: 1 << 14})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				c := flow(n%100, uint32(n))
				_ = s.Shard(i).Publish(&c)
			}
		})
	}
	for range 20000 {
		st := s.Stats()
		if st.Queued > 1<<40 || st.Published < st.Sent+st.Coalesced+st.DroppedTotal() {
			t.Fatalf("%+v", st)
		}
	}
	close(stop)
	wg.Wait()
	k.mu.Lock()
	k.conns = nil
	k.mu.Unlock()
}

// An update replaces one of the same flow that still waits: the last state wins,
// and only where nothing that must be seen is lost. The slow twin does it on
// lists of connections.
func TestCoalescing(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, v0 := range []bool{false, true} {
		for range 50 {
			k := &sink{}
			s := newMemSender(t, k, SenderConfig{Shards: 1, Coalesce: 1 << 14, FlushInterval: time.Hour, Version0: v0})
			var want []Conn
			published := 1 + rng.IntN(150) // fits the window
			for i := range published {
				c := flow(rng.IntN(10), uint32(i))
				if !v0 && rng.IntN(4) == 0 {
					c = flow6(rng.IntN(10), uint32(i))
				}
				c.State = encoder.State(rng.IntN(11))
				c.Dest.Port = uint16(8080 + rng.IntN(8)/7)
				if rng.IntN(4) == 0 {
					c.Flags, c.State = encoder.FlagTemplate, 1
				}
				if !v0 && rng.IntN(5) == 0 {
					var err error
					if c.Options, err = c.Options.AppendPE("sip", []byte{byte('a' + rng.IntN(2))}); err != nil {
						t.Fatal(err)
					}
				}
				if v0 {
					c.Timeout, c.Client.Port = 0, uint16(rng.IntN(3))
				}
				want = coalesceTwin(want, c)
				if err := s.Publish(&c); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			same := func(a, b Conn) bool { return a.Equal(&b) }
			if !slices.EqualFunc(k.conns, want, same) {
				t.Fatalf("version 0 %v: sent %v\nwant %v", v0, k.conns, want)
			}
			st := s.Stats()
			if st.Coalesced != uint64(published-len(want)) || st.Sent != uint64(len(want)) {
				t.Fatalf("%d published, %d want: %+v", published, len(want), st)
			}
		}
	}
}

func coalesceTwin(list []Conn, c Conn) []Conn {
	for i := len(list) - 1; i >= 0; i-- {
		l := &list[i]
		if l.Client != c.Client || l.Virtual != c.Virtual || l.Protocol != c.Protocol || l.Template() != c.Template() {
			continue
		}
		if l.Dest == c.Dest && string(l.Options) == string(c.Options) {
			*l = c
			return list
		}
		break // only the latest of a flow may be replaced
	}
	return append(list, c)
}

// A window that is full, or waits for frames, loses nothing and keeps the order.
func TestCoalescingUnderPressure(t *testing.T) {
	k := &sink{}
	s := newMemSender(t, k, SenderConfig{Shards: 1, Coalesce: minWindow, RingSize: 1 << 14})
	last := map[encoder.Endpoint]uint32{}
	published := uint64(0)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range uint32(30000) {
		k.block(i%1000 < 700)
		c := flow(rng.IntN(300), i+1)
		if s.Publish(&c) == nil {
			last[c.Client] = c.Timeout
			published++
		}
	}
	k.block(false)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := map[encoder.Endpoint]uint32{}
	for _, c := range k.conns {
		if c.Timeout <= got[c.Client] {
			t.Fatalf("update %d after %d", c.Timeout, got[c.Client])
		}
		got[c.Client] = c.Timeout
	}
	for client, want := range last {
		if got[client] != want {
			t.Errorf("%v: last update %d, want %d", client, got[client], want)
		}
	}
	if st := s.Stats(); st.Sent+st.Coalesced != published || st.Coalesced == 0 {
		t.Errorf("%d published: %+v", published, st)
	}
}

// Messages are sealed when they are full, and hold at most 255 records.
func TestMessagesAreFull(t *testing.T) {
	k := &sink{}
	s := newMemSender(t, k, SenderConfig{Shards: 1, FlushInterval: time.Hour})
	const total = 40*5 + 7 // 40 IPv4 records make 1448 bytes, 41 do not fit 1472
	for i := range total {
		c := flow(i, 1)
		if err := s.Publish(&c); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Messages != 6 || st.Bytes != 5*1448+8+7*36 {
		t.Errorf("%+v", st)
	}
}

// Batches of any size reach the network whole and in order, behind records that
// need padding and over a transport that runs out of frames in the midst of one.
func TestBatchesThroughFewFrames(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	k := &sink{}
	s := newMemSender(t, k, SenderConfig{Shards: 1, RingSize: 1 << 19})
	var want []Conn
	for range 20 {
		k.block(true) // what is published is more than the frames hold
		for mark := len(want); len(want)-mark < 8*40*2; {
			batch := make([]Conn, 1+rng.IntN(2000))
			for i := range batch {
				batch[i] = flow(len(want)+i, 1)
			}
			if rng.IntN(2) == 0 {
				batch = batch[:min(len(batch), 1+rng.IntN(50))]
				c := &batch[rng.IntN(len(batch))]
				c.Options, _ = c.Options.AppendPE("sip", make([]byte, 1+rng.IntN(9)))
			}
			n, err := s.Shard(0).PublishBatch(batch)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, batch[:n]...)
		}
		k.block(false)
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !slices.EqualFunc(k.conns, want, func(a, b Conn) bool { return a.Equal(&b) }) {
		t.Errorf("%d published, %d sent, or not the same in order", len(want), len(k.conns))
	}
}
