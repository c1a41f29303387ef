package demo

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/xsk"
	"github.com/ipvsync/ipvsync/xsk/netns"
)

// path is what the demo runs over.
type path struct {
	name  string // for people
	close func()
	// in runs fn where the master, or the backup, is at home.
	inMaster, inBackup func(fn func() error) error

	sender   ipvsync.SenderConfig
	receiver ipvsync.ReceiverConfig
}

// newPath takes two namespaces if it may, and loopback if not.
func newPath() (*path, error) {
	if netns.Supported() != nil {
		return newLoopback()
	}
	return newVeth()
}

func newVeth() (_ *path, err error) {
	master, err := netns.New()
	if err != nil {
		return nil, err
	}
	backup, err := netns.New()
	if err != nil {
		master.Close()
		return nil, err
	}
	p := &path{
		name:     "a veth pair between two network namespaces, multicast " + ipvsync.DefaultGroup.String(),
		close:    func() { master.Close(); backup.Close() },
		inMaster: master.Do, inBackup: backup.Do,
	}
	err = netns.Veth(master, backup, netns.VethOptions{
		A: netns.End{Name: "master0", Addrs: []netip.Prefix{netip.MustParsePrefix("10.88.0.1/24")}},
		B: netns.End{Name: "backup0", Addrs: []netip.Prefix{netip.MustParsePrefix("10.88.0.2/24")}},
	})
	if err != nil {
		p.close()
		return nil, err
	}
	p.sender.Interface, p.receiver.Interface = "master0", "backup0"
	return p, nil
}

func describe(c xsk.Choice) string {
	if c.Mode <= xsk.ModeGeneric {
		return "AF_XDP, " + c.String()
	}
	return c.String()
}

func newLoopback() (*path, error) {
	port, err := freePort()
	if err != nil {
		return nil, fmt.Errorf("find a free port on loopback: %w", err)
	}
	here := func(fn func() error) error { return fn() }
	p := &path{
		name:  fmt.Sprintf("loopback, unicast to port %d (as root: two network namespaces and multicast)", port),
		close: func() {}, inMaster: here, inBackup: here,
	}
	p.sender.Interface, p.receiver.Interface = "lo", "lo"
	p.sender.Peers = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)}
	p.receiver.Port, p.receiver.Unicast = port, true
	return p, nil
}

// freePort is a UDP port that nobody uses at the moment.
func freePort() (uint16, error) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Port(), nil
}
