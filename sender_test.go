package ipvsync

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// flow is connection n of the tests; its timeout numbers the updates of it.
func flow(n int, update uint32) Conn {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], 0x0a000000+uint32(n))
	e := func(ap string) encoder.Endpoint { return encoder.EndpointFrom(netip.MustParseAddrPort(ap)) }
	return Conn{
		Client:  encoder.EndpointFrom(netip.AddrPortFrom(netip.AddrFrom4(a), 1024)),
		Virtual: e("192.0.2.1:80"), Dest: e("198.51.100.1:8080"),
		Protocol: encoder.TCP, State: encoder.TCPEstablished, Timeout: update,
	}
}

func flow6(n int, update uint32) Conn {
	c := flow(n, update)
	for _, e := range []*encoder.Endpoint{&c.Client, &c.Virtual, &c.Dest} {
		e.Family = encoder.IPv6
		e.Addr[15] = 1
	}
	return c
}

// collector is a handler that keeps the last update of each flow and checks
// that none overtakes another.
type collector struct {
	t      *testing.T
	mu     sync.Mutex
	last   map[encoder.Endpoint]uint32
	count  int
	target int
	done   chan struct{}
}

func newCollector(t *testing.T, target int) *collector {
	return &collector{t: t, last: map[encoder.Endpoint]uint32{}, target: target, done: make(chan struct{})}
}

func (c *collector) handle(m *Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range m.Conns {
		conn := &m.Conns[i]
		if last, ok := c.last[conn.Client]; ok && conn.Timeout <= last {
			c.t.Errorf("update %d of %v came after %d", conn.Timeout, conn.Client, last)
		}
		c.last[conn.Client] = conn.Timeout
		c.count++
		if c.count == c.target {
			close(c.done)
		}
	}
}

func (c *collector) wait() {
	c.t.Helper()
	select {
	case <-c.done:
	case <-time.After(30 * time.Second):
		c.mu.Lock()
		defer c.mu.Unlock()
		c.t.Fatalf("%d updates arrived of %d", c.count, c.target)
	}
}

// receive opens a Receiver in the namespace of e and runs it for the test.
func receive(t *testing.T, e xsktest.End, cfg ReceiverConfig, h Handler) *Receiver {
	t.Helper()
	cfg.Interface = e.Name
	cfg.SocketBuffer = 16 << 20
	var r *Receiver
	if err := e.NS.Do(func() (err error) { r, err = NewReceiver(cfg, h); return err }); err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- r.Run(context.Background()) }()
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("close receiver: %v", err)
		}
		if err := <-ran; !errors.Is(err, ErrClosed) {
			t.Errorf("Run: %v", err)
		}
		checkReceiver(t, r.Stats())
	})
	return r
}

func send(t *testing.T, e xsktest.End, cfg SenderConfig) *Sender {
	t.Helper()
	cfg.Interface = e.Name
	var s *Sender
	if err := e.NS.Do(func() (err error) { s, err = NewSender(cfg); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close sender: %v", err)
		}
		checkSender(t, s.Stats())
	})
	return s
}

// checkSender is the law of conservation, exact at rest.
func checkSender(t *testing.T, st SenderStats) {
	t.Helper()
	if st.Published != st.Sent+st.Coalesced+st.DroppedTotal()+st.Queued || st.Queued != 0 {
		t.Errorf("updates got lost without a counter: %+v", st)
	}
}

func checkReceiver(t *testing.T, st ReceiverStats) {
	t.Helper()
	if st.Records != st.Accepted+st.RefusedTotal()+st.Unread {
		t.Errorf("records got lost without a counter: %+v", st)
	}
	if st.Messages != st.Transport.Messages {
		t.Errorf("messages got lost without a counter: %+v", st)
	}
}

// inModes runs a test with AF_XDP and with UDP.
func inModes(t *testing.T, test func(t *testing.T, m xsk.Mode)) {
	for _, m := range []xsk.Mode{xsk.ModeCopy, xsk.ModeUDPGSO} {
		t.Run(m.String(), func(t *testing.T) { test(t, m) })
	}
}

// From every kind of publisher to a receiver, over veth: everything arrives,
// each flow in order.
func TestEndToEnd(t *testing.T) { inModes(t, testEndToEnd) }

func testEndToEnd(t *testing.T, mode xsk.Mode) {
	group6 := netip.MustParseAddr("ff02::81")
	for _, tc := range []struct {
		name string
		cfg  SenderConfig
		conn func(int, uint32) Conn
	}{
		{"ipv4 group", SenderConfig{}, flow},
		{"ipv6 group, ipv6 records", SenderConfig{Link: Link{Group: group6}}, flow6},
		{"version 0", SenderConfig{Version0: true}, func(n int, u uint32) Conn {
			c := flow(n, 0)
			c.Client.Port, c.Timeout = uint16(u), 0
			return c
		}},
		{"other port, short messages, immediately", SenderConfig{Link: Link{Port: 9000, MaxSize: 100}, FlushInterval: Immediately}, flow},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := xsktest.VethPair(t)
			const shards, flows, updates = 3, 50, 40
			total := 2 * shards * flows * updates
			c := newCollector(t, total)
			r := receive(t, b, ReceiverConfig{Link: Link{Group: tc.cfg.Group, Port: tc.cfg.Port, Mode: mode}, SyncID: 7}, c.handle)
			tc.cfg.SyncID, tc.cfg.Shards, tc.cfg.Mode = 7, shards, mode
			s := send(t, a, tc.cfg)
			var wg sync.WaitGroup
			publish := func(first int, publish func(*Conn) error) {
				wg.Go(func() {
					for u := range uint32(updates) {
						for n := range flows {
							conn := tc.conn(first+n, u+1)
							for errors.Is(publish(&conn), ErrRingFull) {
								t.Error("ring full")
								return
							}
						}
					}
				})
			}
			for i := range shards {
				publish(i*flows, s.Shard(i).Publish)
				publish((shards+i)*flows, s.Publish)
			}
			wg.Wait()
			c.wait()
			if st := r.Stats(); st.Accepted != uint64(total) || st.RefusedTotal()+st.IgnoredTotal() != 0 {
				t.Errorf("%+v", st)
			}
			if err := s.Flush(t.Context()); err != nil {
				t.Error(err)
			}
			st := s.Stats()
			if st.Sent != uint64(total) || st.Transport.Messages != st.Messages {
				t.Errorf("%+v", st)
			}
			checkSender(t, st)
		})
	}
}

// Two receivers on one host both get everything; unicast peers too.
func TestTwoReceiversAndPeers(t *testing.T) {
	a, b := xsktest.VethPair(t)
	const total = 1000
	c1, c2, c3 := newCollector(t, total), newCollector(t, total), newCollector(t, total)
	shared := Link{Mode: xsk.ModeUDPGSO} // AF_XDP would keep everything to itself
	receive(t, b, ReceiverConfig{Link: shared}, c1.handle)
	receive(t, b, ReceiverConfig{Link: shared}, c2.handle)
	receive(t, b, ReceiverConfig{Link: Link{Port: 9999, Mode: xsk.ModeCopy}, Unicast: true}, c3.handle)
	s := send(t, a, SenderConfig{Link: Link{Group: DefaultGroup}, Peers: []netip.AddrPort{netip.AddrPortFrom(b.Addr4, 9999)}})
	for n := range total {
		c := flow(n, 1)
		if err := s.Publish(&c); err != nil {
			t.Fatal(err)
		}
	}
	c1.wait()
	c2.wait()
	c3.wait()
}

// Close sends what lies in the rings.
func TestCloseSends(t *testing.T) { inModes(t, testCloseSends) }

func testCloseSends(t *testing.T, mode xsk.Mode) {
	a, b := xsktest.VethPair(t)
	const total = 5000
	c := newCollector(t, total)
	receive(t, b, ReceiverConfig{Link: Link{Mode: mode}}, c.handle)
	s := send(t, a, SenderConfig{Link: Link{Mode: mode}, FlushInterval: time.Hour})
	for n := range total {
		conn := flow(n, 1)
		if err := s.Shard(0).Publish(&conn); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	c.wait()
	conn := flow(0, 2)
	for _, err := range []error{s.Publish(&conn), s.Shard(0).Publish(&conn), s.Flush(t.Context())} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	if st := s.Stats(); st.Sent != total || st.Dropped[DropClosed] != 2 {
		t.Errorf("%+v", st)
	}
}

func TestUnencodableIsCounted(t *testing.T) {
	a, _ := xsktest.VethPair(t)
	s := send(t, a, SenderConfig{Link: Link{MaxSize: 80}})
	bad := flow(1, 1)
	bad.Dest = encoder.Endpoint{}
	long := flow(1, 1)
	var err error
	if long.Options, err = long.Options.AppendPE("sip", make([]byte, 200)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Conn{&bad, &long} {
		for _, publish := range []func(*Conn) error{s.Publish, s.Shard(0).Publish} {
			var fe *encoder.FieldError
			if err := publish(c); !errors.As(err, &fe) {
				t.Errorf("got %v", err)
			}
		}
	}
	if st := s.Stats(); st.Dropped[DropUnencodable] != 4 || st.Published != 4 {
		t.Errorf("%+v", st)
	}
}

// What a master sends wrongly is refused, counted, and costs the rest nothing.
func TestReceiverCounts(t *testing.T) {
	a, b := xsktest.VethPair(t)
	var mu sync.Mutex
	var got []uint32
	trailers := 0
	done := make(chan struct{})
	r := receive(t, b, ReceiverConfig{SyncID: 7}, func(m *Message) {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range m.Conns {
			got = append(got, c.Timeout)
		}
		if m.Trailer != nil {
			trailers++
		}
		if m.Header.Count == 0 {
			close(done)
		}
	})
	var tx *xsk.UDPTx
	err := a.NS.Do(func() (err error) {
		tx, err = xsk.OpenUDPTx(xsk.UDPConfig{Interface: a.Name, Group: DefaultGroup, Port: DefaultPort})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	message := func(syncID uint8, states ...encoder.State) []byte {
		var w encoder.Writer
		if err := w.Init(make([]byte, 1472), 1, syncID); err != nil {
			t.Fatal(err)
		}
		for i, st := range states {
			c := flow(i, uint32(i)+1)
			c.State = st
			if err := w.Append(&c); err != nil {
				t.Fatal(err)
			}
		}
		return w.Seal()
	}
	cut := message(7, 1, 1, 1)
	cut[8+36+2] |= 0x10 // record version 1
	trailer := append(message(7, 1), "trailer"...)
	binary.BigEndian.PutUint16(trailer[2:], uint16(len(trailer)))
	for _, m := range [][]byte{
		message(7, 1, 99, 1), message(8, 1), cut, trailer, {1, 2, 3}, message(7, 1)[:20], message(7),
	} {
		buf, err := tx.Next()
		if err != nil {
			t.Fatal(err)
		}
		tx.Commit(copy(buf, m))
		if err := tx.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the last message did not arrive")
	}
	st := r.Stats()
	if !slices.Equal(got, []uint32{1, 3, 1, 1}) || trailers != 1 {
		t.Errorf("records %v, %d trailers", got, trailers)
	}
	if st.Messages != 7 || st.Records != 7 || st.Accepted != 4 || st.Unread != 1 || st.Refused[encoder.InvalidState] != 1 ||
		st.Refused[encoder.BadRecordVersion] != 1 || st.Ignored[encoder.OtherSyncID] != 1 ||
		st.Ignored[encoder.MessageTooShort] != 1 || st.Ignored[encoder.SizeMismatch] != 1 {
		t.Errorf("%+v", st)
	}
}

// Flush under load answers for what was published before it, whatever comes
// after.
func TestFlushUnderLoad(t *testing.T) {
	tx := &discard{}
	s, err := NewSender(SenderConfig{FlushInterval: time.Hour, OpenTx: func(int, func([]byte)) (xsk.Tx, error) { return tx, nil }, Shards: 2})
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // noise on the other shard
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			c := flow(n, 1)
			_ = s.Shard(1).Publish(&c)
		}
	})
	rng := rand.New(rand.NewPCG(1, 1))
	published := uint64(0)
	for range 200 {
		for range rng.IntN(100) {
			c := flow(1, 1)
			if err := s.Shard(0).Publish(&c); err != nil {
				t.Fatal(err)
			}
			published++
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if sent := s.Stats().Shards[0].Taken; sent != published {
			t.Fatalf("%d of %d were taken", sent, published)
		}
	}
	close(stop)
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	checkSender(t, s.Stats())
}

func TestPublishDoesNotAllocate(t *testing.T) {
	s, err := NewSender(SenderConfig{OpenTx: func(int, func([]byte)) (xsk.Tx, error) { return &discard{}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := flow(1, 1)
	for name, publish := range map[string]func(*Conn) error{"Sender": s.Publish, "Shard": s.Shard(0).Publish} {
		if n := testing.AllocsPerRun(1000, func() { _ = publish(&c) }); n != 0 {
			t.Errorf("%s.Publish: %v allocations", name, n)
		}
	}
	conns := benchConns(100)
	for name, publish := range map[string]func([]Conn) (int, error){"Sender": s.PublishBatch, "Shard": s.Shard(0).PublishBatch} {
		if n := testing.AllocsPerRun(100, func() { _, _ = publish(conns) }); n != 0 {
			t.Errorf("%s.PublishBatch: %v allocations", name, n)
		}
	}
}

// discard is a Tx that takes everything and sends nothing: what remains is the
// cost of the engine.
type discard struct {
	buf   [1472]byte
	stats xsk.TxStats
}

func (d *discard) MaxPayload() int          { return len(d.buf) }
func (d *discard) Next() ([]byte, error)    { return d.buf[:], nil }
func (d *discard) Commit(int)               {}
func (d *discard) Flush() error             { return nil }
func (d *discard) Pending() int             { return 0 }
func (d *discard) Wait(time.Duration) error { return nil }
func (d *discard) Stats() xsk.TxStats       { return d.stats }
func (d *discard) Close() error             { return nil }

// A Receiver with CPUs of its own runs there, and gives the thread back as it was.
func TestReceiverCPUs(t *testing.T) {
	near, far := xsktest.VethPair(t)
	affinity := func() (set unix.CPUSet) {
		if err := unix.SchedGetaffinity(0, &set); err != nil {
			t.Error(err)
		}
		return set
	}
	for _, mode := range []xsk.Mode{xsk.ModeUDP, xsk.ModeCopy} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var there, want unix.CPUSet
		want.Set(0)
		var r *Receiver
		if err := far.NS.Do(func() (err error) {
			r, err = NewReceiver(ReceiverConfig{Link: Link{Interface: far.Name, Mode: mode}, CPUs: []int{0}}, func(*Message) {
				there = affinity()
				cancel()
			})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		ran := make(chan struct{})
		go func() {
			defer close(ran)
			runtime.LockOSThread() // never unlocked
			before := affinity()
			if err := r.Run(ctx); err != nil {
				t.Error(err)
			}
			if after := affinity(); after != before {
				t.Errorf("%v: the thread may run on %v, before on %v", mode, after, before)
			}
		}()
		s := send(t, near, SenderConfig{Link: Link{Mode: mode}})
		c := flow(1, 1)
		if err := s.Publish(&c); err != nil {
			t.Fatal(err)
		}
		<-ran
		r.Close()
		if there != want {
			t.Errorf("%v: the handler may run on %v, want %v", mode, there, want)
		}
	}
}
