package xsk

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/ipvsync/ipvsync/xsk/netns"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// twoQueues makes a pair whose ends have two queues each.
func twoQueues(tb testing.TB) (a, b xsktest.End) {
	tb.Helper()
	return xsktest.VethPairWith(tb, netns.VethOptions{Queues: 2})
}

// mappings counts the ring mappings of this process.
func mappings(tb testing.TB) int {
	tb.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		tb.Fatal(err)
	}
	return strings.Count(string(b), "XDP") + strings.Count(string(b), "socket:")
}

// TestSocketReopen opens and closes the same queue ten times: nothing stays
// mapped, no descriptor stays open, and the queue is free again each time.
func TestSocketReopen(t *testing.T) {
	_, e := xsktest.VethPair(t)
	prog := openProgram(t, e, ProgramConfig{Group: group4, FirstPort: port})
	maps, fds := mappings(t), openFiles(t)
	for range 10 {
		s := openSocket(t, e, SocketConfig{TxFrames: 64, RxFrames: 64, Program: prog})
		if n := mappings(t); n != maps+4 {
			t.Fatalf("%d rings are mapped with a socket open, want 4", n-maps)
		}
		for range 2 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		s.Unmap()
		if s.umem.mem != nil {
			t.Error("the packet memory is mapped")
		}
		_ = s.Stats()
	}
	if n := mappings(t); n != maps {
		t.Errorf("%d rings are mapped after closing, %d before", n, maps)
	}
	if n := openFiles(t); n != fds {
		t.Errorf("%d descriptors, %d before", n, fds)
	}
}

// TestSocketOpenFails: an error on the way leaves nothing behind.
func TestSocketOpenFails(t *testing.T) {
	_, e := xsktest.VethPair(t)
	maps, fds := mappings(t), openFiles(t)
	for name, c := range map[string]struct {
		cfg  SocketConfig
		want error
	}{
		"no frames":      {SocketConfig{}, ErrConfig},
		"ring":           {SocketConfig{TxFrames: 64, TxRing: 100}, ErrConfig},
		"big ring":       {SocketConfig{TxFrames: 64, TxRing: 1 << 21}, ErrConfig},
		"frame size":     {SocketConfig{TxFrames: 64, FrameSize: 1024}, ErrConfig},
		"negative":       {SocketConfig{TxFrames: -1, RxFrames: 2}, ErrConfig},
		"queue":          {SocketConfig{TxFrames: 64, Queue: 99}, ErrConfig},
		"negative queue": {SocketConfig{TxFrames: 64, Queue: -1}, ErrConfig},
		"mode":           {SocketConfig{TxFrames: 64, Mode: 9}, ErrConfig},
		"zero-copy":      {SocketConfig{TxFrames: 64, Mode: ZeroCopyRequired}, ErrZeroCopy},
		"zero-copy rx":   {SocketConfig{RxFrames: 64, Mode: ZeroCopyRequired}, ErrZeroCopy},
		"interface":      {SocketConfig{TxFrames: 64, Interface: "nope"}, ErrInterface},
	} {
		in(t, e, func() error {
			if c.cfg.Interface == "" {
				c.cfg.Interface = e.Name
			}
			_, err := OpenSocket(c.cfg)
			var x *Error
			if !errors.Is(err, c.want) || !errors.As(err, &x) {
				t.Errorf("%s: %v, want %v in an *Error", name, err, c.want)
			}
			return nil
		})
	}
	if n := mappings(t); n != maps {
		t.Errorf("%d rings are mapped, %d before", n, maps)
	}
	if n := openFiles(t); n != fds {
		t.Errorf("%d descriptors, %d before", n, fds)
	}
}

// TestQueueBusy: two sockets cannot have one queue, and the first goes on.
func TestQueueBusy(t *testing.T) {
	a, b := twoQueues(t)
	tx := openXDPTx(t, a, XDPConfig{Group: group4, Port: port})
	in(t, a, func() error {
		for _, cfg := range []XDPConfig{{}, {TxFrames: 64}} {
			cfg.Interface, cfg.Group, cfg.Port = a.Name, group4, port
			if _, err := OpenXDPTx(cfg); !errors.Is(err, ErrQueueBusy) {
				t.Errorf("%v, want ErrQueueBusy", err)
			}
		}
		return nil
	})
	openXDPTx(t, a, XDPConfig{Group: group4, Port: port, Queues: []int{1}})
	rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port})
	sendAll(t, tx, sequences(10)...)
	wantSequence(t, takeAll(t, rx, 10), 10)
}

// TestSocketHalves has one socket send and receive, with halves that share no
// frame, and others that do only one of them.
func TestSocketHalves(t *testing.T) {
	a, b := xsktest.VethPair(t)
	prog := openProgram(t, b, ProgramConfig{Group: group4, FirstPort: port})
	both := openSocket(t, b, SocketConfig{TxFrames: 64, RxFrames: 128, Program: prog})
	only := openSocket(t, a, SocketConfig{TxFrames: 64})
	if only.Rx() != nil || only.Tx() == nil || both.Rx() == nil || both.Tx() == nil {
		t.Fatal("halves")
	}
	if txf, rxf := both.UMEM().Frames(); txf != 64 || rxf != 128 || both.UMEM().Size() != 192*2048 || both.UMEM().FrameSize() != 2048 {
		t.Errorf("%+v", both.UMEM())
	}
	h := newTemplate(headConfig(false, 0))
	p := packet(&h, []byte("one way"))
	f, buf, _ := only.Tx().Get()
	only.Tx().Queue(f, 100, copy(buf[100:], p))
	if e := only.Tx().Flush(nil); e != 0 {
		t.Fatal(e)
	}
	waitFor(t, func() bool { return both.Rx().Ready() > 0 })
	frame, got, _ := both.Rx().Take()
	if !bytes.Equal(got, p) {
		t.Errorf("got %x, want %x", got, p)
	}
	both.Rx().Put(frame)
	both.Rx().Refill()
	// And back, from the socket that receives too.
	rx := openRx(t, a, UDPConfig{Group: group4, Port: port})
	head := headConfig(false, 0)
	head.src = netip.AddrPortFrom(b.Addr4, 1)
	h = newTemplate(head)
	f, buf, _ = both.Tx().Get()
	both.Tx().Queue(f, 0, copy(buf, packet(&h, []byte("one way"))))
	if e := both.Tx().Flush(nil); e != 0 {
		t.Fatal(e)
	}
	if m := takeAll(t, rx, 1); m[0].payload != "one way" {
		t.Errorf("got %q", m[0].payload)
	}
	waitFor(t, func() bool { both.Tx().Reap(); return both.Tx().pool.count(frameFree) == 64 })
}

// TestKicks: however many frames are queued, one Flush gets all of them out,
// in several kicks where the kernel takes 32 at a time.
func TestKicks(t *testing.T) {
	for _, n := range []int{1, 32, 33, 64, 2048} {
		a, b := xsktest.VethPair(t)
		s := openSocket(t, a, SocketConfig{TxFrames: 2048})
		q := s.Tx()
		h := newTemplate(headConfig(false, 0))
		p := packet(&h, pattern(50))
		before := received(t, b)
		for range n {
			f, buf, ok := q.Get()
			if !ok || !q.Queue(f, 0, copy(buf, p)) {
				t.Fatal("no frame")
			}
		}
		if e := q.Flush(nil); e != 0 || q.Pending() != 0 {
			t.Errorf("%d frames: errno %d, %d pending", n, e, q.Pending())
		}
		if got := received(t, b) - before; got < uint64(n) {
			t.Errorf("%d of %d arrived", got, n)
		}
		waitFor(t, func() bool { q.Reap(); return q.pool.count(frameFree) == 2048 })
	}
}

// TestCompletionRingFull: a completion ring that holds less than is sent is
// back-pressure, not an endless loop; and it goes on once it is reaped.
func TestCompletionRingFull(t *testing.T) {
	a, _ := xsktest.VethPair(t)
	s := openSocket(t, a, SocketConfig{TxFrames: 256, CompletionRing: 16})
	q := s.Tx()
	h := newTemplate(headConfig(false, 0))
	p := packet(&h, pattern(50))
	for range 256 {
		f, buf, _ := q.Get()
		q.Queue(f, 0, copy(buf, p))
	}
	q.ring.publish()
	// Kicks without reaping: the kernel stops where the ring is full.
	for range 100 {
		q.kick()
	}
	q.ring.refresh()
	if n := q.ring.outstanding(); n == 0 {
		t.Fatal("the kernel took more than its completion ring holds")
	}
	for range 256 {
		if q.Flush(nil) == 0 {
			break
		}
	}
	if q.Pending() != 0 {
		t.Errorf("%d pending", q.Pending())
	}
	waitFor(t, func() bool { q.Reap(); return q.pool.count(frameFree) == 256 })
}
