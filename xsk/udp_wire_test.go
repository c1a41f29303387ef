package xsk

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk/netns"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
	"golang.org/x/sys/unix"
)

// openTap makes a tap in a namespace of its own and opens its wire side. A tap
// can neither cut trains nor compute checksums: what is read from the wire is
// what any network would get to see.
func openTap(t *testing.T) (xsktest.End, *os.File) {
	t.Helper()
	e := xsktest.End{NS: xsktest.Namespace(t), Name: "tap0", Addr4: netip.MustParseAddr("10.97.0.1"), Addr6: netip.MustParseAddr("fd97::1")}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		xsktest.SkipOrFail(t, "%v: load the module tun", err)
	}
	if err := netns.Tap(e.NS, e.Name, netip.PrefixFrom(e.Addr4, 24), netip.PrefixFrom(e.Addr6, 64)); err != nil {
		t.Fatal(err)
	}
	var wire *os.File
	in(t, e, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		ifr, err := unix.NewIfreq(e.Name)
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			return err
		}
		wire = os.NewFile(uintptr(fd), "tap") // pollable
		return nil
	})
	t.Cleanup(func() { wire.Close() })
	xsktest.SetLink(t, e, true) // waits until it carries packets, which takes somebody who has it open
	return e, wire
}

// datagram checks a frame from the wire, headers and checksums, and returns the
// payload if it is a UDP datagram to port.
func datagram(frame []byte) (payload []byte, ok bool, err error) {
	if len(frame) < 14 {
		return nil, false, fmt.Errorf("a frame of %d bytes", len(frame))
	}
	ip := frame[14:]
	var pseudo uint32
	var udp []byte
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		if ip[9] != unix.IPPROTO_UDP {
			return nil, false, nil
		}
		if n := int(binary.BigEndian.Uint16(ip[2:])); n != len(ip) || ip[0] != 0x45 {
			return nil, false, fmt.Errorf("IPv4 length %d in a packet of %d", n, len(ip))
		}
		if frag := binary.BigEndian.Uint16(ip[6:]); frag&0x3fff != 0 {
			return nil, false, fmt.Errorf("a fragment, %#04x", frag)
		}
		if fold(sum(ip[:20])) != 0xffff {
			return nil, false, fmt.Errorf("wrong IPv4 header checksum")
		}
		pseudo, udp = sum(ip[12:20]), ip[20:]
	case unix.ETH_P_IPV6:
		if ip[6] != unix.IPPROTO_UDP {
			return nil, false, nil
		}
		if n := int(binary.BigEndian.Uint16(ip[4:])); n != len(ip)-40 {
			return nil, false, fmt.Errorf("IPv6 length %d in a packet of %d", n, len(ip))
		}
		pseudo, udp = sum(ip[8:40]), ip[40:]
	default:
		return nil, false, nil
	}
	if len(udp) < 8 {
		return nil, false, fmt.Errorf("a UDP datagram of %d bytes", len(udp))
	}
	if binary.BigEndian.Uint16(udp[2:]) != port {
		return nil, false, nil
	}
	if n := int(binary.BigEndian.Uint16(udp[4:])); n != len(udp) {
		return nil, false, fmt.Errorf("UDP length %d in a packet of %d", n, len(udp))
	}
	if got := fold(pseudo + unix.IPPROTO_UDP + uint32(len(udp)) + sum(udp)); got != 0xffff || binary.BigEndian.Uint16(udp[6:]) == 0 {
		return nil, false, fmt.Errorf("UDP checksum %#04x of %d bytes adds up to %#04x", binary.BigEndian.Uint16(udp[6:]), len(udp), got)
	}
	return udp[8:], true, nil
}

func sum(b []byte) (n uint32) {
	for i, c := range b {
		n += uint32(c) << (8 * (1 - i%2))
	}
	return n
}

func fold(n uint32) uint32 {
	for n > 0xffff {
		n = n>>16 + n&0xffff
	}
	return n
}

// TestTrainsOnTheWire reads what GSO puts on the wire: ordinary datagrams, one
// per message, in order, with right lengths and checksums, and not a byte that
// tells of trains. Where the kernel cannot do that for an interface without
// checksums (before Linux 6.11), trains are refused, and that is seen too.
func TestTrainsOnTheWire(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	e, wire := openTap(t)
	for _, group := range []netip.Addr{group4, group6} {
		tx := openTx(t, e, UDPConfig{Group: group, Port: port, GSO: OffloadOn})
		buf := make([]byte, 1<<17)
		const n = 400
		all := randomMessages(rnd, n, tx.MaxPayload())
		for got, next := 0, 0; got < n; {
			for end := min(next+88, n); next < end; next++ {
				put(t, tx, []byte(all[next]))
			}
			flush(t, tx)
			for got < next {
				_ = wire.SetReadDeadline(time.Now().Add(patience))
				k, err := wire.Read(buf)
				if err != nil && err != io.EOF {
					t.Fatalf("%d of %d messages on the wire: %v, %+v", got, n, err, tx.Stats())
				}
				payload, ok, err := datagram(buf[:k])
				if err != nil {
					t.Fatalf("message %d of %d bytes: %v", got, len(all[got]), err)
				}
				if !ok {
					continue // a report of group membership
				}
				if string(payload) != all[got] {
					t.Fatalf("message %d of %d bytes came as %d bytes, or changed", got, len(all[got]), len(payload))
				}
				got++
			}
		}
		wantLedger(t, tx)
		s := tx.Stats()
		if s.Segmented == 0 && s.Withdrawn == 0 || s.Packets != n {
			t.Errorf("%s: %+v", group, s)
		}
		t.Logf("%s: %d of %d messages in trains, withdrawn %d times", group, s.Segmented, n, s.Withdrawn)
	}
}
