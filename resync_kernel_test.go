package ipvsync

import (
	"fmt"
	"iter"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/encoder/kernellab"
)

// stockBuffer is net.core.rmem_default of a stock kernel on every 64-bit machine
// with pages of 4 KB: SK_RMEM_MAX of include/net/sock.h.
const stockBuffer = 212992

// smallBuffers undoes, for all sockets that this guest opens from now on, what the
// lab does for tests that send bursts.
func smallBuffers(t *testing.T, g *kernellab.Guest) {
	t.Helper()
	g.Run(t, fmt.Sprint("nsenter --net=/proc/1/ns/net sysctl -qw net.core.rmem_default=", stockBuffer))
}

// udpSocket is what /proc/net/udp of the guest shows of the socket on the port:
// bytes of memory that what it holds takes, and datagrams that found it full.
func udpSocket(t *testing.T, g *kernellab.Guest, port int) (held, drops int) {
	t.Helper()
	for _, line := range strings.Split(g.Run(t, "cat /proc/net/udp"), "\n") {
		f := strings.Fields(line)
		if len(f) < 13 || !strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
			continue
		}
		_, rx, _ := strings.Cut(f[4], ":")
		h, err := strconv.ParseUint(rx, 16, 63)
		if err != nil {
			t.Fatal(err)
		}
		drops, err = strconv.Atoi(f[12])
		if err != nil {
			t.Fatal(err)
		}
		return int(h), drops
	}
	t.Fatalf("no UDP socket on port %d", port)
	return 0, 0
}

// until waits for something in a guest, whose answers pace it.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// How many messages the default socket buffer of a stock kernel holds while nobody
// reads from it, by their size: what a burst must stay below. This is arithmetic
// of the kernel's memory, so the slow processor of the lab does not matter.
func TestKernelBurst(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves the kernel lab out")
	}
	program := filepath.Join(t.TempDir(), "deaf")
	build := exec.Command("go", "build", "-o", program, "./testdata/deaf")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	deaf, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	kernels(t, func(t *testing.T, g *kernellab.Guest) {
		const port, mark, enough = 9001, 9002, 256
		g.Put(t, "/run/deaf", deaf)
		smallBuffers(t, g)
		for _, size := range []int{44, 200, encoder.DefaultMaxSize} {
			d := g.Start(t, fmt.Sprintf("/run/deaf %v:%d %[1]v:%[3]d", kernellab.GuestAddr, port, mark))
			until(t, "the sockets are open", func() bool { return strings.Contains(d.Output(t), "deaf\n") })
			err := g.NS().Do(func() error {
				conn, err := net.ListenUDP("udp4", nil)
				if err != nil {
					return err
				}
				defer conn.Close()
				to := netip.AddrPortFrom(kernellab.GuestAddr, port)
				for i := range enough {
					if _, err := conn.WriteToUDPAddrPort(make([]byte, size), to); err != nil {
						return err
					}
					if i%64 == 63 { // the way there is shorter than that
						m := netip.AddrPortFrom(kernellab.GuestAddr, mark)
						before, _ := udpSocket(t, g, mark)
						if _, err := conn.WriteToUDPAddrPort([]byte{1}, m); err != nil {
							return err
						}
						until(t, "the mark has arrived", func() bool { held, _ := udpSocket(t, g, mark); return held > before })
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			held, drops := udpSocket(t, g, port)
			fit := enough - drops
			t.Logf("Linux %s: messages of %4d bytes: %4d fit, %4d bytes of memory each", g.Release(), size, fit, held/fit)
			if drops == 0 || fit < 4*DefaultResyncBurst {
				t.Errorf("size %d: %d fit, want %d at least, and fewer than %d", size, fit, 4*DefaultResyncBurst, enough)
			}
			d.Stop(t)
		}
	})
}

// resyncInto sends n new connections to the backup of a guest and returns how many
// messages its socket had no room for.
func resyncInto(t *testing.T, g *kernellab.Guest, cfg ResyncConfig, n int, link Link) (drops int) {
	t.Helper()
	g.Reset(t)
	g.StartBackup(t, 7, kernellab.DaemonOptions{})
	link.Interface = kernellab.TapName
	s := send(t, hostEnd(g), SenderConfig{Link: link, SyncID: 7, Shards: 1})
	st, err := Resync(t.Context(), s, func(yield func(Conn) bool) {
		for i := range n {
			if !yield(flow(i, 3000)) {
				return
			}
		}
	}, cfg)
	if err != nil || st.Sent != uint64(n) {
		t.Fatalf("%+v, %v", st, err)
	}
	// No settling by a mark: it would be lost as well. All is over when the socket
	// is empty and the interface quiet.
	quiet := 0
	until(t, "the socket is quiet", func() bool {
		held, now := udpSocket(t, g, DefaultPort)
		if quiet++; held > 0 || now != drops {
			quiet = 0
		}
		drops = now
		return quiet == 3
	})
	return drops
}

// At the default pace nothing is lost, even by this backup, on a processor that is
// emulated. With IPVSYNC_RESYNC_SWEEP=1 it also prints at which pace losses begin.
func TestKernelResyncPace(t *testing.T) {
	kernels(t, func(t *testing.T, g *kernellab.Guest) {
		smallBuffers(t, g)
		if drops := resyncInto(t, g, ResyncConfig{}, 5000, Link{}); drops > 0 {
			t.Errorf("%d messages dropped", drops)
		}
		if os.Getenv("IPVSYNC_RESYNC_SWEEP") == "" {
			return
		}
		for _, size := range []int{200, encoder.DefaultMaxSize} {
			for _, rate := range []int{20000, 50000, 100000, 200000, 400000, 800000, 1e9} {
				n := 20000
				drops := resyncInto(t, g, ResyncConfig{Rate: rate}, n, Link{MaxSize: size})
				t.Logf("Linux %s: messages of %4d bytes, %8d records/s: %4d messages dropped of %d", g.Release(), size, rate, drops,
					n/((size-8)/encoder.PlainIPv4Size))
			}
		}
	})
}

// A backup with the default buffer is rebooted: an empty table. A resync from a
// Table that heard the same makes it what it was.
func TestKernelResync(t *testing.T) {
	kernels(t, func(t *testing.T, g *kernellab.Guest) {
		const n = 10_000
		table := newTable(t, TableConfig{MaxEntries: 2 * n, Shards: 1})
		var conns []Conn
		for i := range n {
			c := flow(i, uint32(600+i%3000))
			switch {
			case i%50 == 0:
				c = flow6(i, c.Timeout)
			case i%50 == 1:
				c.Flags, c.State, c.Client.Port = encoder.FlagTemplate, encoder.TemplateAssured, 0
			case i%50 == 2:
				c.Flags, c.State = encoder.FlagInactive|encoder.FwdDRoute|encoder.FlagNoOutput, encoder.TCPFinWait
			case i%50 == 3:
				c.Protocol, c.State = encoder.UDP, encoder.UDPNormal
			}
			conns = append(conns, c)
		}
		smallBuffers(t, g)
		g.StartBackup(t, 7, kernellab.DaemonOptions{})
		s := send(t, hostEnd(g), SenderConfig{SyncID: 7, Shards: 1})
		tell := func(conns iter.Seq[Conn]) {
			t.Helper()
			st, err := Resync(t.Context(), s, conns, ResyncConfig{})
			checkResync(t, st)
			if err != nil || st.Sent != n {
				t.Fatalf("%+v, %v", st, err)
			}
		}
		// A master that paces itself is a resync too.
		table.Apply(conns)
		tell(slices.Values(conns))
		compareKernel(t, g, table)

		// The backup's machine is booted anew, and knows nothing.
		g = kernellab.Boot(t, g.Kernel())
		smallBuffers(t, g)
		g.StartBackup(t, 7, kernellab.DaemonOptions{})
		if got := g.Conns(t); len(got) != 0 {
			t.Fatalf("%d connections after a boot", len(got))
		}
		s = send(t, hostEnd(g), SenderConfig{SyncID: 7, Shards: 1})
		tell(table.Conns())
		compareKernel(t, g, table)
	})
}

// compareKernel holds the listing of a backup against a table: same connections,
// same state, and ends of life within two seconds, the kernel's and the table's
// rounding.
func compareKernel(t *testing.T, g *kernellab.Guest, table *Table) {
	t.Helper()
	g.Settle(t)
	before := time.Now()
	listed := g.Conns(t)
	took := time.Since(before)
	if _, drops := udpSocket(t, g, DefaultPort); drops > 0 {
		t.Errorf("%d messages dropped", drops)
	}
	want := map[string]time.Duration{}
	for e := range table.All() {
		want[fmt.Sprint(strings.ToUpper(e.Protocol.String()), e.Client, e.Virtual, e.Dest, e.StateName())] = e.Expires
	}
	after := time.Since(before) - took
	for _, p := range listed {
		key := fmt.Sprint(p.Proto, p.Client, p.Virtual, p.Dest, p.State)
		left, ok := want[key]
		if !ok {
			t.Fatalf("listed, but not in the table: %v", p)
		}
		delete(want, key)
		// It was listed at some time in took; the table was read up to after later.
		if d := time.Duration(p.Expires)*time.Second - left; d < -2*time.Second || d > took+after+2*time.Second {
			t.Errorf("%v expires in %d s, in the table in %v", p, p.Expires, left)
		}
	}
	if len(want) > 0 {
		t.Errorf("%d of %d are not listed", len(want), len(want)+len(listed))
	}
	t.Logf("Linux %s: %d connections, listed in %v", g.Release(), len(listed), took.Round(time.Millisecond))
}
