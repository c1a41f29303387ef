package ipvsync

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// memTx is a Tx that gives each message to a function, and can be stopped from
// taking any. Its methods belong to the transmit loop, but for the atomics.
type memTx struct {
	frames  [][]byte
	queued  []int // lengths; frame i of the queue is frames[(out+i)%len(frames)]
	out     int
	size    int
	take    func(message []byte)
	blocked atomic.Bool
	atOnce  atomic.Int64                    // most messages of one Flush; 0: all
	fail    atomic.Pointer[func(int) error] // asked before each Flush, with what is queued; its error ends it
	lost    func([]byte)
	n       atomic.Uint64
}

func newMemTx(lost func([]byte), take func([]byte)) *memTx {
	tx := &memTx{take: take, lost: lost, size: encoder.DefaultMaxSize}
	for range 8 {
		tx.frames = append(tx.frames, make([]byte, encoder.DefaultMaxSize))
	}
	return tx
}

func (m *memTx) frame(i int) []byte { return m.frames[(m.out+i)%len(m.frames)] }
func (m *memTx) MaxPayload() int    { return m.size }
func (m *memTx) Pending() int       { return len(m.queued) }
func (m *memTx) Stats() xsk.TxStats { return xsk.TxStats{Messages: m.n.Load()} }

func (m *memTx) Next() ([]byte, error) {
	if len(m.queued) == len(m.frames) {
		return nil, xsk.ErrNoFrame
	}
	return m.frame(len(m.queued))[:m.size], nil
}

func (m *memTx) Commit(n int) {
	m.queued = append(m.queued, n)
	m.n.Add(1)
}

func (m *memTx) Flush() error {
	if m.blocked.Load() {
		return nil // back-pressure
	}
	if fail := m.fail.Load(); fail != nil {
		if err := (*fail)(len(m.queued)); err != nil {
			if errors.Is(err, errBroken) {
				m.giveUp()
			}
			return err
		}
	}
	count := len(m.queued)
	if most := int(m.atOnce.Load()); most > 0 {
		count = min(count, most)
	}
	for i, n := range m.queued[:count] {
		m.take(m.frame(i)[:n])
	}
	m.out = (m.out + count) % len(m.frames)
	m.queued = slices.Delete(m.queued, 0, count)
	return nil
}

func (m *memTx) giveUp() {
	for i, n := range m.queued {
		m.lost(m.frame(i)[:n])
	}
	// The buffer that is lent stays where it is.
	m.out = (m.out + len(m.queued)) % len(m.frames)
	m.queued = m.queued[:0]
}

func (m *memTx) Wait(time.Duration) error {
	runtime.Gosched()
	return nil
}

func (m *memTx) Close() error {
	m.giveUp()
	return nil
}

// sink collects the records of the messages that a Sender sends.
type sink struct {
	mu    sync.Mutex
	conns []Conn
	ports map[int]bool
	mu2   sync.Mutex
	txs   []*memTx
	sizes []int         // MaxPayload of one transport after the other; then the default
	empty atomic.Uint64 // messages without a record
	n     atomic.Uint64 // records
}

func (k *sink) openTx(port int, lost func([]byte)) (xsk.Tx, error) {
	tx := newMemTx(lost, func(message []byte) {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.ports == nil {
			k.ports = map[int]bool{}
		}
		k.ports[port] = true
		d := encoder.Decoder{}
		d.Open(message)
		if d.Header().Count == 0 {
			k.empty.Add(1)
		}
		for {
			var c Conn
			reason, ok := d.Next(&c)
			if !ok {
				return
			}
			if reason != encoder.Accepted {
				panic(reason)
			}
			k.conns = append(k.conns, c)
			k.n.Add(1)
		}
	})
	k.mu2.Lock()
	defer k.mu2.Unlock()
	if n := len(k.txs); n < len(k.sizes) {
		tx.size = k.sizes[n]
	}
	k.txs = append(k.txs, tx)
	return tx, nil
}

func (k *sink) tx(i int) *memTx {
	k.mu2.Lock()
	defer k.mu2.Unlock()
	return k.txs[i]
}

func (k *sink) block(on bool) {
	k.mu2.Lock()
	defer k.mu2.Unlock()
	for _, tx := range k.txs {
		tx.blocked.Store(on)
	}
}

func newMemSender(t testing.TB, k *sink, cfg SenderConfig) *Sender {
	t.Helper()
	cfg.OpenTx = k.openTx
	s, err := NewSender(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		k.block(false)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if t, ok := t.(*testing.T); ok {
			checkSender(t, s.Stats())
		}
	})
	return s
}

// Every shard and every way to publish at once, through several ports, over the
// network: each flow's updates arrive in order, and all of them.
func TestOrderThroughAllShardsAndPorts(t *testing.T) {
	a, b := xsktest.VethPair(t)
	const shards, ports, flows, updates = 4, 3, 40, 60
	const total = 3 * shards * flows * updates
	c := newCollector(t, total)
	for p := range uint16(ports) {
		receive(t, b, ReceiverConfig{Link: Link{Port: DefaultPort + p}}, c.handle)
	}
	s := send(t, a, SenderConfig{Shards: shards, Ports: ports})
	var wg sync.WaitGroup
	for i := range shards {
		// One flow belongs to one publisher: a shard's own goroutine, singly and
		// in batches, or any number of those that use Sender.Publish.
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
			for u := range uint32(updates) {
				for n := range flows {
					conn := flow((2*shards+i)*flows+n, u+1)
					if err := s.Publish(&conn); err != nil {
						t.Error(err)
					}
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
		for i := range uint64(5000) {
			for range rng.IntN(3000) {
				s.ports[0].alarm.state.Load() // a random while
			}
			for i%50 == 0 && s.ports[0].alarm.state.Load() != asleep {
				runtime.Gosched()
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
	if after := port().Turns; after != before {
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

// Under steady back-pressure, with messages always pending, Sent goes on.
func TestSentUnderBackPressure(t *testing.T) {
	k := &sink{}
	s := newMemSender(t, k, SenderConfig{Shards: 1, RingSize: 1 << 14})
	k.tx(0).atOnce.Store(1)
	deadline := time.Now().Add(20 * time.Second)
	for n, last := 0, uint64(0); last < 5000; n++ {
		c := flow(n, 1)
		_ = s.Publish(&c) // mostly the ring is full
		st := s.Stats()
		if st.Queued > 9*40 || st.Sent < last {
			t.Fatalf("%d sent before: %+v", last, st)
		}
		last = st.Sent
		if time.Now().After(deadline) {
			t.Fatalf("%d updates offered: %+v", n, st)
		}
	}
}

// What the transport gives up is counted, and Flush says so.
func TestLossIsToldByFlush(t *testing.T) {
	k := &sink{}
	s := newMemSender(t, k, SenderConfig{Shards: 1, FlushInterval: time.Hour})
	failWith := func(err error) {
		fail := func(n int) error {
			if n == 0 {
				return nil
			}
			return err
		}
		k.tx(0).fail.Store(&fail)
	}
	publish := func(n int) {
		for i := range n {
			c := flow(i, 1)
			if err := s.Publish(&c); err != nil {
				t.Fatal(err)
			}
		}
	}
	failWith(errBroken)
	publish(100)
	if err := s.Flush(t.Context()); !errors.Is(err, ErrLost) || !errors.Is(err, errBroken) {
		t.Errorf("Flush: %v", err)
	}
	st := s.Stats()
	checkSender(t, st)
	if st.Dropped[DropTransport] != 100 || st.Sent != 0 {
		t.Errorf("%+v", st)
	}
	// Too long for the interface: lost too, but the transport is opened anew.
	failWith(errors.Join(errBroken, xsk.ErrMTU))
	publish(10) // one message
	if err := s.Flush(t.Context()); !errors.Is(err, ErrLost) {
		t.Errorf("Flush: %v", err)
	}
	publish(50)
	if err := s.Flush(t.Context()); err != nil {
		t.Errorf("Flush: %v", err)
	}
	if st := s.Stats(); st.Sent != 50 || st.Reopened != 1 {
		t.Errorf("%+v", st)
	}
	if err := s.Close(); err == nil {
		t.Error("Close does not tell what was lost")
	}
	s.closeErr = nil // as expected; for the cleanup
}

// errBroken is for messages that a memTx gives up.
var errBroken = errors.New("broken")

// A device that vanishes and comes back smaller: what fits is sent, what does
// not is counted, and no empty message leaves.
func TestReopenWithSmallerMessages(t *testing.T) {
	k := &sink{sizes: []int{encoder.DefaultMaxSize, 100}}
	s := newMemSender(t, k, SenderConfig{Shards: 1})
	gone := func(int) error { return xsk.ErrDeviceGone }
	k.tx(0).fail.Store(&gone)
	short, long := flow(1, 1), flow(2, 1)
	var err error
	if long.Options, err = long.Options.AppendPE("sip", make([]byte, 150)); err != nil {
		t.Fatal(err)
	}
	const rounds = 50
	for range rounds {
		for _, c := range []*Conn{&short, &long} {
			if err := s.Publish(c); err != nil {
				t.Fatal(err)
			}
		}
	}
	ctx := t.Context()
	if err := s.Flush(ctx); !errors.Is(err, ErrLost) {
		t.Errorf("Flush: %v", err)
	}
	st := s.Stats()
	checkSender(t, st)
	if st.Reopened != 1 || st.Sent == 0 || st.Sent+st.Dropped[DropTransport] != 2*rounds || k.empty.Load() != 0 {
		t.Errorf("%d empty messages: %+v", k.empty.Load(), st)
	}
	// It is well again, and does not spin.
	for s.ports[0].alarm.state.Load() != asleep {
		runtime.Gosched()
	}
	before := s.Stats().Ports[0].Turns
	for busy := time.Now(); time.Since(busy) < 20*time.Millisecond; {
		runtime.Gosched()
	}
	if after := s.Stats().Ports[0].Turns; after != before {
		t.Errorf("%d turns while there was nothing to do", after-before)
	}
	_ = s.Close()
	s.closeErr = nil
}

// A message that stayed open without a record does not hold up the next one.
func TestEmptyOpenMessage(t *testing.T) {
	k := &sink{sizes: []int{encoder.DefaultMaxSize, 100}}
	s := newMemSender(t, k, SenderConfig{Shards: 1})
	gone := func(int) error { return xsk.ErrDeviceGone }
	k.tx(0).fail.Store(&gone)
	short, long := flow(1, 1), flow(2, 1)
	var err error
	if long.Options, err = long.Options.AppendPE("sip", make([]byte, 150)); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(&short); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	until := func(what string, is func(SenderStats) bool) {
		for !is(s.Stats()) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %+v", what, s.Stats())
			}
			runtime.Gosched()
		}
	}
	until("reopened", func(st SenderStats) bool { return st.Reopened == 1 })
	if err := s.Publish(&long); err != nil {
		t.Fatal(err)
	}
	// Lost are the long one and what lay in the old transport.
	until("long one dropped", func(st SenderStats) bool { return st.Sent+st.Dropped[DropTransport] == 2 })
	for s.ports[0].alarm.state.Load() != asleep {
		runtime.Gosched()
	}
	sent := s.Stats().Sent
	if err := s.Publish(&short); err != nil {
		t.Fatal(err)
	}
	until("sent without Flush", func(st SenderStats) bool { return st.Sent == sent+1 })
	_ = s.Close()
	s.closeErr = nil
}

// What was merged in a window that never left is counted, too.
func TestMergedAtClose(t *testing.T) {
	k := &sink{}
	s := newMemSender(t, k, SenderConfig{Shards: 1, Coalesce: minWindow, CloseTimeout: 20 * time.Millisecond})
	k.block(true)
	n := uint64(0)
	publish := func(f int) {
		c := flow(f, uint32(n)+1)
		if err := s.Publish(&c); err != nil {
			t.Fatal(err)
		}
		n++
	}
	// One message after the other, until the transport has no frame.
	deadline := time.Now().Add(20 * time.Second)
	for f := 0; s.Stats().Messages < 8; f++ {
		publish(f)
		for taken := n; s.Stats().Shards[0].Taken < taken || s.Stats().Messages < min(uint64(f+1), 8); {
			if time.Now().After(deadline) {
				t.Fatalf("%+v", s.Stats())
			}
			runtime.Gosched()
		}
	}
	for range 1000 {
		publish(1 << 20)
	}
	_ = s.Close()
	s.closeErr = nil
	if st := s.Stats(); st.Published != n || st.Coalesced < 900 {
		t.Errorf("%d published: %+v", n, st)
	}
}
