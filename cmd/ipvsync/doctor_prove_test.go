package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/prove"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// startListener starts doctor --prove --listen at e.
func startListener(t *testing.T, e xsktest.End, args ...string) (stop context.CancelFunc, ended chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	ended = make(chan error, 1)
	stderr := newSignalWriter(1)
	go func() {
		ended <- runIn(ctx, e.NS, "", io.Discard, stderr, append([]string{"doctor", "--prove", "-i", e.Name, "--listen"}, args...)...)
	}()
	select {
	case <-stderr.seen:
	case err := <-ended:
		t.Fatalf("the listener ended: %v\n%s", err, stderr)
	}
	return cancel, ended
}

func waitEnded(t *testing.T, ended chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("the listener does not end")
		return nil
	}
}

// Each mode is proved that both ends can have, and what cannot be had is said. A
// run is short enough for every buffer on the way, so that nothing may be lost.
func TestProve(t *testing.T) {
	const count = 200 // fewer than the 256 entries of VETH_RING_SIZE
	for _, tt := range []struct {
		name string
		args func(b xsktest.End) []string
	}{
		{"IPv4", func(b xsktest.End) []string { return []string{"--peer", b.Addr4.String()} }},
		{"IPv6", func(b xsktest.End) []string { return []string{"--peer", "[" + b.Addr6.String() + "]:18848"} }},
		{"multicast", func(b xsktest.End) []string { return []string{"--peer", b.Addr4.String(), "--multicast"} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := xsktest.VethPair(t)
			_, ended := startListener(t, b)
			var out bytes.Buffer
			args := append([]string{"doctor", "--prove", "-i", a.Name, "--json", "--count", "200", "--time", "20s"}, tt.args(b)...)
			if err := runIn(t.Context(), a.NS, "", &out, io.Discard, args...); err != nil {
				t.Fatalf("%v\n%s", err, &out)
			}
			if err := waitEnded(t, ended); err != nil {
				t.Errorf("the listener: %v", err)
			}
			var r prove.Result
			if err := json.Unmarshal(out.Bytes(), &r); err != nil || len(r.Runs) != 5 {
				t.Fatalf("%v\n%s", err, &out)
			}
			if r.Here.Driver != "veth" || r.Peer.Driver != "veth" || r.Peer.Kernel == "" {
				t.Errorf("%+v, %+v", r.Here, r.Peer)
			}
			for i, mode := range []string{"zerocopy", "copy", "generic", "udp-gso", "udp"} {
				run := &r.Runs[i]
				if run.Mode != mode {
					t.Fatalf("%+v, want %s", run, mode)
				}
				if mode == "zerocopy" {
					if !strings.Contains(run.Send.Why, "zero-copy") || !strings.Contains(run.Receive.Why, "zero-copy") || run.Sent != 0 {
						t.Errorf("%+v", run)
					}
					continue
				}
				c := &run.Count
				if run.Send.Mode != mode || run.Receive.Mode != mode || run.Send.ZeroCopy || run.Receive.ZeroCopy || run.Error != "" {
					t.Errorf("%+v", run)
				}
				if run.Sent != count || c.Arrived != count || run.Lost != 0 || c.Records != run.Records || c.Records < count*20 ||
					c.Duplicates+c.Reordered+c.Refused+c.Foreign != 0 || run.SendRate <= 0 {
					t.Errorf("%+v", run)
				}
			}
		})
	}
}

// Without a listener, and without a prover, it is said what to do.
func TestProveAlone(t *testing.T) {
	a, b := xsktest.VethPair(t)
	err := runIn(t.Context(), a.NS, "", io.Discard, io.Discard, "doctor", "--prove", "-i", a.Name, "--peer", b.Addr4.String())
	if err == nil || !strings.Contains(err.Error(), "--listen") {
		t.Errorf("%v", err)
	}
	_, ended := startListener(t, b, "--timeout", "50ms")
	if err := waitEnded(t, ended); err == nil || !strings.Contains(err.Error(), "no prover came") {
		t.Errorf("%v", err)
	}
	stop, ended := startListener(t, b)
	stop()
	if err := waitEnded(t, ended); err == nil {
		t.Error("no error from a listener that was stopped")
	}
}

// The table is for people: what was sent, what arrived, what was not shown.
func TestProveText(t *testing.T) {
	a, b := xsktest.VethPair(t)
	_, ended := startListener(t, b)
	var out bytes.Buffer
	if err := runIn(t.Context(), a.NS, "", &out, io.Discard, "doctor", "--prove", "-i", a.Name, "--peer", b.Addr4.String(), "--count", "100"); err != nil {
		t.Fatal(err)
	}
	if err := waitEnded(t, ended); err != nil {
		t.Error(err)
	}
	for _, say := range []string{"from veth0 (veth, Linux ", "at 10.99.0.2:18848", "neither end can have this mode", "copy      copy      copy ", "0.000%", "zero-copy: not shown here"} {
		if !strings.Contains(out.String(), say) {
			t.Errorf("does not say %q:\n%s", say, &out)
		}
	}
}
