package bench

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/encoder/kernellab"
)

// The kernel as an opponent, in the guest of the kernel lab. Its processor is
// emulated, some twenty times slower than the host's: only ratios and counts
// mean anything. `make bench-kernel` runs these; -short leaves them out.

func bootKernel(b *testing.B, k kernellab.Kernel) *kernellab.Guest {
	if testing.Short() {
		b.Skip("-short leaves the kernel lab out")
	}
	return kernellab.Boot(b, k)
}

// stockBuffer is net.core.rmem_default of a stock kernel: both receivers have it.
// It holds some 90 messages.
const stockBuffer = 212992

const (
	guestStep  = time.Second // at each rate
	guestFlows = 20_000      // told over and over
	guestFirst = 20_000      // records a second of the first step; each is a fifth more
	guestLast  = 4_000_000
)

// BenchmarkKernelFirstLoss: the stock kernel's backup and `ipvsync backup` receive
// the same stream, side by side or alone. Mrec/s is the highest rate of a second
// at which nothing was lost, lost-% what was at the next, cpu-ns/rec what the
// backup's thread, or our process, used until then.
func BenchmarkKernelFirstLoss(b *testing.B) {
	for _, k := range []kernellab.Kernel{kernellab.Linux61, kernellab.Linux612} {
		b.Run(fmt.Sprintf("Linux %s", k), func(b *testing.B) {
			g := bootKernel(b, k)
			g.Put(b, "/run/ipvsync", buildCommand(b))
			for _, c := range []struct {
				name         string
				ours, theirs bool
			}{{"side by side", true, true}, {"each alone", true, false}} {
				b.Run(c.name, func(b *testing.B) {
					for b.Loop() {
						var results [2]firstLoss
						if c.theirs {
							results = streamInto(b, g, true, true)
						} else {
							results[0] = streamInto(b, g, true, false)[0]
							results[1] = streamInto(b, g, false, true)[1]
						}
						for i, prefix := range []string{"", "opponent-"} {
							r := &results[i]
							b.ReportMetric(r.rate/1e6, prefix+"Mrec/s")
							b.ReportMetric(r.lost, prefix+"lost-%")
							b.ReportMetric(r.cpu, prefix+"cpu-ns/rec")
						}
						b.ReportMetric(results[0].rate/results[1].rate, "x")
						b.ReportMetric(0, "ns/op") // of no meaning
					}
				})
			}
		})
	}
}

// buildCommand is the ipvsync binary.
func buildCommand(b *testing.B) []byte {
	path := filepath.Join(b.TempDir(), "ipvsync")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "github.com/ipvsync/ipvsync/cmd/ipvsync")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("build: %v\n%s", err, out)
	}
	binary, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	return binary
}

// firstLoss is what a receiver came to.
type firstLoss struct {
	rate float64 // records a second, the highest without a loss
	lost float64 // percent, at the first rate with one
	cpu  float64 // ns of the guest for a record, up to the last step without a loss
	done bool
}

// backups are the receivers of a guest: ours, and the kernel's.
type backups struct {
	b    *testing.B
	g    *kernellab.Guest
	pids [2]string // "" of one that does not run
}

// streamInto steps up the rate until each receiver has lost something.
func streamInto(b *testing.B, g *kernellab.Guest, ours, theirs bool) (results [2]firstLoss) {
	g.Reset(b)
	g.Run(b, fmt.Sprint("nsenter --net=/proc/1/ns/net sysctl -qw net.core.rmem_default=", stockBuffer))
	w := &backups{b: b, g: g}
	if theirs {
		g.StartBackup(b, 0, kernellab.DaemonOptions{})
		w.pids[1] = w.wait(`grep -lE '^(ipvs-b:|ipvs_backup)' /proc/[0-9]*/comm | cut -d/ -f3 | tail -1`)
	}
	if ours { // SO_RCVBUF is doubled by the kernel
		// A script of Run is in the namespace of the guest's IPVS, and so is this.
		d := g.Start(b, fmt.Sprintf("/run/ipvsync backup -i eth0 --mode udp --table --rcvbuf %d", stockBuffer/2))
		defer d.Stop(b)
		w.pids[0] = w.wait(`for p in /proc/[0-9]*; do [ "$(readlink $p/exe)" = /run/ipvsync ] && grep -q :2290 $p/net/udp && echo ${p#/proc/}; done | tail -1`)
		w.wait(`[ -n "` + w.pids[0] + `" ] && ls -l /proc/` + w.pids[0] + `/fd | grep -o 'socket:.*' | head -1`)
	}
	for i := range results {
		results[i].done = w.pids[i] == ""
	}
	sent := 0
	began := w.cpu()
	for rate := float64(guestFirst); rate < guestLast && !(results[0].done && results[1].done); rate *= 1.2 {
		before := w.drops()
		n := w.send(rate)
		w.settled()
		drops, cpu := w.drops(), w.cpu()
		sent += n * recordsPerMessage
		for i := range results {
			r := &results[i]
			if r.done {
				continue
			}
			if d := drops[i] - before[i]; d > 0 {
				r.done, r.lost = true, 100*float64(d)/float64(n)
				continue
			}
			r.rate = rate
			r.cpu = float64((cpu[i] - began[i]).Nanoseconds()) / float64(sent)
		}
	}
	return results
}

// wait runs a script of the guest until it prints something.
func (w *backups) wait(script string) string {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if out := strings.TrimSpace(w.g.Run(w.b, script+"; true")); out != "" {
			return out
		}
	}
	w.b.Fatalf("waited in vain for: %s", script)
	return ""
}

// send sends messages at a rate of records, for guestStep, and returns how many.
func (w *backups) send(rate float64) (n int) {
	all := flows(guestFlows)
	message := make([]byte, messageSize)
	n = max(1, int(rate*guestStep.Seconds())/recordsPerMessage)
	err := w.g.NS().Do(func() error {
		c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: group.AsSlice(), Port: port})
		if err != nil {
			return err
		}
		defer c.Close()
		start := time.Now()
		for i := range n {
			at := i * recordsPerMessage % (guestFlows - recordsPerMessage)
			encode(message, all[at:at+recordsPerMessage])
			sleepUntil(start.Add(time.Duration(float64(i) / float64(n) * float64(guestStep))))
			if _, err := c.Write(message); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		w.b.Fatal(err)
	}
	return n
}

// sockets are the lines of the guest's UDP sockets on the port: ours and the
// kernel's, by the inodes that our process has open.
func (w *backups) sockets() (found [2][]string) {
	script := "cat /proc/thread-self/net/udp"
	if w.pids[0] != "" {
		script += "; ls -l /proc/" + w.pids[0] + "/fd"
	}
	out := w.g.Run(w.b, script)
	for _, line := range strings.Split(out, "\n") {
		f := strings.Fields(line)
		if len(f) < 13 || !strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
			continue
		}
		i := 1
		if strings.Contains(out, "socket:["+f[9]+"]") {
			i = 0
		}
		found[i] = f
	}
	for i := range found {
		if (found[i] != nil) != (w.pids[i] != "") {
			w.b.Fatalf("sockets on port %d are not those of the receivers %q:\n%s", port, w.pids, out)
		}
	}
	return found
}

// drops are the datagrams that found a socket full, so far.
func (w *backups) drops() (n [2]int) {
	for i, f := range w.sockets() {
		if f != nil {
			n[i], _ = strconv.Atoi(f[12])
		}
	}
	return n
}

// settled waits until no socket holds anything any more.
func (w *backups) settled() {
	for end, quiet := time.Now().Add(30*time.Second), 0; quiet < 2; {
		quiet++
		for _, f := range w.sockets() {
			if f != nil && !strings.HasSuffix(f[4], ":00000000") {
				quiet = 0
			}
		}
		if time.Now().After(end) {
			w.b.Fatal("a receiver does not empty its socket")
		}
	}
}

// cpu is what the kernel's thread, and our process, have used so far.
func (w *backups) cpu() (used [2]time.Duration) {
	for i, pid := range w.pids {
		if pid == "" {
			continue
		}
		text := w.g.Run(w.b, "cat /proc/"+pid+"/stat")
		_, rest, _ := strings.Cut(text, ") ") // proc(5): utime and stime, in hundredths
		f := strings.Fields(rest)
		if len(f) < 13 {
			w.b.Fatalf("/proc/%s/stat: %q", pid, text)
		}
		user, _ := strconv.Atoi(f[11])
		system, _ := strconv.Atoi(f[12])
		used[i] = time.Duration(user+system) * 10 * time.Millisecond
	}
	return used
}
