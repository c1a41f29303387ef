package xsk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/ipvsync/ipvsync/xsk/xsktest"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// randomMessages returns n messages of mixed sizes, with runs of one size among
// them, each with its number in front.
func randomMessages(rnd *rand.Rand, n, most int) []string {
	all := make([]string, n)
	size := most
	for i := range all {
		switch rnd.IntN(12) {
		case 0:
			size = 4 + rnd.IntN(most-3)
		case 1:
			size = most
		case 2:
			size = 4 + rnd.IntN(min(most-3, 60))
		}
		b := pattern(size)
		copy(b, fmt.Sprintf("%4d", i))
		if rnd.IntN(100) == 0 {
			b = nil
		}
		all[i] = string(b)
	}
	return all
}

func wantMessages(tb testing.TB, got []message, want []string) {
	tb.Helper()
	for i := range want {
		if got[i].payload != want[i] {
			tb.Fatalf("message %d has %d bytes, %.10q, want %d bytes, %.10q", i, len(got[i].payload), got[i].payload, len(want[i]), want[i])
		}
	}
}

// TestTrainsConserved sends random messages with and without GSO to receivers
// with and without GRO, to the group and to peers. All get all, in order, with
// the bytes that were sent.
func TestTrainsConserved(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for _, napi := range []bool{false, true} { // with NAPI, veth puts trains together itself
		a, b := xsktest.VethPair(t)
		if napi {
			setGRO(t, b)
		}
		for _, gso := range []Offload{OffloadOff, OffloadOn} {
			for _, group := range []netip.Addr{group4, group6} {
				var rxs []*UDPRx
				cfg := UDPConfig{Group: group, Port: port, RcvBuf: 16 << 20, GSO: gso}
				for _, gro := range []Offload{OffloadOff, OffloadOn, OffloadAuto} {
					rx := cfg
					rx.GRO, rx.Batch = gro, 1+rnd.IntN(200)
					rxs = append(rxs, openRx(t, b, rx))
				}
				for i, gro := range []Offload{OffloadOff, OffloadOn} {
					peer := UDPConfig{Port: port + 1 + i, GRO: gro, RcvBuf: 16 << 20, Local: []netip.Addr{b.Addr4, b.Addr6}[i]}
					rxs = append(rxs, openRx(t, b, peer))
					cfg.Peers = append(cfg.Peers, netip.AddrPortFrom(peer.Local, uint16(peer.Port)))
				}
				cfg.Batch = 1 + rnd.IntN(200)
				tx := openTx(t, a, cfg)
				const n = 60 // to 3 destinations: the queue that veth has with NAPI holds 256
				var sent int
				for range 12 {
					all := randomMessages(rnd, n, tx.MaxPayload())
					for _, m := range all {
						put(t, tx, []byte(m))
						if rnd.IntN(100) == 0 {
							flush(t, tx)
						}
					}
					flush(t, tx)
					sent += n
					for _, rx := range rxs {
						wantMessages(t, take(t, rx, n), all)
					}
				}
				wantLedger(t, tx)
				s := tx.Stats()
				if s.Packets != uint64(sent*3) || (s.Segmented > 0) != (gso == OffloadOn && cfg.Batch > 1) || s.Withdrawn != 0 || s.Errors+s.TooBig != 0 {
					t.Errorf("GSO %s, batch %d: %+v", gso, cfg.Batch, s)
				}
				for i, rx := range rxs {
					s := rx.Stats()
					if s.Messages != uint64(sent) || s.Truncated+s.SocketDrops+s.Errors != 0 {
						t.Errorf("receiver %d: %+v", i, s)
					}
					if !rx.Info().GRO && s.Coalesced > 0 || rx.Info().GRO && !napi && (s.Coalesced > 0) != (tx.Stats().Segmented > 0) {
						t.Errorf("receiver %d, GRO %v: %d messages came in trains, %d left in some", i, rx.Info().GRO, s.Coalesced, tx.Stats().Segmented)
					}
				}
				for _, rx := range rxs {
					rx.Close()
				}
			}
		}
	}
}

// TestTrainsOfManySizes: few system calls carry many messages, and each train
// holds what the kernel allows.
func TestTrainsOfManySizes(t *testing.T) {
	a, b := xsktest.VethPair(t)
	for _, group := range []netip.Addr{group4, group6} {
		cfg := UDPConfig{Group: group, Port: port, Batch: 1024, RcvBuf: 16 << 20, GSO: OffloadOn, GRO: OffloadOn}
		rx, tx := openRx(t, b, cfg), openTx(t, a, cfg)
		for _, size := range []int{1, 2, 63, 64, 65, 1022, 1023, 1024, tx.MaxPayload() - 1, tx.MaxPayload()} {
			all := slices.Repeat([]string{string(pattern(size))}, 1000)
			before := tx.Stats()
			for _, m := range all {
				put(t, tx, []byte(m))
			}
			flush(t, tx)
			wantMessages(t, take(t, rx, len(all)), all)
			s := tx.Stats()
			if s.Syscalls-before.Syscalls != 1 || s.Segmented-before.Segmented != 1000 || s.Withdrawn != 0 {
				t.Errorf("%s, %d bytes: %+v, before %+v, want one more system call", group, size, s, before)
			}
		}
	}
}

// TestTrainsWithdrawn has the path to one of two peers refuse trains: the kernel
// does not cut packets of a socket that sends no checksums. Nothing is lost and
// nothing comes twice, and the other peer still gets trains. After the link was
// down, trains are tried again.
func TestTrainsWithdrawn(t *testing.T) {
	a, b := xsktest.VethPair(t)
	peers := []netip.AddrPort{netip.AddrPortFrom(b.Addr4, port), netip.AddrPortFrom(b.Addr4, port+1)}
	rx := []*UDPRx{openRx(t, b, UDPConfig{Port: port, RcvBuf: 8 << 20}), openRx(t, b, UDPConfig{Port: port + 1, RcvBuf: 8 << 20})}
	tx := openTx(t, a, UDPConfig{Peers: peers, GSO: OffloadOn})
	round := func(withdrawn uint64, gso ...bool) {
		t.Helper()
		for i := range 88 {
			put(t, tx, fmt.Appendf(nil, "%8d", i))
		}
		flush(t, tx)
		for _, rx := range rx {
			for i, m := range take(t, rx, 88) {
				if m.payload != fmt.Sprintf("%8d", i) {
					t.Fatalf("message %d is %q", i, m.payload)
				}
			}
			wantNothing(t, rx)
		}
		wantLedger(t, tx)
		if s := tx.Stats(); s.Withdrawn != withdrawn || s.Errors+s.TooBig+s.Discarded != 0 || !slices.Equal(tx.Info().GSO, gso) {
			t.Errorf("%+v, GSO %v, want it withdrawn %d times and %v", s, tx.Info().GSO, withdrawn, gso)
		}
	}
	noChecksum := func(v int) {
		if err := unix.SetsockoptInt(tx.dests[0].fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, v); err != nil {
			t.Fatal(err)
		}
	}
	round(0, true, true)
	noChecksum(1)
	round(1, false, true)
	round(1, false, true)
	noChecksum(0)
	round(1, false, true)
	setLink(t, a, "down")
	put(t, tx, []byte("queued"))
	waitFor(t, func() bool { return errors.Is(tx.Flush(), ErrLinkDown) })
	setLink(t, a, "up")
	waitFor(t, func() bool {
		if err := tx.Flush(); err != nil {
			_ = tx.Wait(patience)
		}
		return tx.Pending() == 0
	})
	for _, rx := range rx {
		take(t, rx, 1)
	}
	round(1, true, true)
}

// TestTrainsTooBig lowers the MTU under an open sender. Trains are refused, but
// so are their messages: those are given up, one by one, and trains of smaller
// messages still go.
func TestTrainsTooBig(t *testing.T) {
	a, b := xsktest.VethPair(t)
	for i, group := range []netip.Addr{group4, group6} {
		cfg := UDPConfig{Group: group, Port: port, GSO: OffloadOn, RcvBuf: 1 << 20}
		rx, tx := openRx(t, b, cfg), openTx(t, a, cfg)
		in(t, a, func() error {
			l, err := netlink.LinkByName(a.Name)
			if err != nil {
				return err
			}
			return netlink.LinkSetMTU(l, 1400-i)
		})
		lost := 0
		tx.cfg.Lost = func([]byte) { lost++ }
		var want []string
		for _, n := range []int{900, 900, 900, 1400, 1400, 1400, 1000, 1000, 1000, 1420, 1420, 20, 30} {
			put(t, tx, pattern(n))
			if n <= 1000 {
				want = append(want, string(pattern(n)))
			}
		}
		if err := tx.Flush(); !errors.Is(err, ErrMTU) || tx.Pending() != 0 {
			t.Errorf("%v with %d pending, want ErrMTU", err, tx.Pending())
		}
		wantMessages(t, take(t, rx, len(want)), want)
		s := tx.Stats()
		if s.TooBig != 5 || lost != 5 || s.Packets != 8 || s.Segmented < 5 || s.Withdrawn != 0 || !tx.Info().GSO[0] {
			t.Errorf("%s: %+v, %d lost, want 5 of 13 messages, and GSO as before", group, s, lost)
		}
		wantLedger(t, tx)
	}
}

// TestOffloadSettings: what is asked for is what is reported.
func TestOffloadSettings(t *testing.T) {
	a, _ := xsktest.VethPair(t)
	for o, want := range map[Offload]bool{OffloadAuto: true, OffloadOn: true, OffloadOff: false} {
		cfg := UDPConfig{Group: group4, Port: port, GSO: o, GRO: o}
		if tx, rx := openTx(t, a, cfg), openRx(t, a, cfg); tx.Info().GSO[0] != want || rx.Info().GRO != want {
			t.Errorf("%s: GSO %v, GRO %v", o, tx.Info().GSO, rx.Info().GRO)
		}
	}
	// A kernel that does not know the option.
	if ok, err := supported("UDP_SEGMENT", "GSO", "4.18", unix.ENOPROTOOPT, OffloadAuto); ok || err != nil {
		t.Errorf("auto: %v, %v", ok, err)
	}
	_, err := supported("UDP_SEGMENT", "GSO", "4.18", unix.ENOPROTOOPT, OffloadOn)
	if !errors.Is(err, ErrUnsupported) || !errors.Is(err, unix.ENOPROTOOPT) {
		t.Errorf("on: %v, want ErrUnsupported", err)
	}
	if got := fmt.Sprint(OffloadAuto, OffloadOn, OffloadOff, Offload(7)); got != "auto on off Offload(7)" {
		t.Error(got)
	}
}
