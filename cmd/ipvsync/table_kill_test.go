package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// numbered is connection n, all of whose fields follow from n.
func numbered(n uint32) ipvsync.Conn {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], 0x0a000000+n)
	dest := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}), uint16(n))
	return ipvsync.Conn{
		Client:  encoder.EndpointFrom(netip.AddrPortFrom(netip.AddrFrom4(a), 1024)),
		Virtual: encoder.EndpointFrom(netip.MustParseAddrPort("192.0.2.1:80")), Dest: encoder.EndpointFrom(dest),
		Protocol: encoder.TCP, State: encoder.State(1 + n%10), Fwmark: n, Timeout: 3000 + n%1000,
	}
}

// A backup with a table is killed by SIGKILL while updates flow, and started
// again: it has what its last snapshot had, and what came since it listens
// again. What is missing came after that snapshot; nothing is wrong.
func TestTableKilled(t *testing.T) {
	a, b := xsktest.VethPair(t)
	dir := t.TempDir()
	binary := filepath.Join(dir, "ipvsync")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	socket, snapshot := filepath.Join(dir, "s"), filepath.Join(dir, "table")
	start := func(log *signalWriter) *exec.Cmd {
		cmd := exec.Command(binary, "backup", "-i", b.Name, "--mode", "udp", "--table", "--table-entries", "200000",
			"--snapshot", snapshot, "--snapshot-interval", "100ms", "--listen", socket)
		cmd.Stderr = log
		if err := b.NS.Do(cmd.Start); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the backup listens", func() bool { return strings.Contains(log.String(), "listening on") })
		return cmd
	}
	log1, log2 := newSignalWriter(1), newSignalWriter(1)
	first := start(log1)
	defer first.Process.Kill()

	// The master: new connections, 20 000 a second, until it is told to stop.
	var sent atomic.Uint32 // numbers below were handed to the Sender
	var stop atomic.Bool
	var s *ipvsync.Sender
	err := a.NS.Do(func() (err error) {
		s, err = ipvsync.NewSender(ipvsync.SenderConfig{Link: ipvsync.Link{Interface: a.Name}, Shards: 1})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	type result struct {
		st  ipvsync.ResyncStats
		err error
	}
	done := make(chan result, 1)
	go func() {
		st, err := ipvsync.Resync(context.Background(), s, func(yield func(ipvsync.Conn) bool) {
			for !stop.Load() && yield(numbered(sent.Load())) {
				sent.Add(1)
			}
		}, ipvsync.ResyncConfig{Rate: 20000})
		done <- result{st, err}
	}()
	waitFor(t, "a snapshot has connections", func() bool { info, err := os.Stat(snapshot); return err == nil && info.Size() > 100_000 })

	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	killed := sent.Load()
	saved := map[uint32]bool{}
	f, err := os.Open(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	sr, err := ipvsync.NewSnapshotReader(f)
	for e := new(ipvsync.Entry); err == nil; {
		if err = sr.Read(e); err == nil {
			saved[e.Fwmark] = true
		}
	}
	f.Close()
	if err != io.EOF {
		t.Fatalf("the snapshot of a killed process: %v", err)
	}

	waitFor(t, "updates are lost", func() bool { return sent.Load() > killed+500 })
	second := start(log2)
	defer second.Process.Kill()
	listening := sent.Load() + 100 // a message or two may have been under way
	waitFor(t, "updates have come since", func() bool { return sent.Load() > listening+5000 })
	stop.Store(true)
	r := <-done
	if r.err != nil || r.st.Sent != uint64(sent.Load()) {
		t.Fatalf("%+v, %v", r.st, r.err)
	}
	last := numbered(sent.Load() - 1)
	waitFor(t, "the last has come", func() bool {
		return strings.Contains(show(t, socket, "--client", last.Client.String()), "TCP")
	})

	have := map[uint32]bool{}
	for line := range strings.Lines(show(t, socket, "--format", "json")) {
		var got struct {
			State, Client, Virtual, Dest string
			Fwmark, Timeout              uint32
			Expires                      float64
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		want := numbered(got.Fwmark)
		if got.State != want.StateName() || got.Client != want.Client.String() || got.Virtual != want.Virtual.String() ||
			got.Dest != want.Dest.String() || got.Timeout != want.Timeout || got.Expires > float64(want.Timeout)+0.125 || got.Expires < float64(want.Timeout)-30 {
			t.Fatalf("wrong: %s, want %v", line, &want)
		}
		have[got.Fwmark] = true
	}
	lost := 0
	for n := range sent.Load() {
		switch {
		case have[n]:
		case saved[n]:
			t.Fatalf("%v was in the snapshot, and is gone", n)
		case n >= listening:
			t.Fatalf("%v came after the start, and is gone", n)
		default:
			lost++
		}
	}
	t.Logf("%d sent, %d saved, killed at %d, listening again at %d: %d lost", sent.Load(), len(saved), killed, listening, lost)
	if lost == 0 || len(have)+lost != int(sent.Load()) {
		t.Errorf("%d in the table and %d lost of %d", len(have), lost, sent.Load())
	}
	if err := second.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := second.Wait(); err != nil {
		t.Errorf("%v\n%s", err, log2)
	}
	if said := log2.String(); !strings.Contains(said, "table restored") || !strings.Contains(said, fmt.Sprintf("loaded=%d ", len(saved))) {
		t.Errorf("the second says\n%s", said)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".table.*")); len(left) > 1 {
		t.Errorf("left behind: %v", left)
	}
}
