package xsk

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/ipvsync/ipvsync/xsk/xsktest"
	"golang.org/x/sys/unix"
)

func TestMulticastDelivered(t *testing.T) {
	a, b := xsktest.VethPair(t)
	for _, group := range []netip.Addr{group4, group6, netip.MustParseAddr("ff15::81")} {
		for _, batch := range []int{1, 7, 64, 1024} {
			t.Run(fmt.Sprintf("%s batch %d", group, batch), func(t *testing.T) {
				cfg := UDPConfig{Group: group, Port: port, Batch: batch, RcvBuf: 4 << 20}
				rx, tx := openRx(t, b, cfg), openTx(t, a, cfg)
				const n = 200
				for i := range n {
					put(t, tx, []byte(sequence(i)))
				}
				flush(t, tx)
				got := take(t, rx, n)
				wantSequence(t, got, n)
				want := tx.Info().Local[0]
				if group.Is4() && want.Addr() != a.Addr4 {
					t.Errorf("source is %s, want the interface's %s", want, a.Addr4)
				}
				for _, m := range got {
					if m.src != want {
						t.Fatalf("Src is %s, want %s", m.src, want)
					}
				}
				ts, rs := tx.Stats(), rx.Stats()
				if ts.Messages != n || ts.Packets != n || ts.Bytes != rs.Bytes || rs.Messages != n {
					t.Errorf("sent %+v, received %+v", ts, rs)
				}
				if most := uint64(n/batch + 1); ts.Syscalls > most {
					t.Errorf("%d system calls to send, want at most %d", ts.Syscalls, most)
				}
				wantLedger(t, tx)
			})
		}
	}
}

// TestEverySize sends each payload size from nothing to MaxPayload.
func TestEverySize(t *testing.T) {
	a, b := xsktest.VethPair(t)
	for group, most := range map[netip.Addr]int{group4: 1500 - Overhead4, group6: 1500 - Overhead6} {
		cfg := UDPConfig{Group: group, Port: port}
		rx, tx := openRx(t, b, cfg), openTx(t, a, cfg)
		if tx.MaxPayload() != most {
			t.Fatalf("MaxPayload is %d, want %d for %s at MTU 1500", tx.MaxPayload(), most, group)
		}
		for n := 0; n <= most; n++ {
			put(t, tx, pattern(n))
			if n%32 == 31 || n == most { // what the default socket buffer holds
				flush(t, tx)
				first := n - n%32
				for i, m := range take(t, rx, n-first+1) {
					if m.payload != string(pattern(first+i)) {
						t.Fatalf("message of %d bytes came as %d bytes, or changed", first+i, len(m.payload))
					}
				}
			}
		}
		wantNothing(t, rx)
	}
}

// TestTTL reads the TTL and hop limit that arrive.
func TestTTL(t *testing.T) {
	a, b := xsktest.VethPair(t)
	for _, ttl := range []int{0, 1, 17, 255} {
		for _, group := range []netip.Addr{group4, group6} {
			cfg := UDPConfig{Group: group, Port: port, TTL: ttl}
			rx, tx := openRx(t, b, cfg), openTx(t, a, cfg)
			level, opt := unix.IPPROTO_IP, unix.IP_RECVTTL
			if group.Is6() {
				level, opt = unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT
			}
			if err := unix.SetsockoptInt(rx.fd, level, opt, 1); err != nil {
				t.Fatal(err)
			}
			put(t, tx, []byte("ttl"))
			flush(t, tx)
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(rx.fd), Events: unix.POLLIN}}, int(patience.Milliseconds())); err != nil {
				t.Fatal(err)
			}
			oob := make([]byte, 100)
			_, n, _, _, err := unix.Recvmsg(rx.fd, make([]byte, 10), oob, unix.MSG_DONTWAIT)
			if err != nil {
				t.Fatal(err)
			}
			msgs, err := unix.ParseSocketControlMessage(oob[:n])
			if err != nil || len(msgs) != 1 {
				t.Fatalf("%d control messages, %v", len(msgs), err)
			}
			got := int(msgs[0].Data[0]) | int(msgs[0].Data[3]) // an int in either byte order
			if want := max(ttl, 1); got != want {
				t.Errorf("TTL %d for %s arrives as %d, want %d", ttl, group, got, want)
			}
		}
	}
}

func TestLoop(t *testing.T) {
	a, b := xsktest.VethPair(t)
	for _, group := range []netip.Addr{group4, group6} {
		cfg := UDPConfig{Group: group, Port: port}
		here, there := openRx(t, a, cfg), openRx(t, b, cfg)
		off := openTx(t, a, cfg)
		cfg.Loop = true
		on := openTx(t, a, cfg)
		put(t, off, []byte("off"))
		flush(t, off)
		put(t, on, []byte("on"))
		flush(t, on)
		take(t, there, 2) // whatever was looped was looped before
		if got := take(t, here, 1)[0].payload; got != "on" {
			t.Errorf("%s: looped %q, want only what was sent with Loop", group, got)
		}
		wantNothing(t, here)
	}
}

// TestTwoReceivers checks that two receivers on one host both get everything.
func TestTwoReceivers(t *testing.T) {
	a, b := xsktest.VethPair(t)
	for _, group := range []netip.Addr{group4, group6} {
		for _, unicast := range []bool{false, true} {
			cfg := UDPConfig{Group: group, Port: port, Unicast: unicast, RcvBuf: 1 << 20}
			one, two, tx := openRx(t, b, cfg), openRx(t, b, cfg), openTx(t, a, cfg)
			for i := range 100 {
				put(t, tx, []byte(sequence(i)))
			}
			flush(t, tx)
			wantSequence(t, take(t, one, 100), 100)
			wantSequence(t, take(t, two, 100), 100)
		}
	}
}

// TestOnlyOurs checks that a receiver gets nothing of another group that
// somebody else on the host has joined, nothing of its own group by another
// interface, and unicast only if it asked for it.
func TestOnlyOurs(t *testing.T) {
	a, b := xsktest.VethPair(t)
	a2, b2 := secondPair(t, a, b)
	other := map[netip.Addr]netip.Addr{group4: netip.MustParseAddr("224.0.0.82"), group6: netip.MustParseAddr("ff02::82")}
	round := uint16(0)
	for group, otherGroup := range other {
		for _, unicast := range []bool{false, true} {
			// A port of its own for each round: a unicast packet that waits for
			// neighbour discovery may come when the next round has begun.
			round++
			port := port + round
			cfg := UDPConfig{Group: group, Port: int(port), Unicast: unicast}
			foreign := cfg
			foreign.Group = otherGroup
			rx := openRx(t, b, cfg)
			rxForeign, rx2 := openRx(t, b, foreign), openRx(t, b2, cfg)
			foreign.Unicast = false
			peer, peer2 := b.Addr4, b2.Addr4
			if group.Is6() {
				peer, peer2 = b.Addr6, b2.Addr6
			}
			for i, tx := range []*UDPTx{
				openTx(t, a, foreign),
				openTx(t, a2, cfg),
				openTx(t, a2, UDPConfig{Peers: []netip.AddrPort{netip.AddrPortFrom(peer2, port)}}),
				openTx(t, a, UDPConfig{Peers: []netip.AddrPort{netip.AddrPortFrom(peer, port)}}),
				openTx(t, a, cfg),
			} {
				put(t, tx, []byte(sequence(i)))
				flush(t, tx)
			}
			n := 1
			if unicast {
				n = 2
			}
			take(t, rx2, n)
			// With unicast, the socket opened last on the interface, of
			// those bound to the wildcard address, has it.
			want := []string{sequence(4)}
			if unicast {
				if got := take(t, rxForeign, 2); got[1].payload != sequence(3) {
					t.Errorf("the last receiver got %q, want the unicast message", got[1].payload)
				}
			} else if got := take(t, rxForeign, 1); got[0].payload != sequence(0) {
				t.Errorf("the other group's receiver got %q", got[0].payload)
			}
			for i, m := range take(t, rx, len(want)) {
				if m.payload != want[i] {
					t.Errorf("%s, unicast %v: got %q, want %q", group, unicast, m.payload, want[i])
				}
			}
			wantNothing(t, rx)
			wantNothing(t, rxForeign)
			for _, r := range []*UDPRx{rx, rxForeign, rx2} {
				r.Close()
			}
		}
	}
}

func TestUnicastPeers(t *testing.T) {
	a, b := xsktest.VethPair(t)
	rx4 := openRx(t, b, UDPConfig{Port: port})
	rx6 := openRx(t, b, UDPConfig{Port: port, Local: b.Addr6})
	rxGroup := openRx(t, b, UDPConfig{Group: group4, Port: port + 1})
	peers := []netip.AddrPort{netip.AddrPortFrom(b.Addr4, port), netip.AddrPortFrom(b.Addr6, port)}
	for _, cfg := range []UDPConfig{
		{Peers: peers},
		{Peers: peers, Group: group4, Port: port + 1},
		{Peers: peers, Local: a.Addr4, Batch: 1},
		{Peers: peers, Local: a.Addr6, Batch: 1000},
	} {
		tx := openTx(t, a, cfg)
		const n = 150
		for first := 0; first < n; first += 50 { // what a socket buffer holds
			for i := range 50 {
				put(t, tx, []byte(sequence(i)))
			}
			flush(t, tx)
			for _, rx := range []*UDPRx{rx4, rx6} {
				got := take(t, rx, 50)
				wantSequence(t, got, 50)
				if ip := got[0].src.Addr(); ip != a.Addr4 && ip != a.Addr6 {
					t.Errorf("source %s, want %s or %s", ip, a.Addr4, a.Addr6)
				}
			}
			if cfg.Group.IsValid() {
				wantSequence(t, take(t, rxGroup, 50), 50)
			}
		}
		wantLedger(t, tx)
		if s := tx.Stats(); s.Packets != n*uint64(len(tx.Info().Dests)) || s.Messages != n {
			t.Errorf("%+v, want %d messages to each of %v", s, n, tx.Info().Dests)
		}
	}
}

func TestTruncated(t *testing.T) {
	a, b := xsktest.VethPair(t)
	for _, group := range []netip.Addr{group4, group6} {
		rx := openRx(t, b, UDPConfig{Group: group, Port: port, MaxPayload: 100})
		tx := openTx(t, a, UDPConfig{Group: group, Port: port})
		for n := 95; n < 106; n++ {
			put(t, tx, pattern(n))
		}
		put(t, tx, []byte("end"))
		flush(t, tx)
		for i, m := range take(t, rx, 7) {
			want := string(pattern(95 + i))
			if i == 6 {
				want = "end"
			}
			if m.payload != want {
				t.Errorf("message %d has %d bytes, want %d", i, len(m.payload), len(want))
			}
		}
		if s := rx.Stats(); s.Truncated != 5 || s.Messages != 7 {
			t.Errorf("%+v, want 5 truncated and 7 delivered", s)
		}
	}
}

// TestSocketDrops overruns a small socket buffer. Everything that was sent is
// either received or counted. 800 packets fit the queue of the receiving CPU
// (net.core.netdev_max_backlog, 1000), so that nothing is lost elsewhere. With
// GRO the kernel counts a train as one, here each of 16 messages.
func TestSocketDrops(t *testing.T) {
	a, b := xsktest.VethPair(t)
	for _, group := range []netip.Addr{group4, group6} {
		for gro, train := range map[Offload]uint64{OffloadOff: 1, OffloadOn: 16} {
			rx := openRx(t, b, UDPConfig{Group: group, Port: port, RcvBuf: 16 << 10, Batch: 8, GRO: gro})
			tx := openTx(t, a, UDPConfig{Group: group, Port: port, Batch: 16, GSO: OffloadOn})
			const n = 800
			for range n {
				put(t, tx, pattern(1000))
			}
			flush(t, tx)
			var s RxStats
			waitFor(t, func() bool {
				if _, err := rx.Receive(0); err != nil {
					t.Fatal(err)
				}
				rx.Release()
				s = rx.Stats()
				return s.Messages+train*s.SocketDrops >= n
			})
			if s.SocketDrops == 0 || s.Messages == 0 || s.Messages+train*s.SocketDrops != n {
				t.Errorf("%s, GRO %s: %d received and %d dropped, want both, and %d together", group, gro, s.Messages, s.SocketDrops, n)
			}
			rx.Close()
		}
	}
}

// TestManySenders has several senders and one receiver at work at the same
// time, with Stats read all along, for the race detector.
func TestManySenders(t *testing.T) {
	a, b := xsktest.VethPair(t)
	cfg := UDPConfig{Group: group4, Port: port, RcvBuf: 8 << 20}
	rx := openRx(t, b, cfg)
	const senders, each = 4, 150
	var wg sync.WaitGroup
	for range senders {
		tx := openTx(t, a, cfg)
		wg.Go(func() {
			for i := range each {
				put(t, tx, []byte(sequence(i)))
				if i%10 == 0 {
					flush(t, tx)
				}
			}
			flush(t, tx)
		})
		wg.Go(func() {
			for tx.Stats().Packets < each {
				rx.Stats()
				rx.Wake()
			}
		})
	}
	next := map[netip.AddrPort]int{}
	for _, m := range take(t, rx, senders*each) {
		if m.payload != sequence(next[m.src]) {
			t.Fatalf("%s sent %q, want %q", m.src, m.payload, sequence(next[m.src]))
		}
		next[m.src]++
	}
	wg.Wait()
	if len(next) != senders {
		t.Errorf("messages of %d senders, want %d", len(next), senders)
	}
}
