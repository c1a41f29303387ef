package xsk

import (
	"bufio"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/ipvsync/ipvsync/xsk/xsktest"
	"golang.org/x/sys/unix"
)

const childEnv = "XSK_TEST_CHILD"

// TestXDPChild is the child of TestXDPKilled.
func TestXDPChild(t *testing.T) {
	name := os.Getenv(childEnv)
	if name == "" {
		return // not a child
	}
	cfg := XDPConfig{Interface: name, Group: group4, Port: port}
	if _, err := OpenXDPRx(cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stdout.WriteString("\nready\n"); err != nil {
		t.Fatal(err)
	}
	select {}
}

// TestXDPKilled: a killed process leaves no program behind, and an interface
// that works.
func TestXDPKilled(t *testing.T) {
	a, b := xsktest.VethPair(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestXDPChild$")
	cmd.Env = append(os.Environ(), childEnv+"="+b.Name)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in(t, b, cmd.Start)
	defer cmd.Process.Kill()
	ready := false
	for s := bufio.NewScanner(out); !ready && s.Scan(); {
		ready = s.Text() == "ready"
	}
	if !ready {
		t.Fatal("the child did not start")
	}
	// Linux 7.3, busy, was once seen to answer that there is none.
	waitFor(t, func() bool { return attached(t, b) != 0 })
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	waitFor(t, func() bool { return attached(t, b) == 0 })
	rx, tx := openRx(t, b, UDPConfig{Group: group4, Port: port}), openXDPTx(t, a, XDPConfig{Group: group4, Port: port})
	sendAll(t, tx, []byte("alive"))
	if m := takeAll(t, rx, 1); m[0].payload != "alive" {
		t.Errorf("%q", m[0].payload)
	}
	rx.Close()
	xrx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port})
	sendAll(t, tx, []byte("alive"))
	takeAll(t, xrx, 1)
}

// withCaps runs fn in the namespace of e on a thread that has only these
// capabilities, and ends the thread.
func withCaps(tb testing.TB, e xsktest.End, fn func(), caps ...uint) {
	tb.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		defer close(done)
		if err := unix.Setns(e.NS.Fd(), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		var mask [2]uint32
		for _, c := range caps {
			mask[c/32] |= 1 << (c % 32)
		}
		var data [2]unix.CapUserData
		for i := range data {
			data[i].Effective, data[i].Permitted = mask[i], mask[i]
		}
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
			done <- err
			return
		}
		fn()
	}()
	if err := <-done; err != nil {
		tb.Fatal(err)
	}
}

// TestXDPMissingCapabilities: the error names what is missing, and what is not
// needed is not asked for.
func TestXDPMissingCapabilities(t *testing.T) {
	a, b := xsktest.VethPair(t)
	cfg := XDPConfig{Interface: b.Name, Group: group4, Port: port}
	want := func(err error, names ...string) {
		t.Helper()
		if !errors.Is(err, ErrPermission) {
			t.Errorf("%v, want ErrPermission", err)
			return
		}
		for _, n := range names {
			if !strings.Contains(err.Error(), n) {
				t.Errorf("%v does not name %s", err, n)
			}
		}
	}
	withCaps(t, b, func() {
		_, err := OpenXDPTx(cfg)
		want(err, "CAP_NET_RAW")
		_, err = OpenXDPRx(cfg)
		want(err, "CAP_BPF", "CAP_NET_ADMIN")
	})
	withCaps(t, b, func() {
		_, err := OpenXDPRx(cfg)
		want(err, "CAP_NET_RAW")
	}, unix.CAP_BPF, unix.CAP_NET_ADMIN)
	withCaps(t, b, func() {
		_, err := OpenXDPRx(cfg)
		want(err, "CAP_BPF")
	}, unix.CAP_NET_RAW, unix.CAP_NET_ADMIN)
	withCaps(t, b, func() {
		_, err := OpenXDPRx(cfg)
		want(err, "CAP_NET_ADMIN")
	}, unix.CAP_NET_RAW, unix.CAP_BPF)
	withCaps(t, b, func() {
		rx, err := OpenXDPRx(cfg)
		if err != nil {
			t.Error(err)
			return
		}
		rx.Close()
	}, unix.CAP_NET_RAW, unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_IPC_LOCK)
	// In copy mode CAP_NET_RAW is enough to send, to peers as well.
	urx := openRx(t, a, UDPConfig{Local: a.Addr4, Port: port})
	withCaps(t, b, func() {
		tx, err := OpenXDPTx(XDPConfig{Interface: b.Name, Peers: []netip.AddrPort{netip.AddrPortFrom(a.Addr4, port)}, TxFrames: 64})
		if err != nil {
			t.Error(err)
			return
		}
		defer tx.Close()
		sendAll(t, tx, []byte("humble"))
	}, unix.CAP_NET_RAW, unix.CAP_IPC_LOCK)
	if m := takeAll(t, urx, 1); m[0].payload != "humble" {
		t.Errorf("%q", m[0].payload)
	}
}

// TestXDPMemlock: a limit that is too low is named, with its value.
func TestXDPMemlock(t *testing.T) {
	a, _ := xsktest.VethPair(t)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &old); err != nil {
		t.Fatal(err)
	}
	low := old
	low.Cur = 64 << 10
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &low); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_MEMLOCK, &old)
	withCaps(t, a, func() {
		_, err := OpenXDPTx(XDPConfig{Interface: a.Name, Group: group4, Port: port})
		if !errors.Is(err, ErrMemlock) || !errors.Is(err, unix.ENOBUFS) ||
			!strings.Contains(err.Error(), "64 KiB") || !strings.Contains(err.Error(), "4096 KiB") || !strings.Contains(err.Error(), "RLIMIT_MEMLOCK") {
			t.Errorf("%v, want ErrMemlock with both sizes", err)
		}
	}, unix.CAP_NET_RAW, unix.CAP_NET_ADMIN, unix.CAP_BPF)
}

// TestXDPZeroCopy: veth has none. Required it is an error, preferred it is a
// fallback that is reported.
func TestXDPZeroCopy(t *testing.T) {
	a, b := xsktest.VethPair(t)
	in(t, a, func() error {
		cfg := XDPConfig{Interface: a.Name, Group: group4, Port: port, Mode: ZeroCopyRequired}
		if _, err := OpenXDPTx(cfg); !errors.Is(err, ErrZeroCopy) {
			t.Errorf("%v, want ErrZeroCopy", err)
		}
		if _, err := OpenXDPRx(cfg); !errors.Is(err, ErrZeroCopy) {
			t.Errorf("%v, want ErrZeroCopy", err)
		}
		return nil
	})
	if attached(t, a) != 0 {
		t.Error("a program stayed")
	}
	for mode, why := range map[CopyMode]bool{ZeroCopyPreferred: true, CopyOnly: false} {
		cfg := XDPConfig{Group: group4, Port: port, Mode: mode}
		rx, tx := openXDPRx(t, b, cfg), openXDPTx(t, a, cfg)
		for _, i := range []XDPInfo{rx.Info(), tx.Info()} {
			if i.ZeroCopy || (i.WhyCopy != "") != why {
				t.Errorf("%v: %+v", mode, i)
			}
		}
		rx.Close()
		tx.Close()
	}
}

// TestXDPMembership: the interface is a member of the group as long as a
// receiver is open.
func TestXDPMembership(t *testing.T) {
	_, b := xsktest.VethPair(t)
	member := func(what string) (is bool) {
		in(t, b, func() error {
			for _, f := range []string{"igmp", "igmp6"} {
				text, err := os.ReadFile("/proc/thread-self/net/" + f)
				if err != nil {
					return err
				}
				is = is || strings.Contains(string(text), what)
			}
			return nil
		})
		return is
	}
	for group, text := range map[netip.Addr]string{group4: "510000E0", group6: "ff020000000000000000000000000081"} {
		if member(text) {
			t.Errorf("%s is joined before", group)
		}
		rx := openXDPRx(t, b, XDPConfig{Group: group, Port: port})
		if !member(text) {
			t.Errorf("%s is not joined", group)
		}
		rx.Close()
		waitFor(t, func() bool { return !member(text) })
	}
}
