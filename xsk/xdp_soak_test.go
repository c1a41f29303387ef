package xsk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk/netns"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// soakEnv is how long TestXDPSoak runs, such as 10m. Default: a moment.
const soakEnv = "XSK_SOAK"

// soakRound is one life of a sender and a receiver: how their packets go, and how
// it ends.
type soakRound struct {
	group   netip.Addr
	generic bool
	queue   int  // to send on
	remove  bool // the device is deleted under full load; otherwise it ends in peace
}

// soakRounds are gone through again and again. Each family, each kind of XDP, each
// end of the pair and each queue comes up under both endings.
var soakRounds = []soakRound{
	{group: group4},
	{group: group4, remove: true, queue: 1},
	{group: group6, generic: true, queue: 1},
	{group: group6, generic: true, remove: true},
	{group: group6, remove: true},
	{group: group4, generic: true},
	{group: group4, generic: true, remove: true, queue: 1},
	{group: group6, queue: 1},
}

// TestXDPSoak sends at full rate while the link goes down and up, at either end,
// and the device is deleted and made anew. After each round it finds everything
// again: frames, packet memory, mappings, descriptors, goroutines, and every
// message in the ledger. Messages come in order and none twice.
func TestXDPSoak(t *testing.T) {
	length := 2 * time.Second
	if s := os.Getenv(soakEnv); s != "" {
		var err error
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	a, b := xsktest.VethPairWith(t, netns.VethOptions{Queues: 2})
	before := heldNow(t)
	start, rounds := time.Now(), 0
	span := min(length/time.Duration(len(soakRounds)), 10*time.Second)
	var sum soakSum
	for ; rounds < len(soakRounds) || time.Since(start) < length; rounds++ {
		r := soakRounds[rounds%len(soakRounds)]
		r.run(t, a, b, span, &sum)
		waitForHeld(t, before)
		if t.Failed() {
			t.Fatalf("in round %d, %+v", rounds, r)
		}
	}
	t.Logf("%v, %d rounds, %d flaps, %d devices deleted, %d messages sent, %d received; held: %v",
		time.Since(start).Round(time.Second), rounds, sum.flaps, sum.deleted, sum.sent, sum.got, before)
}

type soakSum struct{ flaps, deleted, sent, got uint64 }

// held is what a process must not gather.
type held struct{ rings, files, goroutines int }

func heldNow(t *testing.T) held {
	return held{mappings(t), openFiles(t), runtime.NumGoroutine()}
}

func (h held) String() string {
	return fmt.Sprintf("%d ring mappings, %d descriptors, %d goroutines", h.rings, h.files, h.goroutines)
}

// waitForHeld waits until not more is held than before. A goroutine that has done
// its work may take a moment to be gone; it may be less than before, when one such
// was counted then.
func waitForHeld(t *testing.T, before held) {
	t.Helper()
	for end := time.Now().Add(patience); ; runtime.Gosched() {
		now := heldNow(t)
		if now.rings <= before.rings && now.files <= before.files && now.goroutines <= before.goroutines {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%v; before: %v", now, before)
		}
	}
}

func (r soakRound) run(t *testing.T, a, b xsktest.End, span time.Duration, sum *soakSum) {
	var lost uint64
	cfg := XDPConfig{Group: r.group, Port: port, GenericOnly: r.generic, Queues: []int{r.queue}, Lost: func([]byte) { lost++ }}
	tx := openXDPTx(t, a, cfg)
	cfg.Queues = nil
	rx := openXDPRx(t, b, cfg)

	var stop atomic.Bool
	sent, got := make(chan uint64, 1), make(chan uint64, 1)
	go func() { sent <- soakSend(t, tx, &stop) }()
	var last uint64
	go func() { got <- soakReceive(t, rx, &stop, &last) }()
	for end := time.Now().Add(span); ; sum.flaps++ {
		e := []xsktest.End{a, b}[sum.flaps%2]
		time.Sleep(span / 8) // sets the pace, decides nothing
		if time.Now().After(end) {
			break
		}
		for _, up := range []bool{false, true} {
			if err := netns.SetLink(e.NS, e.Name, up); err != nil {
				t.Error(err)
			}
		}
	}
	if r.remove {
		sum.deleted++
		setLink(t, []xsktest.End{a, b}[sum.deleted%2], "delete") // ends both
	} else {
		stop.Store(true)
	}
	s, g := <-sent, <-got
	if !r.remove {
		waitFor(t, func() bool { _ = tx.Flush(); _ = tx.Wait(time.Millisecond); return tx.Pending() == 0 })
	}
	g += soakRest(t, rx, &last)
	r.check(t, tx, rx, s, g)
	if err := errors.Join(tx.Close(), rx.Close()); err != nil {
		t.Error(err)
	}
	st := tx.Stats()
	if wantXDPLedger(t, tx); st.Errors+st.Discarded != lost {
		t.Errorf("%d messages are reported lost, counted: %+v", lost, st)
	}
	for _, s := range append([]*Socket{tx.socket}, rx.queues[0].Socket, rx.queues[1].Socket) {
		if s.umem.mem != nil {
			t.Errorf("the packet memory of queue %d is still mapped", s.Queue())
		}
	}
	if r.remove {
		opts := netns.VethOptions{Queues: 2}
		for e, end := range map[*netns.End]xsktest.End{&opts.A: a, &opts.B: b} {
			*e = netns.End{Name: end.Name, Addrs: []netip.Prefix{netip.PrefixFrom(end.Addr4, 24), netip.PrefixFrom(end.Addr6, 64)}}
		}
		if err := netns.Veth(a.NS, b.NS, opts); err != nil {
			t.Fatal(err)
		}
	}
	sum.sent += s
	sum.got += g
}

// check holds frames and counters against what was seen outside.
func (r soakRound) check(t *testing.T, tx *XDPTx, rx *XDPRx, sent, got uint64) {
	t.Helper()
	// What the kernel has not taken stays in the TX ring; all else comes back.
	waitFor(t, func() bool {
		tx.q.Reap()
		return tx.q.pool.count(frameFree)+int(tx.q.ring.outstanding()) == defaultFrames
	})
	for _, q := range rx.queues {
		if n := q.q.pool.count(frameKernel); n != defaultFrames {
			t.Errorf("queue %d has %d frames to receive into, of %d", q.Queue(), n, defaultFrames)
		}
	}
	wantXDPLedger(t, tx)
	s, n := tx.Stats(), rx.Stats()
	if s.Messages != sent || n.Messages != got || got == 0 || got > s.Packets {
		t.Errorf("%d sent, %d received, counted: %+v, %+v", sent, got, s, n)
	}
	if bad := n.BadLength + n.BadHeader + n.BadChecksum + n.Foreign + n.Fragments + n.Truncated + n.Errors; bad != 0 {
		t.Errorf("%d packets were refused: %+v", bad, n)
	}
}

// soakSend sends numbered messages until it shall stop, or the device is gone.
func soakSend(t *testing.T, tx Tx, stop *atomic.Bool) (sent uint64) {
	for !stop.Load() {
		for range 64 {
			buf, err := tx.Next()
			if err != nil {
				break
			}
			sent++
			binary.BigEndian.PutUint64(buf, sent)
			tx.Commit(len(buf))
		}
		err := tx.Flush()
		switch {
		case errors.Is(err, ErrDeviceGone):
			return sent
		case errors.Is(err, ErrLinkDown):
			_ = tx.Wait(time.Millisecond)
		case err != nil && !errors.Is(err, ErrBroken):
			// Dropped while the carrier went; counted.
		case err != nil:
			t.Error(err)
			return sent
		}
	}
	return sent
}

// soakReceive receives until it shall stop, or the device is gone.
func soakReceive(t *testing.T, rx Rx, stop *atomic.Bool, last *uint64) (got uint64) {
	for !stop.Load() {
		batch, err := rx.Receive(10 * time.Millisecond)
		if errors.Is(err, ErrDeviceGone) {
			return got
		}
		if err != nil && !errors.Is(err, ErrLinkDown) {
			t.Error(err)
			return got
		}
		got += soakCount(t, batch, last)
		rx.Release()
	}
	return got
}

// soakRest receives what is in the rings.
func soakRest(t *testing.T, rx Rx, last *uint64) (got uint64) {
	for {
		batch, _ := rx.Receive(0)
		if len(batch) == 0 {
			return got
		}
		got += soakCount(t, batch, last)
	}
}

func soakCount(t *testing.T, batch []Datagram, last *uint64) uint64 {
	for _, d := range batch {
		n := binary.BigEndian.Uint64(d.Payload)
		if n <= *last {
			t.Errorf("message %d comes behind %d", n, *last)
		}
		*last = n
	}
	return uint64(len(batch))
}
