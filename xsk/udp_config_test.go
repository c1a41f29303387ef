package xsk

import (
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/ipvsync/ipvsync/xsk/netns"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestConfigErrors gives every wrong configuration to the constructors, which
// have to say what is wrong, where, and what to do about it.
func TestConfigErrors(t *testing.T) {
	a, b := xsktest.VethPair(t)
	if err := netns.Veth(a.NS, b.NS, netns.VethOptions{A: netns.End{Name: "bare"}, B: netns.End{Name: "bare"}}); err != nil {
		t.Fatal(err)
	}
	in(t, a, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "down0"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "down1"}); err != nil {
			return err
		}
		// A socket that does not share its port.
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(fd) })
		return unix.Bind(fd, &unix.SockaddrInet4{Port: 7777})
	})
	peer := func(s string) []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort(s)} }
	const (
		tx = 1 << iota
		rx
	)
	for _, c := range []struct {
		name  string
		who   int
		cfg   UDPConfig
		is    error
		words []string
	}{
		{"no interface named", tx | rx, UDPConfig{Interface: "", Group: group4, Port: port}, ErrConfig, []string{"Interface is empty", "lo, ", "veth0"}},
		{"no such interface", tx | rx, UDPConfig{Interface: "eth9", Group: group4, Port: port}, ErrInterface, []string{"on eth9", "this host has lo, ", "veth0"}},
		{"interface down", tx | rx, UDPConfig{Interface: "down0", Group: group4, Port: port}, ErrLinkDown, []string{"ip link set down0 up"}},
		{"no IPv4 address", tx, UDPConfig{Interface: "bare", Group: group4, Port: port}, ErrNoAddress, []string{"bare", "add an IPv4 address"}},
		{"Local of somebody else", tx, UDPConfig{Group: group4, Port: port, Local: b.Addr4}, ErrConfig, []string{"10.99.0.2", "which has 10.99.0.1"}},
		{"families", tx | rx, UDPConfig{Group: group4, Port: port, Local: b.Addr6}, ErrConfig, []string{"different families"}},
		{"MTU 4", tx, UDPConfig{Group: group4, Port: port, MaxPayload: 1473}, ErrMTU, []string{"1473 bytes need an MTU of 1501", "IPv4 header 20 + UDP 8", "has 1500", "lower it to 1472"}},
		{"MTU 6", tx, UDPConfig{Group: group6, Port: port, MaxPayload: 1453}, ErrMTU, []string{"1453 bytes need an MTU of 1501", "IPv6 header 40 + UDP 8", "has 1500", "lower it to 1452"}},
		{"MTU of a peer", tx, UDPConfig{Peers: peer("[fd99::2]:1"), MaxPayload: 1453}, ErrMTU, []string{"1501"}},
		{"not multicast", tx | rx, UDPConfig{Group: a.Addr4, Port: port}, ErrConfig, []string{"10.99.0.1 is not multicast", "224.0.0.0/4"}},
		{"zone", tx | rx, UDPConfig{Group: group6.WithZone("veth0"), Port: port}, ErrConfig, []string{"zone", "interface"}},
		{"port 0", tx | rx, UDPConfig{Group: group4}, ErrConfig, []string{"Port 0: want 1 to 65535"}},
		{"port too high", tx | rx, UDPConfig{Group: group4, Port: 65536}, ErrConfig, []string{"Port 65536: want 1 to 65535"}},
		{"port negative", tx | rx, UDPConfig{Group: group4, Port: -1}, ErrConfig, []string{"Port -1"}},
		{"TTL", tx | rx, UDPConfig{Group: group4, Port: port, TTL: 256}, ErrConfig, []string{"TTL 256: want 1 to 255"}},
		{"TTL negative", tx | rx, UDPConfig{Group: group4, Port: port, TTL: -1}, ErrConfig, []string{"TTL -1"}},
		{"batch", tx | rx, UDPConfig{Group: group4, Port: port, Batch: 1025}, ErrConfig, []string{"Batch 1025: want 1 to 1024"}},
		{"payload negative", tx | rx, UDPConfig{Group: group4, Port: port, MaxPayload: -1}, ErrConfig, []string{"MaxPayload -1"}},
		{"GSO", tx | rx, UDPConfig{Group: group4, Port: port, GSO: 3}, ErrConfig, []string{"GSO Offload(3)", "OffloadAuto"}},
		{"GRO", tx | rx, UDPConfig{Group: group4, Port: port, GRO: 3}, ErrConfig, []string{"GRO Offload(3)"}},
		{"buffers", tx | rx, UDPConfig{Group: group4, Port: port, RcvBuf: -1}, ErrConfig, []string{"RcvBuf -1"}},
		{"receive buffer", tx | rx, UDPConfig{Group: group4, Port: port, RcvBuf: 1 << 32}, ErrConfig, []string{"RcvBuf", "want 0 to 2147483647 bytes"}},
		{"send buffer", tx | rx, UDPConfig{Group: group4, Port: port, SndBuf: MaxBuffer + 1}, ErrConfig, []string{"SndBuf", "want 0 to 2147483647 bytes"}},
		{"nobody", tx, UDPConfig{Port: port}, ErrConfig, []string{"Group is not set, nor are Peers"}},
		{"peer port", tx, UDPConfig{Peers: peer("10.99.0.2:0")}, ErrConfig, []string{"10.99.0.2:0", "port 0"}},
		{"peer multicast", tx, UDPConfig{Peers: peer("224.0.0.81:1")}, ErrConfig, []string{"Peers 224.0.0.81:1", "want a unicast address"}},
		{"peer without address", tx, UDPConfig{Peers: make([]netip.AddrPort, 1)}, ErrConfig, []string{"Peers number 0 has no address"}},
		{"peer twice", tx, UDPConfig{Peers: append(peer("10.99.0.2:1"), peer("[::ffff:10.99.0.2]:1")...)}, ErrConfig, []string{"10.99.0.2:1 is there twice"}},
		{"peer zone", tx, UDPConfig{Peers: peer("[fe80::1%eth9]:1")}, ErrInterface, []string{`zone "eth9"`, "veth0"}},
		{"peer without route", tx, UDPConfig{Peers: peer("192.0.2.1:1")}, ErrNoRoute, []string{"connect to 192.0.2.1:1", "network is unreachable"}},
		{"in use", rx, UDPConfig{Port: 7777}, ErrInUse, []string{"7777", "ss -ulpn", "address already in use"}},
	} {
		if c.cfg.Interface == "" && c.name != "no interface named" {
			c.cfg.Interface = a.Name
		}
		check := func(who string, open func() error) {
			fds := openFiles(t)
			var err error
			in(t, a, func() error { err = open(); return nil })
			var typed *Error
			if !errors.Is(err, c.is) || !errors.As(err, &typed) || typed.Interface != c.cfg.Interface {
				t.Errorf("%s, %s: %v, want %q", who, c.name, err, c.is)
				return
			}
			for _, w := range c.words {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%s, %s: %q does not say %q", who, c.name, err, w)
				}
			}
			if now := openFiles(t); now != fds {
				t.Errorf("%s, %s: %d descriptors, %d before", who, c.name, now, fds)
			}
		}
		if c.who&tx != 0 {
			check("sender", func() error { _, err := OpenUDPTx(c.cfg); return err })
		}
		if c.who&rx != 0 {
			check("receiver", func() error { _, err := OpenUDPRx(c.cfg); return err })
		}
	}
}

// TestNoPermission opens a receiver on a reserved port without the capability.
func TestNoPermission(t *testing.T) {
	a, _ := xsktest.VethPair(t)
	var err error
	in(t, a, func() error {
		return withoutCap(unix.CAP_NET_BIND_SERVICE, func() {
			_, err = OpenUDPRx(UDPConfig{Interface: a.Name, Group: group4, Port: 100})
		})
	})
	if !errors.Is(err, ErrPermission) || !errors.Is(err, unix.EACCES) || !strings.Contains(err.Error(), "CAP_NET_BIND_SERVICE") {
		t.Errorf("%v, want ErrPermission that names the capability", err)
	}
}

// TestBuffers checks that a buffer above the system's limit is granted with
// CAP_NET_ADMIN, and that what was got is told without it.
func TestBuffers(t *testing.T) {
	a, _ := xsktest.VethPair(t)
	const want = 64 << 20
	cfg := UDPConfig{Interface: a.Name, Group: group4, Port: port, SndBuf: want, RcvBuf: want}
	if rx, tx := openRx(t, a, cfg), openTx(t, a, cfg); rx.Info().RcvBuf != want || tx.Info().SndBuf != want {
		t.Errorf("got %d and %d bytes, want %d", rx.Info().RcvBuf, tx.Info().SndBuf, want)
	}
	cfg.SndBuf, cfg.RcvBuf = MaxBuffer, MaxBuffer
	if rx, tx := openRx(t, a, cfg), openTx(t, a, cfg); rx.Info().RcvBuf != MaxBuffer-1 || tx.Info().SndBuf != MaxBuffer-1 {
		t.Errorf("got %d and %d bytes, want the most there is", rx.Info().RcvBuf, tx.Info().SndBuf)
	}
	cfg.SndBuf, cfg.RcvBuf = want, want
	in(t, a, func() error {
		return withoutCap(unix.CAP_NET_ADMIN, func() {
			rx, err := OpenUDPRx(cfg)
			if err != nil {
				t.Error(err)
				return
			}
			defer rx.Close()
			got, _ := unix.GetsockoptInt(rx.fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
			if rx.Info().RcvBuf != got || got >= want {
				t.Errorf("told %d bytes, got %d, want less than %d", rx.Info().RcvBuf, got, want)
			}
		})
	})
}

// withoutCap runs fn on this thread without an effective capability. The caller
// is locked to its thread.
func withoutCap(bit int, fn func()) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var full [2]unix.CapUserData
	if err := unix.Capget(&hdr, &full[0]); err != nil {
		return err
	}
	less := full
	less[bit/32].Effective &^= 1 << (bit % 32)
	if err := unix.Capset(&hdr, &less[0]); err != nil {
		return err
	}
	fn()
	return unix.Capset(&hdr, &full[0])
}
