package kernellab

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "capture the golden messages of the encoder anew")

const goldenDir = "../testdata/golden"

// TestGolden captures messages of real masters. With -update it also writes
// them to encoder/testdata/golden: one file for each step of traffic, and a
// capture of everything.
func TestGolden(t *testing.T) {
	if !*update {
		t.Skip("writes files only with -update; TestLab checks the traffic")
	}
	if err := os.MkdirAll(goldenDir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, k := range Kernels {
		t.Run(string(k), func(t *testing.T) {
			g := Boot(t, k)
			for version := range 2 {
				if version > 0 {
					g.Reset(t)
				}
				pcap := fmt.Sprintf("master-%s.pcap", k)
				if version == 0 {
					pcap = fmt.Sprintf("master-%s-v0.pcap", k)
				}
				m := NewMaster(t, g, version, DaemonOptions{})
				stop := g.Capture(t, filepath.Join(goldenDir, pcap))
				for _, s := range Steps {
					if version == 0 && !s.Version0 {
						continue
					}
					writeGoldens(t, s.Name, g, version, s.Commands, m.Play(t, s))
				}
				stop()
			}
			// Everything at once: records of all kinds share messages.
			g.Reset(t)
			m := NewMaster(t, g, 1, DaemonOptions{})
			mix := []Step{step("sip-pe"), step("seq"), step("ipv6-tcp"), step("persistence-template"),
				step("fwmark"), step("udp"), step("ipv4-tcp-established")}
			var commands []string
			for _, s := range mix {
				commands = append(commands, s.Commands)
			}
			writeGoldens(t, "mixed", g, 1, strings.Join(commands, "; "), m.Play(t, mix...))
		})
	}
}

// step finds a step by its name.
func step(name string) Step {
	for _, s := range Steps {
		if s.Name == name {
			return s
		}
	}
	panic("no step " + name)
}

// writeGoldens writes the messages of some traffic, numbered if there are several.
func writeGoldens(t *testing.T, name string, g *Guest, version int, commands string, msgs [][]byte) {
	t.Helper()
	for i, msg := range msgs {
		file := fmt.Sprintf("v%d-%s-%s", version, name, g.Kernel())
		if len(msgs) > 1 {
			file += fmt.Sprintf("-%d", i+1)
		}
		writeGolden(t, file, g, version, commands, msg)
	}
}

// writeGolden writes one message: comment lines, then hexadecimal digits.
func writeGolden(t *testing.T, name string, g *Guest, version int, commands string, msg []byte) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "# Sent by the master daemon of Linux %s (Debian), captured %s.\n",
		g.Release(), time.Now().UTC().Format(time.DateOnly))
	fmt.Fprintf(&b, "# sync_version=%d sync_threshold=\"1 0\" (unless said below); ipvsadm --start-daemon master --syncid %d --mcast-interface eth0\n",
		version, MasterSyncID)
	fmt.Fprintf(&b, "# Traffic: %s.\n", commands)
	fmt.Fprintf(&b, "# Services as in encoder/kernellab/master.sh. Made by: go test ./encoder/kernellab -run TestGolden -update\n")
	fmt.Fprintf(&b, "# %d bytes, %d records.\n", len(msg), len(Records([][]byte{msg})))
	for len(msg) > 0 {
		n := min(32, len(msg))
		fmt.Fprintf(&b, "%x\n", msg[:n])
		msg = msg[n:]
	}
	if err := os.WriteFile(filepath.Join(goldenDir, name+".hex"), []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
