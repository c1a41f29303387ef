package xsk

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	bpflink "github.com/cilium/ebpf/link"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
	"golang.org/x/sys/unix"
)

func openProgram(tb testing.TB, e xsktest.End, cfg ProgramConfig) *Program {
	tb.Helper()
	cfg.Interface = e.Name
	var p *Program
	mustOpen(tb, e, func() (err error) { p, err = OpenProgram(cfg); return err })
	tb.Cleanup(func() { p.Close() })
	return p
}

func openSocket(tb testing.TB, e xsktest.End, cfg SocketConfig) *Socket {
	tb.Helper()
	cfg.Interface = e.Name
	var s *Socket
	mustOpen(tb, e, func() (err error) { s, err = OpenSocket(cfg); return err })
	tb.Cleanup(func() { s.Close(); s.Unmap() })
	return s
}

// verdicts of the program.
const xdpRedirect = 4

// runProgram runs the program on a packet as if it came by queue 0.
func runProgram(tb testing.TB, p *Program, b []byte) uint32 {
	tb.Helper()
	ret, err := p.prog.Run(&ebpf.RunOptions{Data: b})
	if err != nil {
		tb.Fatal(err)
	}
	return ret
}

// TestProgramFilter runs the program in the kernel on packets of every kind, and
// on every truncation of those that it takes.
func TestProgramFilter(t *testing.T) {
	_, e := xsktest.VethPair(t)
	local4, local6 := netip.MustParseAddr("10.99.0.2"), netip.MustParseAddr("fd99::2")
	type want struct{ group4, group6, both, any, vlan uint32 }
	const R, P = xdpRedirect, xdpPass
	programs := map[string]ProgramConfig{
		"group4": {Group: group4, FirstPort: port, LastPort: port + 1},
		"group6": {Group: group6, FirstPort: port},
		"both":   {Group: group4, Local: []netip.Addr{local4, local6, netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd99::3")}, FirstPort: port},
		"any":    {AnyLocal: true, FirstPort: port},
		"vlan":   {Group: group4, FirstPort: port, VLAN: 7},
	}
	to := func(v6 bool, dst string, vlan int) []byte {
		c := headConfig(v6, vlan)
		c.dst = netip.MustParseAddrPort(dst)
		h := newTemplate(c)
		return packet(&h, pattern(30))
	}
	g4, g6 := "224.0.0.81:8848", "[ff02::81]:8848"
	mod := func(b []byte, i int, v byte) []byte { b = bytes.Clone(b); b[i] = v; return b }
	insert := func(b []byte, at int, what ...byte) []byte {
		return append(append(bytes.Clone(b[:at]), what...), b[at:]...)
	}
	options := mod(insert(to(false, g4, 0), 34, 1, 1, 1, 1, 1, 1, 1, 1), 14, 0x47)
	cases := []struct {
		name string
		b    []byte
		want want
	}{
		{"group 4", to(false, g4, 0), want{R, P, R, P, P}},
		{"group 6", to(true, g6, 0), want{P, R, P, P, P}},
		{"second port", to(false, "224.0.0.81:8849", 0), want{R, P, P, P, P}},
		{"port below", to(false, "224.0.0.81:8847", 0), want{P, P, P, P, P}},
		{"port above", to(false, "224.0.0.81:8850", 0), want{P, P, P, P, P}},
		{"other group", to(false, "224.0.0.82:8848", 0), want{P, P, P, P, P}},
		{"other group 6", to(true, "[ff02::82]:8848", 0), want{P, P, P, P, P}},
		{"local 4", to(false, "10.99.0.2:8848", 0), want{P, P, R, R, P}},
		{"third local", to(false, "10.0.0.9:8848", 0), want{P, P, R, R, P}},
		{"local 6", to(true, "[fd99::2]:8848", 0), want{P, P, R, R, P}},
		{"second local 6", to(true, "[fd99::3]:8848", 0), want{P, P, R, R, P}},
		{"other host", to(false, "10.99.0.3:8848", 0), want{P, P, P, R, P}},
		{"other host 6", to(true, "[fd99::4]:8848", 0), want{P, P, P, R, P}},
		{"broadcast", to(false, "255.255.255.255:8848", 0), want{P, P, P, P, P}},
		{"tag 7", to(false, g4, 7), want{R, P, R, P, R}},
		{"tag 8", to(false, g4, 8), want{R, P, R, P, P}},
		{"tag 6", to(true, g6, 6), want{P, R, P, P, P}},
		{"two tags, outer 7", insert(to(false, g4, 8), 12, 0x88, 0xa8, 0x20, 7), want{R, P, R, P, R}},
		{"two tags, inner 7", insert(to(false, g4, 7), 12, 0x88, 0xa8, 0, 8), want{R, P, R, P, P}},
		{"three tags", insert(to(false, g4, 7), 12, 0x81, 0, 0, 7, 0x81, 0, 0, 7), want{P, P, P, P, P}},
		{"options", options, want{R, P, R, P, P}},
		{"first fragment", mod(to(false, g4, 0), 20, 0x20), want{P, P, P, P, P}},
		{"last fragment", mod(to(false, g4, 0), 21, 1), want{P, P, P, P, P}},
		{"don't fragment", mod(to(false, g4, 0), 20, 0x40), want{R, P, R, P, P}},
		{"may fragment", mod(to(false, g4, 0), 20, 0), want{R, P, R, P, P}},
		{"TCP", mod(to(false, g4, 0), 23, 6), want{P, P, P, P, P}},
		{"ICMP", mod(to(false, "10.99.0.2:8848", 0), 23, 1), want{P, P, P, P, P}},
		{"hop-by-hop", mod(to(true, g6, 0), 20, 0), want{P, P, P, P, P}},
		{"version", mod(to(false, g4, 0), 14, 0x65), want{P, P, P, P, P}},
		{"header length", mod(to(false, g4, 0), 14, 0x44), want{P, P, P, P, P}},
		{"version 6", mod(to(true, g6, 0), 14, 0x40), want{P, P, P, P, P}},
		{"ARP", mod(to(false, g4, 0), 13, 6), want{P, P, P, P, P}},
	}
	for name, want := range map[string]func(w want) uint32{
		"group4": func(w want) uint32 { return w.group4 },
		"group6": func(w want) uint32 { return w.group6 },
		"both":   func(w want) uint32 { return w.both },
		"any":    func(w want) uint32 { return w.any },
		"vlan":   func(w want) uint32 { return w.vlan },
	} {
		t.Run(name, func(t *testing.T) {
			prog := openProgram(t, e, programs[name])
			defer prog.Close()
			for _, c := range cases {
				if got := runProgram(t, prog, c.b); got != xdpPass {
					t.Errorf("%s: %d without a socket, want XDP_PASS", c.name, got)
				}
			}
			s := openSocket(t, e, SocketConfig{RxFrames: 64, Program: prog})
			defer s.Close()
			for _, c := range cases {
				w := want(c.want)
				if got := runProgram(t, prog, c.b); got != w {
					t.Errorf("%s: %d, want %d", c.name, got, w)
				}
				if w != xdpRedirect {
					continue
				}
				end := bytes.LastIndex(c.b, pattern(30))
				for n := etherLen; n < end; n++ {
					if got := runProgram(t, prog, c.b[:n]); got != xdpPass {
						t.Errorf("the first %d bytes of %s: %d, want XDP_PASS", n, c.name, got)
					}
				}
			}
		})
	}
}

// TestForeignProgram: a program that is there stays, and the error names it.
func TestForeignProgram(t *testing.T) {
	_, e := xsktest.VethPair(t)
	first := openProgram(t, e, ProgramConfig{Group: group4, FirstPort: port})
	for _, generic := range []bool{false, true} {
		var err error
		in(t, e, func() error {
			_, err = OpenXDPRx(XDPConfig{Interface: e.Name, Group: group4, Port: port, Generic: true, GenericOnly: generic})
			return nil
		})
		var foreign *ForeignProgramError
		if !errors.Is(err, ErrProgramBusy) || !errors.As(err, &foreign) || foreign.ID != first.Info().ID {
			t.Errorf("generic %v: %v, want ErrProgramBusy of program %d", generic, err, first.Info().ID)
		}
	}
	if id := attached(t, e); id != first.Info().ID {
		t.Errorf("program %d is attached, want %d", id, first.Info().ID)
	}
	for range 2 {
		if err := first.Close(); err != nil {
			t.Error(err)
		}
	}
	if id := attached(t, e); id != 0 {
		t.Errorf("program %d is attached after Close", id)
	}
}

// attached returns the id of the program on the interface.
func attached(tb testing.TB, e xsktest.End) (id uint32) {
	tb.Helper()
	in(tb, e, func() error {
		ifi, err := findInterface(e.Name)
		if err != nil {
			return err
		}
		c, err := newNlConn(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer c.close()
		id, _, err = c.xdpProgram(ifi.Index)
		return err
	})
	return id
}

// TestLookAtDevice: what is found out without opening anything.
func TestLookAtDevice(t *testing.T) {
	_, e := twoQueues(t)
	look := func(name string) (d Device, err error) {
		in(t, e, func() error { d, err = LookAtDevice(name); return nil })
		return d, err
	}
	d, err := look(e.Name)
	if err != nil || d.Driver != "veth" || !d.Up || d.RxQueues != 2 || d.TxQueues != 2 || d.Program != 0 || d.MTU != 1500 {
		t.Errorf("%+v, %v", d, err)
	}
	if d.FeaturesKnown && d.ZeroCopy {
		t.Errorf("%+v: veth has no zero-copy", d)
	}
	p := openProgram(t, e, ProgramConfig{Group: group4, FirstPort: port, GenericOnly: true})
	d, err = look(e.Name)
	if err != nil || d.Program != p.Info().ID || !d.ProgramGeneric {
		t.Errorf("%+v, %v, want program %d", d, err, p.Info().ID)
	}
	setLink(t, e, "down")
	if d, err := look(e.Name); err != nil || d.Up || d.RxQueues != 2 {
		t.Errorf("%+v, %v, want the interface to be down", d, err)
	}
	if _, err := look("nope0"); !errors.Is(err, ErrInterface) {
		t.Errorf("%v, want ErrInterface", err)
	}
}

// TestPinnedMap: the program of somebody else feeds our sockets.
func TestPinnedMap(t *testing.T) {
	a, b := xsktest.VethPair(t)
	theirs := openProgram(t, b, ProgramConfig{Group: group4, FirstPort: port})
	fs := t.TempDir()
	if err := unix.Mount("bpf", fs, "bpf", 0, ""); err != nil {
		xsktest.SkipOrFail(t, "mount bpf: %v: run as root", err)
	}
	defer unix.Unmount(fs, unix.MNT_DETACH)
	path := filepath.Join(fs, "xsks")
	if err := theirs.xsks.Pin(path); err != nil {
		t.Fatal(err)
	}
	cfg := XDPConfig{Group: group4, Port: port, PinnedMap: path}
	rx, tx := openXDPRx(t, b, cfg), openXDPTx(t, a, XDPConfig{Group: group4, Port: port})
	sendAll(t, tx, sequences(10)...)
	wantSequence(t, takeAll(t, rx, 10), 10)
	if i := rx.Info().Program; i.ID != 0 || i.PinnedMap != path {
		t.Errorf("%+v", i)
	}
	// A second receiver finds the entry taken, before or behind the queue.
	in(t, b, func() error {
		cfg.Interface = b.Name
		if _, err := OpenXDPRx(cfg); !errors.Is(err, ErrQueueBusy) {
			t.Errorf("%v, want ErrQueueBusy", err)
		}
		cfg.PinnedMap += "x"
		if _, err := OpenXDPRx(cfg); !errors.Is(err, ErrConfig) {
			t.Errorf("%v, want ErrConfig for a path that is not there", err)
		}
		return nil
	})
	rx.Close()
	if id := attached(t, b); id != theirs.Info().ID {
		t.Errorf("program %d is attached, want theirs, %d", id, theirs.Info().ID)
	}
}

// TestGenericProgram receives through the kernel's own XDP.
func TestGenericProgram(t *testing.T) {
	a, b := xsktest.VethPair(t)
	rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port, GenericOnly: true})
	tx := openXDPTx(t, a, XDPConfig{Group: group4, Port: port})
	if i := rx.Info(); !i.Program.Generic || i.Program.Why == "" || i.ZeroCopy {
		t.Errorf("%+v, want a generic program", i)
	}
	sendAll(t, tx, sequences(100)...)
	wantSequence(t, takeAll(t, rx, 100), 100)
}

// TestSharedProgram: the sockets of two queues, by hand, share one program; and
// a link of somebody else cannot take its place.
func TestSharedProgram(t *testing.T) {
	_, b := twoQueues(t)
	prog := openProgram(t, b, ProgramConfig{Group: group4, FirstPort: port})
	for q := range 2 {
		openSocket(t, b, SocketConfig{RxFrames: 64, Queue: q, Program: prog})
	}
	in(t, b, func() error {
		_, err := bpflink.AttachXDP(bpflink.XDPOptions{Program: prog.prog, Interface: prog.info.Index})
		if !errors.Is(err, unix.EBUSY) {
			t.Errorf("a second attach: %v, want EBUSY", err)
		}
		_, err = OpenSocket(SocketConfig{Interface: b.Name, RxFrames: 64, Queue: 99, Program: prog})
		if !errors.Is(err, ErrConfig) {
			t.Errorf("queue 99: %v, want ErrConfig", err)
		}
		return nil
	})
}

func TestProgramConfig(t *testing.T) {
	many := make([]netip.Addr, maxLocal+1)
	for i := range many {
		many[i] = netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", i+1))
	}
	for name, c := range map[string]ProgramConfig{
		"nothing":          {FirstPort: 1},
		"unicast group":    {Group: netip.MustParseAddr("10.0.0.1"), FirstPort: 1},
		"no port":          {Group: group4},
		"ports reversed":   {Group: group4, FirstPort: 2, LastPort: 1},
		"port too high":    {Group: group4, FirstPort: 65536},
		"VLAN":             {Group: group4, FirstPort: 1, VLAN: 4095},
		"many addresses":   {Local: many, FirstPort: 1},
		"an empty address": {Local: []netip.Addr{{}}, FirstPort: 1},
	} {
		if _, err := OpenProgram(c); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v, want ErrConfig", name, err)
		}
	}
}
