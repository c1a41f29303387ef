package xsk

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/ipvsync/ipvsync/xsk/netns"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// wantXDPLedger checks that every packet of a sender is accounted for.
func wantXDPLedger(tb testing.TB, tx *XDPTx) {
	tb.Helper()
	s := tx.Stats()
	var pending uint64
	if !tx.closed {
		pending = uint64(tx.q.ring.outstanding())
	}
	if all := s.Packets + s.TooBig + s.Errors + s.Discarded + pending; all != s.Messages*uint64(len(tx.dests)) {
		tb.Errorf("%d messages to %d destinations make %d packets accounted for, %d of them pending: %+v",
			s.Messages, len(tx.dests), all, pending, s)
	}
}

// allSizes are messages of every size around what matters.
func allSizes(most int) [][]byte {
	var out [][]byte
	for n := 0; n <= most; n += 1 + n/20 {
		out = append(out, pattern(n))
	}
	return append(out, pattern(most-1), pattern(most))
}

// TestXDPInterop sends between AF_XDP and plain sockets, both ways and in both
// families, byte by byte. The kernel checks the checksums of what AF_XDP sent:
// UDPRx counts as dropped what has a bad one (udp_recvmsg, __udp4_lib_rcv).
func TestXDPInterop(t *testing.T) {
	for _, group := range []netip.Addr{group4, group6} {
		for _, unicast := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s unicast %v", family(group), unicast), func(t *testing.T) {
				a, b := xsktest.VethPair(t)
				peer := b.Addr4
				if group.Is6() {
					peer = b.Addr6
				}
				send := XDPConfig{Group: group, Port: port}
				receive := XDPConfig{Group: group, Port: port}
				if unicast {
					send = XDPConfig{Peers: []netip.AddrPort{netip.AddrPortFrom(peer, port)}}
					receive = XDPConfig{Local: peer, Port: port}
				}
				urx := openRx(t, b, UDPConfig{Group: receive.Group, Local: receive.Local, Port: port, RcvBuf: 4 << 20})
				xtx := openXDPTx(t, a, send)
				messages := allSizes(xtx.MaxPayload())
				check := func(got []message, src netip.AddrPort) {
					t.Helper()
					for i, m := range got {
						if m.payload != string(messages[i]) {
							t.Fatalf("message %d has %d bytes, want %d, or differs", i, len(m.payload), len(messages[i]))
						}
						if m.src != src {
							t.Fatalf("message %d is from %s, want %s", i, m.src, src)
						}
					}
				}
				sendAll(t, xtx, messages...)
				check(takeAll(t, urx, len(messages)), xtx.Info().Local[0])
				if s := urx.Stats(); s.SocketDrops != 0 {
					t.Errorf("%+v", s)
				}
				for proto, names := range map[string][]string{"snmp": {"Udp", "InCsumErrors"}, "snmp6": {"Udp6InCsumErrors"}} {
					if n := snmp(t, b, proto, names...); n != 0 {
						t.Errorf("%d checksum errors in /proc/net/%s", n, proto)
					}
				}
				wantXDPLedger(t, xtx)
				urx.Close()

				xrx := openXDPRx(t, b, receive)
				utx := openTx(t, a, UDPConfig{Group: send.Group, Port: send.Port, Peers: send.Peers})
				sendAll(t, utx, messages...)
				check(takeAll(t, xrx, len(messages)), utx.Info().Local[0])
				if s := xrx.Stats(); s.Unfinished != s.Messages || s.SocketDrops+s.Foreign+s.BadLength+s.BadChecksum != 0 {
					t.Errorf("%+v, want the checksums left to hardware, and nothing refused", s)
				}
				for _, sum := range []UDPChecksum{ChecksumFull, ChecksumAuto, ChecksumAuto, ChecksumZero} {
					xtx.Close()
					before := xrx.Stats().Unfinished
					send.Checksum = sum
					if xtx = openXDPTx(t, a, send); sum == ChecksumAuto && xtx.Info().Checksum == ChecksumFull {
						continue // an older kernel
					}
					want := uint64(0)
					if sum == ChecksumAuto {
						want = uint64(len(messages))
					}
					if sum == ChecksumAuto && before > uint64(len(messages)) { // the second time the device does nothing
						txChecksum(t, a, false)
						want = 0
					}
					sendAll(t, xtx, messages...)
					check(takeAll(t, xrx, len(messages)), xtx.Info().Local[0])
					if s := xrx.Stats(); s.Unfinished-before != want || s.BadChecksum != 0 {
						t.Errorf("%v: %+v, want %d checksums left to the device", sum, s, want)
					}
				}
			})
		}
	}
}

// snmp reads a counter of the namespace of e.
func snmp(tb testing.TB, e xsktest.End, file string, names ...string) (n int) {
	tb.Helper()
	in(tb, e, func() error {
		b, err := os.ReadFile("/proc/thread-self/net/" + file)
		if err != nil {
			return err
		}
		n = snmpValue(string(b), names...)
		return nil
	})
	if n < 0 {
		tb.Fatalf("no %v in %s", names, file)
	}
	return n
}

// TestXDPQueues receives on all queues of a device; each sending queue of a veth
// arrives at the receiving queue of the same number.
func TestXDPQueues(t *testing.T) {
	a, b := twoQueues(t)
	cfg := XDPConfig{Group: group4, Port: port}
	rx := openXDPRx(t, b, cfg)
	if q := rx.Info().Queues; !slices.Equal(q, []int{0, 1}) {
		t.Fatalf("queues %v, want both", q)
	}
	var tx [2]*XDPTx
	for q := range tx {
		cfg.Queues = []int{q}
		tx[q] = openXDPTx(t, a, cfg)
	}
	for range 20 {
		for q := range tx {
			sendAll(t, tx[q], fmt.Appendf(nil, "queue %d", q))
		}
		got := takeAll(t, rx, 2)
		if got[0].payload == got[1].payload {
			t.Errorf("twice %q", got[0].payload)
		}
	}
	// Only one of the queues.
	rx.Close()
	cfg.Queues = []int{1}
	rx = openXDPRx(t, b, cfg)
	for q := range tx {
		sendAll(t, tx[q], fmt.Appendf(nil, "queue %d", q))
	}
	if got := takeAll(t, rx, 1); got[0].payload != "queue 1" {
		t.Errorf("%q", got[0].payload)
	}
	in(t, b, func() error {
		for _, bad := range [][]int{{2}, {-1}, {0, 0}} {
			if _, err := OpenXDPRx(XDPConfig{Interface: b.Name, Group: group4, Port: port, Queues: bad}); err == nil {
				t.Errorf("queues %v were taken", bad)
			}
		}
		return nil
	})
}

// TestXDPVLAN sends with a tag to receivers that want it, want any, or want
// another one; and to the VLAN interface of the kernel, where that has them.
func TestXDPVLAN(t *testing.T) {
	a, b := xsktest.VethPair(t)
	tx := openXDPTx(t, a, XDPConfig{Group: group4, Port: port, VLAN: 7})
	for _, vlan := range []int{7, 0} {
		rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port, VLAN: vlan})
		sendAll(t, tx, sequences(3)...)
		wantSequence(t, takeAll(t, rx, 3), 3)
		rx.Close()
	}
	// What the program passes goes to the host: a UDP socket sees the tag's
	// packets only on an interface for it.
	rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port, VLAN: 8})
	sendAll(t, tx, sequences(3)...)
	other := openXDPTx(t, a, XDPConfig{Group: group4, Port: port, VLAN: 8, Queues: nil, Mode: CopyOnly, TxFrames: 64, Local: a.Addr4}.on(t, tx))
	sendAll(t, other, []byte("tag 8"))
	if m := takeAll(t, rx, 1); m[0].payload != "tag 8" {
		t.Errorf("%q, want only what has the tag", m[0].payload)
	}
	rx.Close()

	var err error
	in(t, b, func() error { err = addVLAN(b.Name, "vlan7", 7); return nil })
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Logf("the kernel has no VLAN interfaces: load the module 8021q to try with one")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	tagged := openXDPTx(t, a, XDPConfig{Group: group4, Port: port, VLAN: 7}.on(t, other))
	onVLAN := b
	onVLAN.Name = "vlan7"
	urx := openRx(t, onVLAN, UDPConfig{Group: group4, Port: port})
	sendAll(t, tagged, sequences(3)...)
	wantSequence(t, takeAll(t, urx, 3), 3)
}

// on closes the sender that has the queue, and returns c.
func (c XDPConfig) on(tb testing.TB, tx *XDPTx) XDPConfig {
	tb.Helper()
	if err := tx.Close(); err != nil {
		tb.Fatal(err)
	}
	return c
}

func addVLAN(parent, name string, id int) error {
	l, err := netlink.LinkByName(parent)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = name, l.Attrs().Index
	if err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: id}); err != nil {
		return err
	}
	v, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.AddrAdd(v, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 99, 0, 3).To4(), Mask: net.CIDRMask(24, 32)}})
	}
	if err == nil {
		err = netlink.LinkSetUp(v)
	}
	return err
}

// TestXDPHostLives: ARP, ICMP, other ports and other groups still reach the
// host while a receiver has its program attached.
func TestXDPHostLives(t *testing.T) {
	a, b := xsktest.VethPairWith(t, netns.VethOptions{})
	openXDPRx(t, b, XDPConfig{Group: group4, Port: port, Unicast: true})
	tx := openTx(t, a, UDPConfig{Peers: []netip.AddrPort{netip.AddrPortFrom(b.Addr4, 9), netip.AddrPortFrom(b.Addr4, port+1)}})
	rx := openRx(t, b, UDPConfig{Local: b.Addr4, Port: port + 1})
	other := openRx(t, b, UDPConfig{Group: netip.MustParseAddr("224.0.0.82"), Port: port})
	otherTx := openTx(t, a, UDPConfig{Group: netip.MustParseAddr("224.0.0.82"), Port: port})
	sendAll(t, tx, []byte("to another port")) // takes ARP
	sendAll(t, otherTx, []byte("to another group"))
	if m := takeAll(t, rx, 1); m[0].payload != "to another port" {
		t.Errorf("%q", m[0].payload)
	}
	if m := takeAll(t, other, 1); m[0].payload != "to another group" {
		t.Errorf("%q", m[0].payload)
	}
	// The closed port was answered for by ICMP.
	waitFor(t, func() bool { tx.drain(&tx.dests[0]); return tx.n.Refused > 0 })
}

// TestXDPRefused counts the ICMP messages that come back for packets that the
// kernel did not send.
func TestXDPRefused(t *testing.T) {
	a, b := xsktest.VethPair(t)
	for _, ip := range []netip.Addr{b.Addr4, b.Addr6} {
		tx := openXDPTx(t, a, XDPConfig{Peers: []netip.AddrPort{netip.AddrPortFrom(ip, 9)}})
		sendAll(t, tx, []byte("nobody listens"))
		waitFor(t, func() bool { tx.drain(&tx.dests[0]); return tx.n.Refused > 0 })
		tx.Close()
		if s := tx.Stats(); s.Packets != 1 || s.Refused != 1 {
			t.Errorf("%+v", s)
		}
	}
}

// TestXDPFragments: fragments are refused and counted if a program lets them
// through, as are packets that are not ours.
func TestXDPFragments(t *testing.T) {
	a, b := xsktest.VethPair(t)
	prog := openProgram(t, b, ProgramConfig{Group: group4, FirstPort: 1, LastPort: 65535})
	rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port, Program: prog})
	s := openSocket(t, a, SocketConfig{TxFrames: 64})
	c := headConfig(false, 0)
	c.dst = netip.AddrPortFrom(group4, 99)
	foreign := newTemplate(c)
	ours := newTemplate(headConfig(false, 0))
	bad := packet(&ours, pattern(30))
	bad[len(bad)-1]++
	short := packet(&ours, pattern(30))
	for _, p := range [][]byte{packet(&foreign, pattern(30)), bad, short[:len(short)-3], packet(&ours, []byte("good"))} {
		f, buf, _ := s.Tx().Get()
		s.Tx().Queue(f, 0, copy(buf, p))
	}
	if e := s.Tx().Flush(nil); e != 0 {
		t.Fatal(e)
	}
	if m := takeAll(t, rx, 1); m[0].payload != "good" {
		t.Errorf("%q", m[0].payload)
	}
	if st := rx.Stats(); st.Foreign != 1 || st.BadChecksum != 1 || st.BadLength != 1 || st.Messages != 1 {
		t.Errorf("%+v", st)
	}
	rx.Release()
	if n := rx.queues[0].q.pool.count(frameKernel); n != defaultFrames {
		t.Errorf("the kernel has %d frames, want all", n)
	}
	for v, count := range map[verdict]*uint64{verdictFragment: &rx.n.Fragments, verdictIPChecksum: &rx.n.BadHeader, verdictNoChecksum: &rx.n.NoChecksum} {
		if rx.accept(v, 10) || *count != 1 {
			t.Errorf("verdict %d: %d counted", v, *count)
		}
	}
}
