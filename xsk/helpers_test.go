package xsk

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk/netns"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
	"github.com/vishvananda/netlink"
)

var (
	group4 = netip.MustParseAddr("224.0.0.81")
	group6 = netip.MustParseAddr("ff02::81")
)

const port = 8848

// patience bounds every wait for something that has to happen. No test passes
// or fails by how long something takes, unless it takes this long.
const patience = 20 * time.Second

// in runs fn in the namespace of e.
func in(tb testing.TB, e xsktest.End, fn func() error) {
	tb.Helper()
	if err := e.NS.Do(fn); err != nil {
		tb.Fatal(err)
	}
}

func openTx(tb testing.TB, e xsktest.End, cfg UDPConfig) *UDPTx {
	tb.Helper()
	cfg.Interface = e.Name
	var tx *UDPTx
	in(tb, e, func() (err error) { tx, err = OpenUDPTx(cfg); return err })
	tb.Cleanup(func() { tx.Close() })
	return tx
}

func openRx(tb testing.TB, e xsktest.End, cfg UDPConfig) *UDPRx {
	tb.Helper()
	cfg.Interface = e.Name
	var rx *UDPRx
	in(tb, e, func() (err error) { rx, err = OpenUDPRx(cfg); return err })
	tb.Cleanup(func() { rx.Close() })
	return rx
}

// put commits one message, flushing when there is no frame.
func put(tb testing.TB, tx *UDPTx, payload []byte) {
	tb.Helper()
	buf, err := tx.Next()
	if errors.Is(err, ErrNoFrame) {
		flush(tb, tx)
		buf, err = tx.Next()
	}
	if err != nil {
		tb.Fatal(err)
	}
	tx.Commit(copy(buf, payload))
}

// flush sends everything that is queued.
func flush(tb testing.TB, tx *UDPTx) {
	tb.Helper()
	for end := time.Now().Add(patience); ; {
		if err := tx.Flush(); err != nil {
			tb.Fatal(err)
		}
		if tx.Pending() == 0 {
			return
		}
		if time.Now().After(end) {
			tb.Fatalf("%d messages still pending, %+v", tx.Pending(), tx.Stats())
		}
		if err := tx.Wait(patience); err != nil {
			tb.Fatal(err)
		}
	}
}

type message struct {
	payload string
	src     netip.AddrPort
}

// take receives exactly n messages. It overlooks a link that is not up yet.
func take(tb testing.TB, rx *UDPRx, n int) []message {
	tb.Helper()
	var got []message
	for end := time.Now().Add(patience); len(got) < n; {
		batch, err := rx.Receive(patience)
		if err != nil && !errors.Is(err, ErrLinkDown) {
			tb.Fatal(err)
		}
		for _, d := range batch {
			got = append(got, message{string(d.Payload), d.Src})
		}
		rx.Release()
		if time.Now().After(end) {
			tb.Fatalf("got %d messages of %d, %+v", len(got), n, rx.Stats())
		}
	}
	if len(got) > n {
		tb.Fatalf("got %d messages, want %d", len(got), n)
	}
	return got
}

// wantNothing checks that nothing is waiting to be received.
func wantNothing(tb testing.TB, rx *UDPRx) {
	tb.Helper()
	batch, err := rx.Receive(0)
	if err != nil {
		tb.Fatal(err)
	}
	for _, d := range batch {
		tb.Errorf("got %q from %s, want nothing", d.Payload, d.Src)
	}
	rx.Release()
}

// wantSequence checks that the messages are the numbers 0 to n-1.
func wantSequence(tb testing.TB, got []message, n int) {
	tb.Helper()
	for i := range n {
		if i >= len(got) || got[i].payload != sequence(i) {
			tb.Fatalf("message %d of %d is %.40q, want %q", i, len(got), got[i].payload, sequence(i))
		}
	}
}

func sequence(i int) string { return fmt.Sprintf("message %d", i) }

// pattern returns n bytes that differ from those of other lengths.
func pattern(n int) []byte {
	b := bytes.Repeat([]byte{byte(n), byte(n >> 8), 0xa5}, n/3+1)
	return b[:n]
}

// wantLedger checks that every packet is accounted for.
func wantLedger(tb testing.TB, tx *UDPTx) {
	tb.Helper()
	s := tx.Stats()
	var pending uint64
	for i := range tx.dests {
		pending += tx.tail - tx.dests[i].next
	}
	if all := s.Packets + s.TooBig + s.Errors + s.Discarded + pending; all != s.Messages*uint64(len(tx.dests)) {
		tb.Errorf("%d messages to %d destinations make %d packets accounted for, %d of them pending: %+v",
			s.Messages, len(tx.dests), all, pending, s)
	}
}

// setLink sets the interface up or down, or deletes it.
func setLink(tb testing.TB, e xsktest.End, what string) {
	tb.Helper()
	in(tb, e, func() error {
		l, err := netlink.LinkByName(e.Name)
		if err != nil {
			return err
		}
		switch what {
		case "up":
			return netlink.LinkSetUp(l)
		case "down":
			return netlink.LinkSetDown(l)
		case "delete":
			return netlink.LinkDel(l)
		}
		return fmt.Errorf("what is %q?", what)
	})
}

// waitFor waits until cond holds.
func waitFor(tb testing.TB, cond func() bool) {
	tb.Helper()
	for end := time.Now().Add(patience); !cond(); {
		if time.Now().After(end) {
			tb.Fatal("it did not happen")
		}
		runtime.Gosched()
	}
}

// secondPair adds another veth pair to the namespaces of a and b.
func secondPair(tb testing.TB, a, b xsktest.End) (a2, b2 xsktest.End) {
	tb.Helper()
	a2 = xsktest.End{NS: a.NS, Name: "veth1", Addr4: netip.MustParseAddr("10.98.0.1"), Addr6: netip.MustParseAddr("fd98::1")}
	b2 = xsktest.End{NS: b.NS, Name: "veth1", Addr4: netip.MustParseAddr("10.98.0.2"), Addr6: netip.MustParseAddr("fd98::2")}
	link := func(e xsktest.End) netns.End {
		return netns.End{Name: e.Name, Addrs: []netip.Prefix{netip.PrefixFrom(e.Addr4, 24), netip.PrefixFrom(e.Addr6, 64)}}
	}
	if err := netns.Veth(a.NS, b.NS, netns.VethOptions{A: link(a2), B: link(b2)}); err != nil {
		tb.Fatal(err)
	}
	return a2, b2
}
