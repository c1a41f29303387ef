package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk/netns"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// runIn runs the program inside a namespace.
func runIn(ctx context.Context, ns *netns.NS, stdin string, stdout, stderr io.Writer, args ...string) error {
	return ns.Do(func() error { return run(ctx, args, strings.NewReader(stdin), stdout, stderr) })
}

// backupProcess is a backup command at work.
type backupProcess struct {
	stop   context.CancelFunc
	ended  chan error
	out    *signalWriter
	stderr *signalWriter
}

// signalWriter closes seen when a number of lines has been written.
type signalWriter struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	lines int
	seen  chan struct{}
}

func newSignalWriter(lines int) *signalWriter {
	return &signalWriter{lines: lines, seen: make(chan struct{})}
}

func (w *signalWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(p)
	before := w.lines
	w.lines -= bytes.Count(p, []byte("\n"))
	if before > 0 && w.lines <= 0 {
		close(w.seen)
	}
	return len(p), nil
}

func (w *signalWriter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// startBackup starts a backup that is expected to print a number of records.
func startBackup(t *testing.T, ns *netns.NS, records int, args ...string) *backupProcess {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	b := &backupProcess{stop: cancel, ended: make(chan error, 1), out: newSignalWriter(records), stderr: newSignalWriter(1)}
	t.Cleanup(cancel)
	go func() { b.ended <- runIn(ctx, ns, "", b.out, b.stderr, append([]string{"backup"}, args...)...) }()
	select {
	case <-b.stderr.seen:
	case err := <-b.ended:
		t.Fatalf("backup ended: %v\n%s", err, b.stderr)
	}
	return b
}

// stopWhenSeen stops the backup when it has printed what is expected, as main
// does at SIGINT and SIGTERM: packets may still be on their way before.
func (b *backupProcess) stopWhenSeen(t *testing.T) {
	t.Helper()
	select {
	case <-b.out.seen:
	case <-time.After(20 * time.Second):
		t.Errorf("%d records are missing\n%s", b.out.lines, b.stderr)
	}
	b.stop()
}

// wait returns what the backup printed, when it has ended.
func (b *backupProcess) wait(t *testing.T) string {
	t.Helper()
	select {
	case err := <-b.ended:
		if err != nil {
			t.Fatalf("backup: %v\n%s", err, b.stderr)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("backup does not end\n%s", b.stderr)
	}
	return b.out.String()
}

const lineA = `{"accepted":true,"reason":"","family":"ipv4","protocol":"tcp","state":"ESTABLISHED","client":"192.0.2.1:1024","virtual":"198.51.100.1:80","dest":"10.0.0.1:80","flags":["INACTIVE"],"flags_raw":256,"fwmark":3,"timeout":60}`
const lineB = `{"accepted":true,"reason":"","family":"ipv6","protocol":"udp","state":"UDP","client":"[2001:db8::1]:1024","virtual":"[2001:db8::2]:53","dest":"[fd00::1]:53","flags":[],"flags_raw":0,"fwmark":0,"timeout":300,"options":[{"type":69,"data":"aGVsbG8="}]}`

// What master reads is what two backups on the other host print, to the byte;
// a bad line is named and costs nothing else.
func TestMasterToBackups(t *testing.T) {
	a, b := xsktest.VethPair(t)
	input := lineA + "\n\nnonsense\n" + lineB + "\n" + strings.Replace(lineB, `"udp"`, `"icmp"`, 1) + "\n" + lineA
	want := lineA + "\n" + lineB + "\n" + lineA + "\n"
	for _, group := range []string{"224.0.0.81", "ff02::81"} {
		args := []string{"-i", b.Name, "--syncid", "7", "--group", group, "--count", "3", "--mode", "udp-gso"} // AF_XDP is for one
		one, two := startBackup(t, b.NS, 3, args...), startBackup(t, b.NS, 3, args...)
		var stderr bytes.Buffer
		err := runIn(t.Context(), a.NS, input, io.Discard, &stderr, "master", "-i", a.Name, "--syncid", "7", "--group", group)
		if err != nil {
			t.Fatalf("master: %v\n%s", err, &stderr)
		}
		for _, say := range []string{"line 3: ", "line 5: ", "icmp", "3 records published, 3 sent", "2 bad lines"} {
			if !strings.Contains(stderr.String(), say) {
				t.Errorf("master does not say %q:\n%s", say, &stderr)
			}
		}
		for _, backup := range []*backupProcess{one, two} {
			if got := backup.wait(t); got != want {
				t.Errorf("backup printed\n%swant\n%s", got, want)
			}
			if say := "3 records, 3 accepted"; !strings.Contains(backup.stderr.String(), say) {
				t.Errorf("backup does not say %q:\n%s", say, backup.stderr)
			}
		}
	}
}

// In every mode the same comes through, and the log says which it is.
func TestModes(t *testing.T) {
	for _, mode := range []string{"", "copy", "generic", "udp-gso", "udp"} {
		a, b := xsktest.VethPair(t)
		args := []string{"--busy-poll", "--port", "9000"}
		if mode != "" {
			args = append(args, "--mode", mode)
		}
		backup := startBackup(t, b.NS, 2, slices.Concat([]string{"-i", b.Name, "--count", "2", "--ports", "2"}, args)...)
		var stderr bytes.Buffer
		if err := runIn(t.Context(), a.NS, lineA+"\n"+lineB, io.Discard, &stderr, slices.Concat([]string{"master", "-i", a.Name}, args)...); err != nil {
			t.Fatalf("%s: %v\n%s", mode, err, &stderr)
		}
		if got := backup.wait(t); got != lineA+"\n"+lineB+"\n" {
			t.Errorf("%s: backup printed %s", mode, got)
		}
		say := map[string]string{"": `mode="copy; not zerocopy: `}[mode]
		if say == "" {
			say = "mode=" + mode
		}
		for who, log := range map[string]string{"master": stderr.String(), "backup": backup.stderr.String()} {
			if !strings.Contains(log, say) {
				t.Errorf("%s does not say %q:\n%s", who, say, log)
			}
		}
	}
	a, _ := xsktest.VethPair(t)
	err := runIn(t.Context(), a.NS, "", io.Discard, io.Discard, "master", "-i", a.Name, "--mode", "zerocopy")
	if err == nil || !strings.Contains(err.Error(), "zero-copy") {
		t.Errorf("zero-copy on veth: %v", err)
	}
}

func TestMasterStrict(t *testing.T) {
	a, b := xsktest.VethPair(t)
	backup := startBackup(t, b.NS, 1, "-i", b.Name, "--count", "1")
	var stderr bytes.Buffer
	err := runIn(t.Context(), a.NS, lineA+"\nnonsense\n"+lineA, io.Discard, &stderr, "master", "-i", a.Name, "--strict")
	if err == nil || !strings.Contains(err.Error(), "line 2: ") || report(io.Discard, err) != exitError {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(stderr.String(), "1 records published, 1 sent") {
		t.Errorf("%s", &stderr)
	}
	if got := backup.wait(t); got != lineA+"\n" {
		t.Errorf("backup printed %s", got)
	}
}

// Version 0 carries what it can; what it cannot carry is a bad line.
func TestMasterVersion0(t *testing.T) {
	a, b := xsktest.VethPair(t)
	backup := startBackup(t, b.NS, 1, "-i", b.Name, "--count", "1")
	file := t.TempDir() + "/records"
	if err := os.WriteFile(file, []byte(lineB+"\n"+lineA+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	err := runIn(t.Context(), a.NS, "", io.Discard, &stderr, "master", "-i", a.Name, "--sync-version", "0", "--input", file)
	if err != nil || !strings.Contains(stderr.String(), "line 1: client: version 0 cannot carry it") {
		t.Errorf("%v\n%s", err, &stderr)
	}
	want := strings.NewReplacer(`"fwmark":3`, `"fwmark":0`, `"timeout":60`, `"timeout":0`).Replace(lineA) + "\n"
	if got := backup.wait(t); got != want {
		t.Errorf("backup printed\n%swant\n%s", got, want)
	}
}

// A signal ends backup cleanly: what arrived is printed, and the counters.
func TestBackupEndsBySignal(t *testing.T) {
	a, b := xsktest.VethPair(t)
	backup := startBackup(t, b.NS, 1, "-i", b.Name, "--syncid", "7")
	var stderr bytes.Buffer
	for _, id := range []string{"8", "7"} {
		if err := runIn(t.Context(), a.NS, lineA, io.Discard, &stderr, "master", "-i", a.Name, "--syncid", id); err != nil {
			t.Fatal(err)
		}
	}
	backup.stopWhenSeen(t)
	if got := backup.wait(t); got != lineA+"\n" {
		t.Errorf("backup printed %s", got)
	}
	for _, say := range []string{"2 messages", "1 records, 1 accepted", "messages ignored: 1 other syncid"} {
		if !strings.Contains(backup.stderr.String(), say) {
			t.Errorf("backup does not say %q:\n%s", say, backup.stderr)
		}
	}
}

// A signal ends a command that waits for somebody to open a pipe.
func TestPipeWithoutWriter(t *testing.T) {
	name := t.TempDir() + "/pipe"
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, args := range [][]string{{"decode", name}, {"master", "-i", "lo", "--input", name}} {
		if err := run(ctx, args, nil, io.Discard, io.Discard); !errors.Is(err, context.Canceled) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

// decode | master | backup gives the records of decode again.
func TestReplay(t *testing.T) {
	a, b := xsktest.VethPair(t)
	records := recordsOf(t, "../../encoder/testdata/golden/master-6.1.pcap")
	backup := startBackup(t, b.NS, strings.Count(records, "\n"), "-i", b.Name, "--syncid", "7")
	err := runIn(t.Context(), a.NS, records, io.Discard, io.Discard, "master", "-i", a.Name, "--syncid", "7", "--strict")
	if err != nil {
		t.Fatal(err)
	}
	backup.stopWhenSeen(t)
	if got := backup.wait(t); got != records {
		t.Errorf("backup printed\n%swant\n%s", got, records)
	}
}

// A large input is slowed down to what the network takes, and nothing is lost.
func TestMasterLargeInput(t *testing.T) {
	a, b := xsktest.VethPair(t)
	const lines = 100_000
	backup := startBackup(t, b.NS, lines, "-i", b.Name, "--rcvbuf", "100000000")
	var stderr bytes.Buffer
	if err := runIn(t.Context(), a.NS, strings.Repeat(lineA+"\n", lines), io.Discard, &stderr, "master", "-i", a.Name); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	backup.stopWhenSeen(t)
	if got := strings.Count(backup.wait(t), "\n"); got != lines {
		t.Errorf("%d records printed\n%s\n%s", got, &stderr, backup.stderr)
	}
}

func TestDemo(t *testing.T) {
	xsktest.RequireRoot(t, netns.Supported())
	var out bytes.Buffer
	if err := run(t.Context(), []string{"demo", "--duration", "700ms", "--rate", "20000"}, nil, &out, io.Discard); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, say := range []string{"veth pair", "master sends by AF_XDP, copy", "backup receives by AF_XDP, copy", "0.5 s", "tcp ", "accepted", "VERDICT: all "} {
		if !strings.Contains(out.String(), say) {
			t.Errorf("demo does not say %q:\n%s", say, &out)
		}
	}
}

func TestNetworkErrors(t *testing.T) {
	for _, tc := range []struct {
		args string
		code int
		say  []string
	}{
		{"master", exitUsage, []string{"-i IF is missing"}},
		{"backup", exitUsage, []string{"-i IF is missing"}},
		{"master -i no-such0", exitError, []string{"no such interface", "lo"}},
		{"backup -i no-such0", exitError, []string{"no such interface", "lo"}},
		{"master -i lo --maxlen 79", exitUsage, []string{"--maxlen 79", "80"}},
		{"master -i lo --port 0", exitUsage, []string{"--port 0", "8848"}},
		{"master -i lo --ttl 256", exitUsage, []string{"--ttl 256"}},
		{"master -i lo --sync-version 2", exitUsage, []string{"--sync-version 2"}},
		{"master -i lo --peer here", exitUsage, []string{"here", "192.0.2.1:8848"}},
		{"master -i lo --group ", exitUsage, []string{"--peer"}},
		{"backup -i lo --group ", exitUsage, []string{"--unicast"}},
		{"master -i lo --flush-interval -1s", exitUsage, []string{"--flush-interval -1s"}},
		{"master -i lo --group 192.0.2.1", exitUsage, []string{"ipvsync: --group 192.0.2.1 is not multicast"}},
		{"backup -i lo --group 192.0.2.1", exitUsage, []string{"ipvsync: --group 192.0.2.1 is not multicast"}},
		{"backup -i lo --mode copy --group 192.0.2.1", exitUsage, []string{"ipvsync: --group 192.0.2.1 is not multicast"}},
		{"master -i lo --peer 192.0.2.1:0", exitUsage, []string{"ipvsync: --peer 192.0.2.1:0: port 0, want 1 to 65535"}},
		{"master -i lo --peer 224.0.0.81:8848", exitUsage, []string{"ipvsync: --peer 224.0.0.81:8848: want a unicast address"}},
		{"master -i lo --queues 0,7", exitUsage, []string{"ipvsync: --queues are 2, ports 1"}},
		{"backup -i lo --queues -1", exitUsage, []string{"ipvsync: --queues has queue -1"}},
		{"backup -i lo --queues 0,0", exitUsage, []string{"ipvsync: --queues has queue 0, which is negative or there twice"}},
		{"backup -i lo --ports 65", exitUsage, []string{`"65" for "--ports"`, "from 1 to 64"}},
		{"backup -i lo --ports 0", exitUsage, []string{`"0" for "--ports"`, "from 1 to 64"}},
		{"backup -i lo --port 65535 --ports 2", exitUsage, []string{"ipvsync: --ports 2 from port 65535 on go past 65535"}},
		{"backup -i lo --rcvbuf -1", exitUsage, []string{`"-1" for "--rcvbuf"`, "from 1 to 2147483647"}},
		{"backup -i lo --rcvbuf 4294967296", exitUsage, []string{`"4294967296" for "--rcvbuf"`, "from 1 to 2147483647"}},
		{"master -i lo --input /no/such", exitError, []string{"/no/such"}},
		{"master -i lo --syncid 256", exitUsage, []string{"255"}},
		{"master -i lo --mode fast", exitUsage, []string{"fast", "zerocopy"}},
		{"demo --rate 0", exitUsage, []string{"--rate 0"}},
		{"demo --workers 0", exitUsage, []string{"--workers 0"}},
		{"demo --duration 0s", exitUsage, []string{"--duration 0s"}},
		{"demo --connections 1", exitUsage, []string{"--connections 1"}},
	} {
		var out bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // for a backup that starts after all
		err := run(ctx, strings.Split(tc.args, " "), strings.NewReader(""), &out, &out)
		cancel()
		if code := report(&out, err); code != tc.code {
			t.Errorf("%s: exit code %d\n%s", tc.args, code, &out)
		}
		for _, say := range tc.say {
			if !strings.Contains(out.String(), say) {
				t.Errorf("%s: does not say %q:\n%s", tc.args, say, &out)
			}
		}
	}
	a, _ := xsktest.VethPair(t)
	var out bytes.Buffer
	err := runIn(t.Context(), a.NS, "", &out, &out, "master", "-i", a.Name, "--maxlen", "1473")
	if err == nil || !strings.Contains(err.Error(), "1472") {
		t.Errorf("%v", err)
	}
}
