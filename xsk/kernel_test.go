package xsk_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/encoder/kernellab"
	"github.com/ipvsync/ipvsync/xsk"
)

// The tests of AF_XDP run again inside of stock kernels, older than the host's
// perhaps, and on virtio-net, another driver than veth.

// inKernels boots the stock kernels and puts the tests of this package into them.
func inKernels(t *testing.T, test func(t *testing.T, g *kernellab.Guest)) {
	if testing.Short() {
		t.Skip("-short leaves the kernel lab out")
	}
	binary := filepath.Join(t.TempDir(), "xsk.test")
	build := exec.Command("go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the tests: %v\n%s", err, out)
	}
	b, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []kernellab.Kernel{kernellab.Linux61, kernellab.Linux612, kernellab.LinuxNewest} {
		t.Run(string(k), func(t *testing.T) {
			opts := []kernellab.Option{kernellab.WithMemory(900)}
			if k == kernellab.LinuxNewest {
				// What virtio_net wants for zero-copy: queues set up one by one,
				// and packet memory mapped by itself (virtqueue_dma_dev).
				opts = append(opts, kernellab.WithWireDevice("disable-legacy=on,iommu_platform=on"))
			}
			g := kernellab.Boot(t, k, opts...)
			g.Put(t, "/run/xsk.test", b)
			test(t, g)
		})
	}
}

const guestPatience = 5 * time.Minute

// TestKernelXDP runs the tests over veth in the guest.
func TestKernelXDP(t *testing.T) {
	const tests = "TestXDP(Interop|Link|Device|Killed|Missing|Memlock|Queues|Neighbour|Frame|Starvation|RoundTrip|NoAlloc)|" +
		"TestProgramFilter|TestForeign|TestGeneric|TestSocketReopen|TestKicks|TestCompletionRing|TestQueueBusy"
	inKernels(t, func(t *testing.T, g *kernellab.Guest) {
		ctx, cancel := context.WithTimeout(t.Context(), guestPatience)
		defer cancel()
		out, code, err := g.RunErr(ctx, "cd /run; IPVSYNC_REQUIRE=1 ./xsk.test -test.short -test.v -test.run '^("+tests+")'")
		if err != nil || code != 0 || !strings.Contains(out, "\nPASS") {
			t.Errorf("on %s: %v, exit status %d\n%s", g.Release(), err, code, out)
		}
		t.Logf("%s: %d tests passed", g.Release(), strings.Count(out, "\n--- PASS"))
	})
}

// TestKernelVirtio sends and receives on the NIC of the guest itself, by native
// and by generic XDP, and in zero-copy mode where virtio_net has it.
func TestKernelVirtio(t *testing.T) {
	const messages = 500 // givenMessages
	group, port := netip.MustParseAddr("224.0.0.81"), 8848
	role := func(role string) string {
		return "cd /run; exec nsenter --net=/proc/1/ns/net env XSK_TEST_INTERFACE=eth0 XSK_TEST_ROLE=" + role +
			" ./xsk.test -test.run ^TestXDPGivenDevice$"
	}
	inKernels(t, func(t *testing.T, g *kernellab.Guest) {
		g.Run(t, "nsenter --net=/proc/1/ns/net ip addr add 10.88.0.3/24 dev eth0")
		receive, transmit := []string{"native", "generic"}, []string{"send"}
		if !strings.HasPrefix(g.Release(), "6.") {
			receive, transmit = append(receive, "zerocopy"), append(transmit, "send-zerocopy")
			stackStillReceives(t, g, role("hold-zerocopy"))
		}
		for _, mode := range receive {
			d := g.Start(t, "sh -c '"+role(mode)+"'")
			waitOutput(t, d, "ready")
			var tx *xsk.XDPTx
			err := g.NS().Do(func() (err error) {
				tx, err = xsk.OpenXDPTx(xsk.XDPConfig{Interface: kernellab.TapName, Group: group, Port: port})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			for i := range messages {
				buf, err := tx.Next()
				if err != nil {
					t.Fatal(err)
				}
				tx.Commit(copy(buf, fmt.Sprintf("message %d", i)))
				if i%20 == 19 { // the queue of the tap is short
					send(t, tx)
				}
			}
			send(t, tx)
			tx.Close()
			waitOutput(t, d, fmt.Sprintf("received %d", messages))
			t.Logf("%s, %s:\n%s", g.Release(), mode, d.Stop(t))
		}
		for _, mode := range transmit {
			var rx *xsk.UDPRx
			err := g.NS().Do(func() (err error) {
				rx, err = xsk.OpenUDPRx(xsk.UDPConfig{Interface: kernellab.TapName, Group: group, Port: port, RcvBuf: 4 << 20})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s, %s:\n%s", g.Release(), mode, g.Run(t, role(mode)))
			seen := 0
			for end := time.Now().Add(time.Minute); seen < messages && time.Now().Before(end); {
				batch, err := rx.Receive(time.Second)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range batch {
					if want := fmt.Sprintf("message %d", seen); string(m.Payload) != want {
						t.Fatalf("%q, want %q", m.Payload, want)
					}
					seen++
				}
				rx.Release()
			}
			if s := rx.Stats(); seen != messages || s.SocketDrops != 0 {
				t.Errorf("%d messages of %d, %+v", seen, messages, s)
			}
			rx.Close()
		}
	})
}

// stackStillReceives: a sender that has the queue in zero-copy mode lends the
// driver frames to receive into, so that what arrives goes on to the guest's stack,
// which refuses connections to a closed port.
func stackStillReceives(t *testing.T, g *kernellab.Guest, hold string) {
	d := g.Start(t, "sh -c '"+hold+"'")
	waitOutput(t, d, "ready")
	err := g.NS().Do(func() error {
		dialer := net.Dialer{Timeout: 20 * time.Second}
		for range 1000 { // more than the driver has frames
			if c, err := dialer.Dial("tcp4", "10.88.0.3:9"); !errors.Is(err, syscall.ECONNREFUSED) {
				if err == nil {
					c.Close()
				}
				return fmt.Errorf("the guest's stack does not answer: %w", err)
			}
		}
		return nil
	})
	if err != nil {
		t.Errorf("%v\n%s", err, d.Output(t))
	}
	t.Logf("%s, hold-zerocopy:\n%s", g.Release(), d.Stop(t))
}

// send flushes until nothing is pending.
func send(t *testing.T, tx xsk.Tx) {
	t.Helper()
	for end := time.Now().Add(time.Minute); tx.Pending() > 0; {
		if err := tx.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := tx.Wait(time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatalf("%d messages pending", tx.Pending())
		}
	}
}

// waitOutput waits until a program in the guest has written a word.
func waitOutput(t *testing.T, d *kernellab.Daemon, word string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		out := d.Output(t)
		if strings.Contains(out, word) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no %q in\n%s", word, out)
		}
	}
}
