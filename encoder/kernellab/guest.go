package kernellab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk/netns"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// Names and addresses of the wire between the host's side and the guest. Each
// guest has a wire, and a namespace, of its own, so they are always the same.
const (
	TapName  = "tap0" // interface of the host's side, in the guest's namespace
	Ethernet = "eth0" // interface of the guest

	controlTap  = "ctl0" // a second wire, so that captures of the first stay clean
	controlHost = "10.87.0.1/24"
)

// Addresses of the two ends of the wire.
var (
	HostAddr   = netip.MustParseAddr("10.88.0.1")
	HostAddr6  = netip.MustParseAddr("fd00:88::1")
	GuestAddr  = netip.MustParseAddr("10.88.0.2")
	GuestAddr6 = netip.MustParseAddr("fd00:88::2")
)

// Tuning of a boot.
const (
	bootTimeout  = 90 * time.Second // an idle machine needs about six seconds
	setupTimeout = 10 * time.Minute // a first run downloads a kernel
	memoryMB     = 320
)

// Guest is a running machine with a stock kernel. [Boot] makes it, the end of
// the test ends it. All methods may be called from several goroutines, but the
// scripts of concurrent calls share one machine.
type Guest struct {
	kernel  Kernel
	release string
	ns      *netns.NS
	client  *http.Client
	console *console
	booted  time.Duration

	mu     sync.Mutex
	backup backup // as last started
	marks  uint16 // sent by Settle

	cmd     *exec.Cmd     // QEMU
	exited  chan struct{} // closed when QEMU is gone
	exitErr error         // valid once exited is closed
}

// Option changes how [Boot] makes a guest.
type Option func(*options)

type options struct {
	cpus   int
	memory int
	append string
	device string
}

// WithCPUs gives the guest n processors instead of one.
func WithCPUs(n int) Option { return func(o *options) { o.cpus = n } }

// WithMemory gives the guest mb megabytes of memory instead of 320.
func WithMemory(mb int) Option { return func(o *options) { o.memory = mb } }

// WithWireDevice appends properties to the NIC of the wire, in QEMU's words:
// "iommu_platform=on".
func WithWireDevice(properties string) Option {
	return func(o *options) { o.device = "," + properties }
}

// WithCommandLine appends words to the kernel's command line.
func WithCommandLine(words string) Option { return func(o *options) { o.append = words } }

// Boot starts a guest and returns when it answers. The guest dies with the
// test, or with this process if that is killed.
//
// Where the lab cannot run, the test is skipped with the fix in its message,
// or fails under IPVSYNC_REQUIRE=1; see [xsktest.SkipOrFail]. A first call on
// a machine may install packages and download a kernel.
func Boot(tb testing.TB, k Kernel, opts ...Option) *Guest {
	tb.Helper()
	xsktest.RequireRoot(tb, netns.Supported())
	ctx, cancel := context.WithTimeout(tb.Context(), setupTimeout)
	defer cancel()
	img, err := prepare(ctx, k)
	switch {
	case errors.Is(err, ErrUnavailable):
		xsktest.SkipOrFail(tb, "%v", err)
	case err != nil:
		tb.Fatalf("prepare kernel %s: %v", k, err)
	}
	o := options{cpus: 1, memory: memoryMB}
	for _, opt := range opts {
		opt(&o)
	}
	g := &Guest{
		kernel:  k,
		release: img.release,
		ns:      xsktest.Namespace(tb),
		console: newConsole(),
		exited:  make(chan struct{}),
	}
	err = netns.Tap(g.ns, TapName, netip.PrefixFrom(HostAddr, 24), netip.PrefixFrom(HostAddr6, 64))
	if err == nil {
		err = netns.Tap(g.ns, controlTap, netip.MustParsePrefix(controlHost))
	}
	if err != nil {
		xsktest.SkipOrFail(tb, "no tap device; run: modprobe tun: %v", err)
	}
	g.client = &http.Client{Transport: &http.Transport{
		DialContext:       g.dial,
		DisableKeepAlives: true, // busybox httpd closes after each answer
	}}
	start := time.Now()
	if err := g.start(tb, img, o); err != nil {
		tb.Fatalf("start QEMU: %v", err)
	}
	if err := g.waitReady(start.Add(bootTimeout)); err != nil {
		tb.Fatalf("boot kernel %s: %v\n%s", k, err, g.console.tail())
	}
	g.booted = time.Since(start)
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("console of kernel %s:\n%s", k, g.console.tail())
		}
	})
	return g
}

// prepare makes everything ready for a boot of k.
func prepare(ctx context.Context, k Kernel) (image, error) {
	if err := Setup(ctx); err != nil {
		return image{}, err
	}
	return fetch(ctx, k)
}

// start runs QEMU inside the namespace.
func (g *Guest) start(tb testing.TB, img image, o options) error {
	qemu, err := look("qemu-system-x86_64")
	if err != nil {
		return err
	}
	// No KVM, even where /dev/kvm exists: nested it may hang the guest.
	// console=ttyS0 carries what a dying guest has to say; panic=-1 with
	// -no-reboot makes its death the end of QEMU. Without checksum offload the
	// frames on the wire are complete, as on a real one.
	cmd := exec.Command(qemu,
		"-accel", "tcg", "-cpu", "max", "-smp", strconv.Itoa(o.cpus), "-m", strconv.Itoa(o.memory),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-kernel", img.vmlinuz, "-initrd", img.initrd,
		"-append", "console=ttyS0 quiet loglevel=4 panic=-1 nokaslr mitigations=off "+
			"random.trust_cpu=on no_timer_check tsc=reliable net.ifnames=0 "+o.append,
		"-netdev", "tap,id=wire,ifname="+TapName+",script=no,downscript=no",
		"-device", "virtio-net-pci,netdev=wire,romfile=,mac=52:54:00:88:00:01,csum=off,guest_csum=off"+o.device,
		"-netdev", "tap,id=control,ifname="+controlTap+",script=no,downscript=no",
		"-device", "virtio-net-pci,netdev=control,romfile=,mac=52:54:00:87:00:01",
	)
	cmd.Stdout, cmd.Stderr = g.console, g.console
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	g.cmd = cmd
	started := make(chan error, 1)
	go func() {
		defer close(g.exited)
		// Pdeathsig fires when the *thread* that started the child ends
		// (prctl(2)), so that thread stays here as long as the child lives.
		// Do leaves fn on one locked thread.
		_ = g.ns.Do(func() error {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			err := cmd.Start()
			started <- err
			if err == nil {
				g.exitErr = cmd.Wait()
			}
			return err
		})
	}()
	if err := <-started; err != nil {
		return err
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-g.exited
	})
	return nil
}

// waitReady waits until the guest's console says ready.
func (g *Guest) waitReady(deadline time.Time) error {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-g.console.ready:
		if strings.Contains(g.console.String(), faultMark) {
			return errors.New("guest could not set itself up")
		}
		return nil
	case <-g.exited:
		return fmt.Errorf("guest died: %w", errors.Join(errDied, g.exitErr))
	case <-timer.C:
		return fmt.Errorf("guest not ready: %w", context.DeadlineExceeded)
	}
}

var errDied = errors.New("QEMU ended")

// dial connects from inside the namespace.
func (g *Guest) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var conn net.Conn
	err := g.ns.Do(func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// NS returns the namespace of the host's side, where [TapName] is. It belongs
// to the guest: do not close it.
func (g *Guest) NS() *netns.NS { return g.ns }

// Kernel returns what was asked of [Boot].
func (g *Guest) Kernel() Kernel { return g.kernel }

// Release returns what uname -r prints in the guest.
func (g *Guest) Release() string { return g.release }

// BootTime returns how long the guest took from the start of QEMU to its ready
// mark.
func (g *Guest) BootTime() time.Duration { return g.booted }

// Console returns everything the guest has written to its serial console.
func (g *Guest) Console() string { return g.console.String() }

// console keeps what QEMU and the guest write.
type console struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	ready chan struct{} // closed when the mark was seen
	seen  bool
}

// readyMark is printed by init.sh once the control channel is served.
const readyMark = "KERNELLAB ready"

// faultMark begins what init.sh prints when a step fails.
const faultMark = "KERNELLAB cannot"

func newConsole() *console { return &console{ready: make(chan struct{})} }

// Write implements io.Writer for exec.Cmd.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf.Write(p)
	if !c.seen && bytes.Contains(c.buf.Bytes(), []byte(readyMark)) {
		c.seen = true
		close(c.ready)
	}
	return len(p), nil
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.ReplaceAll(c.buf.String(), "\r", "")
}

func (c *console) tail() string { return tail(c.String(), 30) }
