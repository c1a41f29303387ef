package ipvsync

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ipvsync/ipvsync/xsk"
	"github.com/ipvsync/ipvsync/xsk/netns"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// What happens to the link of a running Sender and Receiver, over AF_XDP and UDP.

// reopenableRx is reopenable for a Receiver.
func reopenableRx(t *testing.T, e xsktest.End, cfg ReceiverConfig) ReceiverConfig {
	t.Helper()
	cfg.Interface = e.Name
	inside := cfg
	if err := inside.setDefaults(); err != nil {
		t.Fatal(err)
	}
	cfg.OpenRx = func() (rx xsk.Rx, err error) {
		err = e.NS.Do(func() (err error) { rx, _, err = inside.openRx(); return err })
		return rx, err
	}
	return cfg
}

// heartbeat publishes and flushes until the receiver has what was published last,
// and fails the test after patience. Losses are counted, not errors.
func heartbeat(t *testing.T, s *Sender, got <-chan uint32, first uint32) (next uint32) {
	t.Helper()
	patience := time.After(20 * time.Second)
	for u := first; ; u++ {
		c := flow(1, u)
		if err := s.Publish(&c); err != nil && !errors.Is(err, ErrRingFull) {
			t.Fatal(err)
		}
		poll := time.After(20 * time.Millisecond)
		for waiting := true; waiting; {
			select {
			case v := <-got:
				if v >= first {
					return u + 1
				}
			case <-poll:
				waiting = false
			case <-patience:
				t.Fatalf("nothing arrives any more: %+v", s.Stats())
			}
		}
	}
}

// Both ends of the pair are deleted and made anew: sender and receiver come back
// by themselves, and what was lost is counted.
func TestDeviceRecreated(t *testing.T) {
	inModes(t, func(t *testing.T, mode xsk.Mode) {
		a, b := xsktest.VethPair(t)
		got := make(chan uint32, 1<<16)
		r := receive(t, b, reopenableRx(t, b, ReceiverConfig{Link: Link{Mode: mode}}), func(m *Message) {
			for i := range m.Conns {
				got <- m.Conns[i].Timeout
			}
		})
		s := send(t, a, reopenable(t, a, SenderConfig{Link: Link{Mode: mode}}))
		next := heartbeat(t, s, got, 1)
		for round := range uint64(2) {
			if err := a.NS.Do(func() error {
				l, err := netlink.LinkByName(a.Name)
				if err != nil {
					return err
				}
				return netlink.LinkDel(l)
			}); err != nil {
				t.Fatal(err)
			}
			end := func(e xsktest.End) netns.End {
				return netns.End{Name: e.Name, Addrs: []netip.Prefix{netip.PrefixFrom(e.Addr4, 24)}}
			}
			if err := netns.Veth(a.NS, b.NS, netns.VethOptions{A: end(a), B: end(b)}); err != nil {
				t.Fatal(err)
			}
			next = heartbeat(t, s, got, next)
			if st, rst := s.Stats(), r.Stats(); st.Reopened != round+1 || rst.Reopened != round+1 {
				t.Errorf("sender opened anew %d times, receiver %d times, want %d", st.Reopened, rst.Reopened, round+1)
			}
		}
		_ = s.Close()
		s.closeErr = nil // a loss was to be expected
	})
}

// The MTU is lowered: messages become shorter, and soon nothing is lost any more.
func TestMTULowered(t *testing.T) {
	inModes(t, func(t *testing.T, mode xsk.Mode) {
		a, b := xsktest.VethPair(t)
		longest := make(chan int, 1<<16)
		receive(t, b, ReceiverConfig{Link: Link{Mode: mode}}, func(m *Message) { longest <- len(m.Conns) })
		s := send(t, a, reopenable(t, a, SenderConfig{Link: Link{Mode: mode}, Shards: 1, FlushInterval: time.Hour}))
		publish := func() error {
			for n := range 100 {
				c := flow(n, 1)
				if err := s.Shard(0).Publish(&c); err != nil {
					t.Fatal(err)
				}
			}
			return s.Flush(t.Context())
		}
		if err := publish(); err != nil {
			t.Fatal(err)
		}
		if n := <-longest; n != 40 {
			t.Errorf("%d records in a message, want 40", n)
		}
		if err := a.NS.Do(func() error {
			l, err := netlink.LinkByName(a.Name)
			if err != nil {
				return err
			}
			return netlink.LinkSetMTU(l, 600)
		}); err != nil {
			t.Fatal(err)
		}
		patience := time.Now().Add(20 * time.Second)
		// AF_XDP sends what is too long, as does veth, until it looks at the MTU.
		for err := publish(); err != nil || s.Stats().Reopened == 0; err = publish() {
			if err != nil && (!errors.Is(err, ErrLost) || !errors.Is(err, xsk.ErrMTU)) || time.Now().After(patience) {
				t.Fatalf("%v: %+v", err, s.Stats())
			}
		}
		if st := s.Stats(); st.Reopened == 0 || st.Transport.TooBig == 0 {
			t.Errorf("%+v", st)
		}
		_ = s.Close()
		s.closeErr = nil
	})
}

// A Receiver whose device does not come back says why, once, and ends when it is
// asked to, without an error.
func TestRunEndsWhileTheDeviceIsGone(t *testing.T) {
	inModes(t, func(t *testing.T, mode xsk.Mode) {
		_, b := xsktest.VethPair(t)
		log := make(chan string, 100)
		cfg := reopenableRx(t, b, ReceiverConfig{Link: Link{Mode: mode}})
		cfg.Logger = slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
			log <- string(p)
			return len(p), nil
		}), nil))
		r, err := NewReceiver(cfg, func(*Message) {})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- r.Run(ctx) }()
		if err := b.NS.Do(func() error {
			l, err := netlink.LinkByName(b.Name)
			if err != nil {
				return err
			}
			return netlink.LinkDel(l)
		}); err != nil {
			t.Fatal(err)
		}
		for !strings.Contains(<-log, "no such interface") {
		}
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// The link goes down: what the rings can hold is kept, the rest is counted,
// and sending resumes by itself.
func TestLinkDown(t *testing.T) { inModes(t, testLinkDown) }

func testLinkDown(t *testing.T, mode xsk.Mode) {
	a, b := xsktest.VethPair(t)
	const flows, updates = 2000, 5
	c := newCollector(t, flows*updates)
	receive(t, b, ReceiverConfig{Link: Link{Mode: mode}}, c.handle)
	s := send(t, a, SenderConfig{Link: Link{Mode: mode}})
	publish := func(u uint32) {
		for n := range flows {
			conn := flow(n, u)
			if err := s.Publish(&conn); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish(1)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	xsktest.SetLink(t, a, false)
	for u := range uint32(updates - 2) {
		publish(u + 2)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, xsk.ErrLinkDown) {
		t.Errorf("flush while the link is down: %v", err)
	}
	xsktest.SetLink(t, a, true)
	publish(updates)
	c.wait()
}

// The interface gets another address: soon messages come from that one, over UDP
// by a transport that is opened anew.
func TestAddressReplaced(t *testing.T) { inModes(t, testAddressReplaced) }

func testAddressReplaced(t *testing.T, mode xsk.Mode) {
	a, b := xsktest.VethPair(t)
	replaced := netip.MustParseAddr("10.99.0.77")
	moved := make(chan struct{})
	var once sync.Once
	receive(t, b, ReceiverConfig{Link: Link{Mode: mode}}, func(m *Message) {
		if m.Src.Addr() == replaced {
			once.Do(func() { close(moved) })
		}
	})
	s := send(t, a, reopenable(t, a, SenderConfig{Link: Link{Mode: mode}}))
	publish := func() error {
		conn := flow(1, 1)
		if err := s.Publish(&conn); err != nil {
			t.Fatal(err)
		}
		return s.Flush(t.Context())
	}
	if err := publish(); err != nil {
		t.Fatal(err)
	}
	if err := netns.SetAddress(a.NS, a.Name, netip.PrefixFrom(replaced, 24)); err != nil {
		t.Fatal(err)
	}
	for arrived := false; !arrived; {
		// What lies in an old transport is lost with it, and Flush says so.
		if err := publish(); err != nil && (!errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "address")) {
			t.Fatalf("Flush: %v", err)
		}
		select {
		case <-moved:
			arrived = true
		case <-t.Context().Done():
			t.Fatal("no message comes from the new address")
		default:
		}
	}
	if st := s.Stats(); mode == xsk.ModeUDPGSO && (st.Reopened == 0 || st.Transport.Messages < 2) {
		t.Errorf("%+v", st)
	}
	_ = s.Close()
	s.closeErr = nil // a loss was to be expected
}

// reopenable makes cfg open its transports in the namespace of e also from the
// transmit loop, whose thread is not in it.
func reopenable(t *testing.T, e xsktest.End, cfg SenderConfig) SenderConfig {
	t.Helper()
	cfg.Interface = e.Name
	inside := cfg
	if err := inside.setDefaults(); err != nil {
		t.Fatal(err)
	}
	cfg.OpenTx = func(port int, lost func([]byte)) (tx xsk.Tx, err error) {
		err = e.NS.Do(func() (err error) { tx, _, err = inside.openTx(port, lost); return err })
		return tx, err
	}
	return cfg
}

// With the link down for good, Close gives up in time and counts everything.
func TestCloseWithLinkDown(t *testing.T) {
	a, _ := xsktest.VethPair(t)
	var s *Sender
	err := a.NS.Do(func() (err error) {
		s, err = NewSender(SenderConfig{Link: Link{Interface: a.Name, Mode: xsk.ModeUDPGSO}, Shards: 1, RingSize: 1 << 17, CloseTimeout: 10 * time.Millisecond})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	xsktest.SetLink(t, a, false)
	// More than the frames of the transport and the ring can hold.
	total, full := 0, 0
	for total-full < 4500 || full == 0 {
		conn := flow(total, 1)
		if err := s.Publish(&conn); errors.Is(err, ErrRingFull) {
			full++
		} else if err != nil {
			t.Fatal(err)
		}
		total++
	}
	if err := s.Close(); err == nil {
		t.Error("Close says nothing about what it did not send")
	}
	st := s.Stats()
	checkSender(t, st)
	if st.Published != uint64(total) || st.Dropped[DropRingFull] != uint64(full) || st.Dropped[DropUnsent] == 0 || st.Dropped[DropTransport] == 0 {
		t.Errorf("%d updates, %d refused: %+v", total, full, st)
	}
}
