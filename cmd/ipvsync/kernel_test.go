package main

import (
	"bytes"
	"encoding/json"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipvsync/ipvsync/encoder/kernellab"
)

// recordsOf is decode FILE | jq -c '.records[]'.
func recordsOf(t *testing.T, file string) string {
	t.Helper()
	var out, stderr bytes.Buffer
	if err := run(t.Context(), []string{"decode", file}, nil, &out, &stderr); err != nil {
		t.Fatalf("decode %s: %v\n%s", file, err, &stderr)
	}
	var records strings.Builder
	for line := range strings.Lines(out.String()) {
		var m struct {
			Error   string
			Records []json.RawMessage
		}
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		if m.Error != "" {
			t.Errorf("%s: %s", file, m.Error)
		}
		for _, r := range m.Records {
			records.Write(r)
			records.WriteByte('\n')
		}
	}
	return records.String()
}

// A capture of a stock master's traffic goes through decode, and through
// decode | master into the table of a stock backup.
func TestKernelReplay(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves the kernel lab out")
	}
	for _, k := range kernellab.Kernels {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			g := kernellab.Boot(t, k)
			file := filepath.Join(t.TempDir(), "master.pcap")
			m := kernellab.NewMaster(t, g, 1, kernellab.DaemonOptions{})
			stop := g.Capture(t, file)
			m.Play(t, kernellab.Steps...)
			stop()
			records := recordsOf(t, file)

			g.Reset(t)
			g.StartBackup(t, 9, kernellab.DaemonOptions{})
			var stderr bytes.Buffer
			err := runIn(t.Context(), g.NS(), records, io.Discard, &stderr, "master", "-i", kernellab.TapName, "--syncid", "9", "--strict")
			if err != nil {
				t.Fatalf("master: %v\n%s", err, &stderr)
			}
			g.Settle(t)
			listed := map[string]string{}
			for _, c := range g.Conns(t) {
				listed[c.Client.String()+" "+c.Virtual.String()+" "+c.PEData] = c.State
			}
			// The last record of each connection is what the table must hold.
			want := map[string]string{}
			for line := range strings.Lines(records) {
				var r struct {
					Client, Virtual, State string
					Timeout                int
					PEData                 []byte `json:"pe_data"`
				}
				if err := json.Unmarshal([]byte(line), &r); err != nil {
					t.Fatal(err)
				}
				key := r.Client + " " + r.Virtual + " " + string(r.PEData)
				want[key] = r.State
				if r.Timeout < 30 { // CLOSE lasts 10 s: it may be over
					delete(want, key)
					delete(listed, key)
				}
			}
			if len(want) < 100 {
				t.Errorf("only %d connections were replayed", len(want))
			}
			for key, state := range want {
				if listed[key] != state {
					t.Errorf("%s: sent %s, listed %q", key, state, listed[key])
				}
				delete(listed, key)
			}
			for key := range listed {
				t.Errorf("%s: listed, but never sent", key)
			}
		})
	}
}
