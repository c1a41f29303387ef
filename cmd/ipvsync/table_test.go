package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// tableBackup is a backup with a table at work, in this process.
type tableBackup struct {
	t      *testing.T
	end    xsktest.End
	socket string
	stop   context.CancelFunc
	ended  chan error
	stderr *signalWriter
}

// startTable starts one and waits until it listens to the network.
func startTable(t *testing.T, e xsktest.End, socket string, args ...string) *tableBackup {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	b := &tableBackup{t: t, end: e, socket: socket, stop: cancel, ended: make(chan error, 1), stderr: newSignalWriter(1)}
	t.Cleanup(cancel)
	args = append([]string{"backup", "-i", e.Name, "--mode", "udp", "--table", "--table-entries", "2000", "--listen", socket}, args...)
	go func() { b.ended <- runIn(ctx, e.NS, "", io.Discard, b.stderr, args...) }()
	waitFor(t, "the backup listens", func() bool {
		select {
		case err := <-b.ended:
			t.Fatalf("backup ended: %v\n%s", err, b.stderr)
		default:
		}
		return strings.Contains(b.stderr.String(), "listening on")
	})
	return b
}

// waitFor waits for something that no channel tells.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// show is ipvsync show.
func show(t *testing.T, socket string, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), append([]string{"show", "--from", "unix://" + socket}, args...), nil, &out, io.Discard); err != nil {
		t.Fatalf("show %v: %v", args, err)
	}
	return out.String()
}

// finish ends the backup as a signal does, and gives what it said.
func (b *tableBackup) finish() string {
	b.t.Helper()
	b.stop()
	select {
	case err := <-b.ended:
		if err != nil {
			b.t.Fatalf("backup: %v\n%s", err, b.stderr)
		}
	case <-time.After(20 * time.Second):
		b.t.Fatalf("backup does not end\n%s", b.stderr)
	}
	return b.stderr.String()
}

// A table is filled, shown, resynced from, saved and restored; a damaged snapshot
// costs the table, and nothing else.
func TestBackupTable(t *testing.T) {
	a, b := xsktest.VethPair(t)
	dir := t.TempDir()
	socket, snapshot := filepath.Join(dir, "s"), filepath.Join(dir, "table")
	backup := startTable(t, b, socket, "--snapshot", snapshot)
	lineT := `{"protocol":"udp","state":"ASSURED","client":"192.0.2.1:0","virtual":"198.51.100.1:5060","dest":"10.0.0.1:5060","flags":["TEMPLATE"],"timeout":70,"pe_name":"sip","pe_data":"YWJj"}`
	var stderr bytes.Buffer
	if err := runIn(t.Context(), a.NS, lineT+"\n"+lineA+"\n"+lineB, io.Discard, &stderr, "master", "-i", a.Name, "--strict"); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	waitFor(t, "three entries are shown", func() bool { return strings.Count(show(t, socket, "--format", "json"), "\n") == 3 })

	for _, tc := range []struct{ args, want, not string }{
		{"", "TCP 01:00  ESTABLISHED 192.0.2.1:1024     198.51.100.1:80    10.0.0.1:80\n", "accepted"},
		{"", "UDP 05:00  UDP         [2001:db8::1]:1024 [2001:db8::2]:53   [fd00::1]:53\n", ""},
		{"", `UDP 01:10  ASSURED     192.0.2.1:0        198.51.100.1:5060  10.0.0.1:5060 "sip" "abc"`, ""},
		{"--protocol tcp", "192.0.2.1:1024", "2001"},
		{"--client 192.0.2.0/24", "192.0.2.1:1024", "2001"},
		{"--client 2001:db8::/32", "[2001:db8::1]:1024", "192.0.2.1"},
		{"--virtual 198.51.100.1", "198.51.100.1:80", "2001"},
		{"--virtual 198.51.100.1:80", "198.51.100.1:80", "5060"},
		{"--dest [fd00::1]:53", "[fd00::1]:53", "10.0.0.1"},
		{"--state established", "ESTABLISHED", "ASSURED"},
		{"--templates", "ASSURED", "ESTABLISHED"},
		{"--connections", "ESTABLISHED", "ASSURED"},
		{"--format json --templates", `"pe_name":"sip"`, "198.51.100.1:80"},
		{"--count", "UDP ASSURED          1 templates\n", ""},
		{"--count", "all                  3\n", ""},
		{"--count --format json --state UDP", `"total":1`, ""},
	} {
		got := show(t, socket, strings.Fields(tc.args)...)
		if tc.args == "" { // a second may have passed
			got = strings.NewReplacer("00:59 ", "01:00 ", "04:59 ", "05:00 ", "01:09 ", "01:10 ").Replace(got)
		}
		if !strings.Contains(got, tc.want) || tc.not != "" && strings.Contains(got, tc.not) {
			t.Errorf("show %s: want %q, not %q:\n%s", tc.args, tc.want, tc.not, got)
		}
	}

	resynced := func(from string) {
		t.Helper()
		other := startBackup(t, a.NS, 3, "-i", a.Name, "--syncid", "9", "--count", "3", "--mode", "udp")
		stderr.Reset()
		if err := runIn(t.Context(), b.NS, "", io.Discard, &stderr, "resync", "--from", from, "-i", b.Name, "--syncid", "9", "--mode", "udp"); err != nil {
			t.Fatalf("%v\n%s", err, &stderr)
		}
		got := other.wait(t)
		// Connections first, and what is left of their lives.
		if lines := strings.Split(got, "\n"); len(lines) != 4 || !strings.Contains(lines[2], "TEMPLATE") ||
			!strings.Contains(got, `"client":"192.0.2.1:1024"`) || !strings.Contains(got, `"client":"[2001:db8::1]:1024"`) ||
			!strings.Contains(stderr.String(), "3 connections sent in ") {
			t.Errorf("resync --from %s:\n%s\n%s", from, got, &stderr)
		}
	}
	resynced("unix://" + socket)
	if said := backup.finish(); !strings.Contains(said, "no snapshot yet") || !strings.Contains(said, "table: 3 entries saved") ||
		!strings.Contains(said, "table: 3 entries; 3 records applied\ntable: 3 added\n") {
		t.Errorf("backup says\n%s", said)
	}
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
	resynced(snapshot)

	backup = startTable(t, b, socket, "--snapshot", snapshot)
	if got := show(t, socket, "--count"); !strings.Contains(got, "all                  3\n") {
		t.Errorf("restored:\n%s", got)
	}
	if said := backup.finish(); !strings.Contains(said, "table restored") || !strings.Contains(said, "loaded=3") {
		t.Errorf("backup says\n%s", said)
	}

	saved, err := os.ReadFile(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	saved[50] ^= 1
	if err := os.WriteFile(snapshot, saved, 0o600); err != nil {
		t.Fatal(err)
	}
	err = runIn(t.Context(), b.NS, "", io.Discard, io.Discard, "resync", "--from", snapshot, "-i", b.Name)
	if err == nil || !strings.Contains(err.Error(), "byte 32: ") {
		t.Errorf("resync from a damaged snapshot: %v", err)
	}
	backup = startTable(t, b, socket, "--snapshot", snapshot)
	if got := show(t, socket, "--count"); !strings.Contains(got, "all                  0\n") {
		t.Errorf("after damage:\n%s", got)
	}
	if said := backup.finish(); !strings.Contains(said, "snapshot is damaged") || !strings.Contains(said, "byte 32: ") {
		t.Errorf("backup says\n%s", said)
	}
	aside, _ := filepath.Glob(snapshot + ".damaged-*")
	if len(aside) != 1 {
		t.Fatalf("kept aside: %v", aside)
	}
	if kept, err := os.ReadFile(aside[0]); err != nil || !bytes.Equal(kept, saved) {
		t.Errorf("what was kept aside is not the damaged file: %v", err)
	}
}

func TestTableErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("Pro FromIP\nnonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	headless, empty := filepath.Join(dir, "headless"), filepath.Join(dir, "empty")
	if err := os.WriteFile(headless, []byte("TCP 0A580001 A2B4 0A580002 0050 0A630002 0050 ESTABLISHED     897\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args string
		code int
		say  string
	}{
		{"backup -i lo --snapshot x", exitUsage, "--table"},
		{"backup -i lo --listen x", exitUsage, "--table"},
		{"backup -i lo --table-entries 5", exitUsage, "--table-entries belongs to --table"},
		{"backup -i lo --snapshot-interval 1s", exitUsage, "--snapshot-interval belongs to --table"},
		{"backup -i lo --table --snapshot-interval 1s", exitUsage, "--snapshot-interval belongs to --snapshot"},
		{"resync --from " + file + " -i lo --group 192.0.2.1", exitUsage, "ipvsync: --group 192.0.2.1 is not multicast"},
		{"backup -i lo --table --count 1", exitUsage, "ipvsync show"},
		{"backup -i lo --table --table-entries 0", exitUsage, "--table-entries 0"},
		{"backup -i lo --table --snapshot x --snapshot-interval -1s", exitUsage, "--snapshot-interval -1s"},
		{"backup -i lo --table --table-entries 9 --listen " + file, exitError, "no socket"},
		{"backup -i lo --table --table-entries 9 --snapshot " + dir, exitError, "is a directory"},
		{"show --from unix://" + dir + "/none", exitError, "is ipvsync backup --table --listen running?"},
		{"show --from here", exitUsage, "unix://"},
		{"show --client here", exitUsage, "192.0.2.0/24"},
		{"show --protocol x", exitUsage, "tcp"},
		{"show --templates --connections", exitUsage, "nothing to show"},
		{"resync -i lo", exitUsage, "--from SOURCE is missing"},
		{"resync --from -", exitUsage, "-i IF is missing"},
		{"resync --from - -i lo --rate 0", exitUsage, "--rate 0"},
		{"resync --from - -i lo --burst 0", exitUsage, "--burst 0"},
		{"resync --from - -i lo --forward nat", exitUsage, "masq"},
		{"resync --from /no/such -i lo", exitError, "/no/such"},
		{"resync --from unix:///no/such -i lo", exitError, "is ipvsync backup"},
		{"resync --from " + file + " --services " + file + " -i lo", exitError, "ipvsadm -Sn"},
		{"resync --from " + file + " -i lo", exitError, "1 connections were not sent"},
		{"resync --from " + headless + " -i lo", exitError, headless + ": no listing of connections"},
		{"resync --from " + empty + " -i lo", exitError, "read " + empty + ": it is empty"},
		{"resync --from - -i lo", exitError, "read -: it is empty"},
		{"show --state ESTABLISHD", exitUsage, "no protocol has it"},
		{"show --state ESTABLISHED --protocol udp", exitUsage, "udp has"},
	} {
		var out bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // for a backup that starts after all
		err := run(ctx, strings.Fields(tc.args), strings.NewReader(""), &out, &out)
		cancel()
		if code := report(&out, err); code != tc.code || !strings.Contains(out.String(), tc.say) {
			t.Errorf("%s: exit code %d, want %q:\n%s", tc.args, code, tc.say, &out)
		}
	}
}
