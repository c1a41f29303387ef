package kernellab

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestLab runs everything that a kernel can be asked, on one guest of each kernel,
// side by side.
func TestLab(t *testing.T) {
	if testing.Short() {
		t.Skip("-short boots no guest")
	}
	for _, k := range Kernels {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			g := Boot(t, k)
			t.Logf("booted Linux %s in %v", g.Release(), g.BootTime().Round(time.Millisecond))
			for _, test := range []struct {
				name string
				run  func(t *testing.T, g *Guest)
			}{
				{"guest", testGuest},
				{"backup", testBackup},
				{"master", testMaster},
				{"facts", testFacts},
				{"replaced", testReplaced},
				{"timeouts", testTimeouts},
				{"addressing", testAddressing},
			} {
				t.Run(test.name, func(t *testing.T) { test.run(t, g) })
				g.Reset(t)
			}
		})
	}
}

// testGuest checks the machine itself: control, files, background programs, and
// what a Reset leaves.
func testGuest(t *testing.T, g *Guest) {
	if got := strings.TrimSpace(g.Run(t, "uname -r")); got != g.Release() {
		t.Errorf("uname -r = %q, want %q", got, g.Release())
	}
	out, code, err := g.RunErr(t.Context(), "echo out; echo err >&2; exit 3")
	if err != nil || code != 3 || out != "out\nerr\n" {
		t.Errorf("RunErr = %q, %d, %v", out, code, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, _, err := g.RunErr(ctx, "sleep 100"); err == nil {
		t.Error("RunErr outlived its context")
	}

	// The static busybox of the host stands for any static program, padded
	// to the size of a Go binary.
	path, err := look("busybox")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	program = append(program, bytes.Repeat([]byte("padding "), 1<<20)...)
	g.Put(t, "/lab/dir/busybox", program)
	t.Logf("put %d bytes in %v", len(program), time.Since(start).Round(time.Millisecond))
	d := g.Start(t, "/lab/dir/busybox sh -c 'echo \"it'\\''s up\"; sleep 1000'")
	for deadline := time.Now().Add(5 * time.Second); d.Output(t) == "" && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	if got := d.Stop(t); got != "it's up\n" {
		t.Errorf("background program wrote %q", got)
	}

	g.Run(t, "ip link add gone type dummy; ipvsadm -A -t 10.88.0.2:80; sysctl -qw net.ipv4.vs.sync_version=0")
	start = time.Now()
	g.Reset(t)
	t.Logf("reset in %v", time.Since(start).Round(time.Millisecond))
	got := g.Run(t, "ls /sys/class/net 2>/dev/null | grep -c x; ip -br link | cut -d' ' -f1; ipvsadm -Sn; cat /proc/sys/net/ipv4/vs/sync_version")
	if want := "0\nlo\neth0@if2\n1\n"; got != want {
		t.Errorf("after Reset: %q, want %q", got, want)
	}
}

// testBackup sends single-record messages by hand, over IPv4 and IPv6 groups.
func testBackup(t *testing.T, g *Guest) {
	for _, o := range []DaemonOptions{
		{},
		{Group: SyncGroup6},
		{Group: netip.MustParseAddr("239.1.2.3"), Port: 9000, MaxLen: 1000, TTL: 2},
	} {
		g.StartBackup(t, 7, o)
		// IPv4 TCP 198.51.100.1:1000 to 10.0.0.1:80 at 10.0.0.2:8080, FIN_WAIT, 200 s.
		msg := []byte("\x00\x07\x00\x2c\x01\x01\x00\x00" +
			"\x00\x06\x00\x24\x00\x00\x00\x00\x00\x04\x03\xe8\x00\x50\x1f\x90\x00\x00\x00\x00\x00\x00\x00\xc8" +
			"\xc6\x33\x64\x01\x0a\x00\x00\x01\x0a\x00\x00\x02")
		g.send(t, o.addr(), msg)
		g.Settle(t)
		conns := g.ConnsSync(t)
		if len(conns) != 1 {
			t.Fatalf("%+v: %d connections, want 1: %v\n%s", o, len(conns), conns, g.RawConns(t))
		}
		want := "TCP 198.51.100.1:1000>10.0.0.1:80>10.0.0.2:8080 FIN_WAIT SYNC"
		if got := conns[0].String(); got != want {
			t.Errorf("%+v: listed %s, want %s", o, got, want)
		}
		if e := conns[0].Expires; e < 190 || e > 200 {
			t.Errorf("%+v: expires in %d s, want 200", o, e)
		}
		g.Reset(t)
		if conns := g.Conns(t); len(conns) != 0 {
			t.Errorf("after Reset: %v", conns)
		}
	}
	// A burst, right after the start, arrives whole.
	const burst = 500
	g.StartBackup(t, 7, DaemonOptions{})
	for i := range burst {
		g.send(t, DaemonOptions{}.addr(), msg(1, netip.MustParseAddr("10.200.0.1"), []rec{{state: 1, cport: i + 1}}))
	}
	g.Settle(t)
	if n := len(g.Conns(t)); n != burst {
		t.Errorf("%d connections of a burst of %d", n, burst)
	}
	if log := g.Dmesg(t); !strings.Contains(log, "IPVS: sync thread started: state = BACKUP") {
		t.Errorf("kernel's log lacks the backup's start:\n%s", tail(log, 20))
	}
}

// testMaster checks that a master tells every kind of record, in both versions.
func testMaster(t *testing.T, g *Guest) {
	m := NewMaster(t, g, 1, DaemonOptions{Group: SyncGroup6, Port: 8900})
	msgs := m.Play(t, Steps...)
	t.Logf("version 1: %d messages, %d records", len(msgs), len(Records(msgs)))
	for _, msg := range msgs {
		if len(msg) < 44 || msg[0] != 0 || msg[1] != MasterSyncID || msg[5] != 1 {
			t.Errorf("not a message of version 1: %x", msg)
		}
	}
	g.Reset(t)
	m = NewMaster(t, g, 0, DaemonOptions{})
	var steps []Step
	for _, s := range Steps {
		if s.Version0 {
			steps = append(steps, s)
		}
	}
	msgs = m.Play(t, steps...)
	t.Logf("version 0: %d messages, %d records", len(msgs), len(Records(msgs)))
	for _, msg := range msgs {
		if len(msg) < 28 || msg[0] == 0 || msg[1] != MasterSyncID {
			t.Errorf("not a message of version 0: %x", msg)
		}
	}
}

// TestDeath checks that the end of a guest is noticed, and the reason shown.
func TestDeath(t *testing.T) {
	if testing.Short() {
		t.Skip("-short boots no guest")
	}
	g := Boot(t, Linux61)
	start := time.Now()
	_, _, err := g.RunErr(t.Context(), "echo c >/proc/sysrq-trigger; sleep 100")
	if err == nil || !strings.Contains(err.Error(), errDied.Error()) {
		t.Errorf("RunErr after a crash: %v", err)
	}
	if !strings.Contains(g.Console(), "Kernel panic") {
		t.Errorf("console does not show the panic:\n%s", g.Console())
	}
	t.Logf("noticed after %v", time.Since(start).Round(time.Millisecond))
}

// TestOrphan checks that a guest does not outlive a killed test process.
func TestOrphan(t *testing.T) {
	if testing.Short() {
		t.Skip("-short boots no guest")
	}
	const child = "KERNELLAB_TEST_CHILD"
	if os.Getenv(child) != "" {
		g := Boot(t, Linux61)
		os.Stdout.WriteString("PID " + g.pid() + "\n")
		select {}
	}
	Boot(t, Linux61) // skips where there is no lab, and fills the cache
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOrphan$")
	cmd.Env = append(os.Environ(), child+"=1")
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var out []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(out, []byte("PID ")) || !bytes.HasSuffix(out, []byte("\n")) {
		n, err := pipe.Read(buf)
		if out = append(out, buf[:n]...); err != nil {
			t.Fatalf("child ended: %v\n%s", err, out)
		}
	}
	_, pid, _ := strings.Cut(string(out), "PID ")
	proc := "/proc/" + strings.TrimSpace(pid)
	if !exists(proc) {
		t.Fatalf("no QEMU at %s", proc)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for deadline := time.Now().Add(10 * time.Second); exists(proc); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("QEMU %s outlived the process that started it", proc)
		}
	}
}

// pid returns the process id of QEMU.
func (g *Guest) pid() string { return strconv.Itoa(g.cmd.Process.Pid) }
