package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/doctor"
	"github.com/ipvsync/ipvsync/xsk"
	"github.com/ipvsync/ipvsync/xsk/netns"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// examine runs doctor --json for the only interface of e.
func examine(t *testing.T, e xsktest.End, args ...string) (d doctor.Device, h doctor.Host) {
	t.Helper()
	var out bytes.Buffer
	args = append([]string{"doctor", "--json", "-i", e.Name}, args...)
	err := runIn(t.Context(), e.NS, "", &out, io.Discard, args...)
	var r doctor.Report
	if e := json.Unmarshal(out.Bytes(), &r); e != nil || len(r.Interfaces) != 1 {
		t.Fatalf("%v, %v: %s", err, e, &out)
	}
	if (err == nil) != r.OK() {
		t.Errorf("%v, but OK is %v", err, r.OK())
	}
	return r.Interfaces[0], r.Host
}

func says(list []doctor.Finding, what, do string) bool {
	for _, f := range list {
		if strings.Contains(f.What, what) && strings.Contains(f.Do, do) {
			return true
		}
	}
	return false
}

// What doctor finds is what can be opened, and it leaves nothing behind.
func TestDoctor(t *testing.T) {
	a, _ := xsktest.VethPairWith(t, netns.VethOptions{Queues: 2})
	d, h := examine(t, a)
	if h.Kernel == "" || len(h.Capabilities) < 4 || h.Memlock == 0 {
		t.Errorf("%+v", h)
	}
	if d.Driver != "veth" || d.Kind != "veth" || !d.Up || !d.Carrier || d.MTU != 1500 || d.RxQueues != 2 || d.TxQueues != 2 ||
		len(d.Addresses) < 2 || d.Program != nil || d.NotProbed != nil || len(d.PortUsers) != 0 {
		t.Errorf("%+v", d)
	}
	if d.Send.Mode != "copy" || d.Send.Locked != 4<<20 || len(d.Send.Queues) != 1 ||
		d.Receive.Mode != "copy" || d.Receive.Locked != 16<<20 || len(d.Receive.Queues) != 2 {
		t.Errorf("send %+v, receive %+v", d.Send, d.Receive)
	}
	for _, w := range []doctor.Way{d.Send, d.Receive} {
		if len(w.Not) != 1 || w.Not[0].Mode != "zerocopy" || !w.Not[0].Tried || w.Not[0].What == "" || w.Not[0].Do == "" {
			t.Errorf("%+v", w.Not)
		}
	}
	if d, _ := examine(t, a); d.Program != nil {
		t.Errorf("program %+v is left", d.Program)
	}
	var out bytes.Buffer
	if err := runIn(t.Context(), a.NS, "", &out, io.Discard, "doctor"); err != nil {
		t.Error(err)
	}
	for _, say := range []string{"host ", "capabilities: NET_RAW", "veth0 ", "queues: 2 to receive, 2 to send", "  send     copy", "  receive  udp-gso",
		"no interface was named", "→ ipvsync doctor -i veth0 --probe yes"} {
		if !strings.Contains(out.String(), say) {
			t.Errorf("does not say %q:\n%s", say, &out)
		}
	}
}

// Where the synchronisation is at work, doctor loses it nothing, and says so.
func TestDoctorDisturbsNobody(t *testing.T) {
	a, b := xsktest.VethPair(t)
	const lines = 20_000
	for _, mode := range []string{"udp", "copy"} {
		backup := startBackup(t, b.NS, lines, "-i", b.Name, "--mode", mode, "--rcvbuf", "100000000")
		fed := make(chan error, 1)
		go func() {
			fed <- runIn(t.Context(), a.NS, strings.Repeat(lineA+"\n", lines), io.Discard, io.Discard, "master", "-i", a.Name)
		}()
		for done := false; !done; {
			d, _ := examine(t, b)
			if d.NotProbed == nil || len(d.PortUsers) == 0 || d.Receive.Mode != "udp-gso" || (d.Program != nil) != (mode == "copy") {
				t.Errorf("%s: %+v", mode, d)
			}
			if mode == "udp" && !says(d.Findings, "receives on UDP port 8848", "ss -uanp") {
				t.Errorf("it is not said who shares the port: %+v", d.Findings)
			}
			select {
			case err := <-fed:
				if err != nil {
					t.Error(err)
				}
				done = true
			default:
			}
		}
		if d, _ := examine(t, b); mode == "copy" && (d.Program == nil || !strings.HasPrefix(d.Program.Name, "ipvs")) {
			t.Errorf("%+v", d.Program)
		}
		backup.stopWhenSeen(t)
		if got := strings.Count(backup.wait(t), "\n"); got != lines {
			t.Errorf("%s: %d of %d records arrived", mode, got, lines)
		}
	}
}

// What is in the way is named, with the command that removes it.
func TestDoctorFindings(t *testing.T) {
	long, _ := xsktest.VethPairWith(t, netns.VethOptions{MTU: 9000})
	if d, _ := examine(t, long); !says(d.Findings, "MTU of 9000", "--sync-maxlen 3774") {
		t.Errorf("%+v", d.Findings)
	}
	a, b := xsktest.VethPairWith(t, netns.VethOptions{MTU: 3000})
	d, _ := examine(t, a)
	if !says(d.Findings, "no zero-copy", "xsk-zerocopy") {
		t.Errorf("%+v", d.Findings)
	}

	// Another program is attached: the mode below XDP is found, and the program named.
	var rx *xsk.XDPRx
	err := a.NS.Do(func() (err error) {
		rx, err = xsk.OpenXDPRx(xsk.XDPConfig{Interface: a.Name, Port: 9, Local: a.Addr4})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	d, _ = examine(t, a)
	if d.Receive.Mode != "udp-gso" || len(d.Receive.Not) != 3 || !strings.Contains(d.Receive.Not[0].Do, "bpftool prog show id") {
		t.Errorf("%+v", d.Receive)
	}
	rx.Close()

	// No driver of its own to run XDP: the trap of trains on virtual devices.
	err = b.NS.Do(func() error {
		at := netlink.NewLinkAttrs()
		at.Name = "bridge0"
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: at}); err != nil {
			return err
		}
		l, err := netlink.LinkByName("bridge0")
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	bridge := b
	bridge.Name = "bridge0"
	d, _ = examine(t, bridge)
	if !says(d.Findings, "trains", "--mode udp-gso") || d.Receive.Mode != "udp-gso" {
		t.Errorf("%+v", d)
	}

	// Without an address it can receive, and not send.
	err = b.NS.Do(func() error {
		l, err := netlink.LinkByName(b.Name)
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		for i := range addrs {
			err = errors.Join(err, netlink.AddrDel(l, &addrs[i]))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	d, _ = examine(t, b)
	if !says(d.Findings, "no address", "ip address add") || d.Send.Mode != "" || d.Receive.Mode != "copy" ||
		len(d.Send.Not) != 1 || d.Send.Not[0].Mode != "auto" || !strings.Contains(d.Send.Not[0].Do, "ip address add") {
		t.Errorf("%+v", d)
	}

	// Down: nothing goes.
	if err := netns.SetLink(b.NS, b.Name, false); err != nil {
		t.Fatal(err)
	}
	if d, _ := examine(t, b); !says(d.Findings, "down", "ip link set veth0 up") {
		t.Errorf("%+v", d)
	}
}

// Rights that are missing are named, with what gives them.
func TestDoctorWithoutRights(t *testing.T) {
	a, _ := xsktest.VethPair(t)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &old); err != nil {
		t.Fatal(err)
	}
	low := unix.Rlimit{Cur: 64 << 10, Max: old.Max}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &low); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_MEMLOCK, &old)
	for _, tt := range []struct {
		caps          []uint
		send, receive string
		host          [][2]string // what, do
	}{
		{nil, "udp-gso", "udp-gso", [][2]string{{"CAP_NET_RAW", "setcap"}, {"CAP_BPF", "setcap"}, {"CAP_NET_ADMIN", "setcap"}}},
		{[]uint{unix.CAP_NET_RAW, unix.CAP_IPC_LOCK}, "copy", "udp-gso", [][2]string{{"CAP_BPF", "setcap"}}},
		{[]uint{unix.CAP_NET_RAW, unix.CAP_BPF, unix.CAP_NET_ADMIN}, "udp-gso", "udp-gso", nil},
	} {
		var d doctor.Device
		var h doctor.Host
		withCaps(t, a, tt.caps, func() { d, h = examineHere(t, a.Name) })
		if d.Send.Mode != tt.send || d.Receive.Mode != tt.receive {
			t.Errorf("%v: send %+v, receive %+v", tt.caps, d.Send, d.Receive)
		}
		for _, f := range tt.host {
			if !says(h.Findings, f[0], f[1]) {
				t.Errorf("%v: %+v does not name %v", tt.caps, h.Findings, f)
			}
		}
		if tt.host == nil && (!says(d.Findings, "RLIMIT_MEMLOCK is 64 KiB", "ulimit -l 8192") || !strings.Contains(d.Send.Not[1].Do, "LimitMEMLOCK")) {
			t.Errorf("%+v, %+v", d.Findings, d.Send.Not)
		}
	}
}

func examineHere(t *testing.T, iface string) (doctor.Device, doctor.Host) {
	r, err := doctor.Examine(doctor.Config{Interface: iface, Group: netip.MustParseAddr("224.0.0.81"), Port: 8848, Probe: doctor.Auto})
	if err != nil {
		t.Error(err)
		return doctor.Device{}, doctor.Host{}
	}
	return r.Interfaces[0], r.Host
}

// withCaps runs fn in the namespace of e on a thread that has only these
// capabilities, and ends the thread.
func withCaps(t *testing.T, e xsktest.End, caps []uint, fn func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		defer close(done)
		if err := unix.Setns(e.NS.Fd(), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		var data [2]unix.CapUserData
		for _, c := range caps {
			data[c/32].Effective |= 1 << (c % 32)
			data[c/32].Permitted = data[c/32].Effective
		}
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
			done <- err
			return
		}
		fn()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestDoctorCommandLine(t *testing.T) {
	for args, say := range map[string]string{
		"doctor --probe maybe":                                                "want auto, yes or no",
		"doctor --group 192.0.2.1":                                            "not multicast",
		"doctor --listen":                                                     "--listen belongs to --prove",
		"doctor --prove --listen":                                             "-i IF is missing",
		"doctor --prove -i lo":                                                "--listen at one host",
		"doctor --prove -i lo --listen --peer ::1":                            "--listen at one host",
		"doctor --prove -i lo --peer here":                                    `--peer "here"`,
		"doctor --prove -i lo --peer ::1 --count 0":                           "--count 0",
		"doctor --prove -i lo --peer ::1 --time 0s":                           "--time 0s",
		"doctor --prove -i lo --listen --prove-port 0":                        "--prove-port 0",
		"doctor --prove -i lo --peer 192.0.2.1:0":                             "--peer 192.0.2.1:0: port 0",
		"doctor --prove -i lo --peer 192.0.2.1 --multicast --group 192.0.2.1": "not multicast",
	} {
		var out bytes.Buffer
		err := run(context.Background(), strings.Fields(args), nil, &out, &out)
		if code := report(&out, err); code != exitUsage || !strings.Contains(out.String(), say) {
			t.Errorf("%s: exit code %d, want %q in %s", args, code, say, &out)
		}
	}
	var out bytes.Buffer
	if code := report(&out, run(t.Context(), []string{"doctor", "-i", "no-such0"}, nil, &out, &out)); code != exitError || !strings.Contains(out.String(), "no such interface") {
		t.Errorf("%d: %s", code, &out)
	}
}
