package xsk

import (
	"bufio"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk/netns"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// receiveErr receives until an error comes.
func receiveErr(rx Rx) error {
	for {
		if _, err := rx.Receive(-1); err != nil {
			return err
		}
		rx.Release()
	}
}

// commitOne commits a message if there is a frame for it.
func commitOne(tx Tx, s string) bool {
	buf, err := tx.Next()
	if err == nil {
		tx.Commit(copy(buf, s))
	}
	return err == nil
}

// TestXDPLinkDownAndUp takes the link away in the middle of sending, at this end
// or the other, and gives it back. What was queued arrives then.
func TestXDPLinkDownAndUp(t *testing.T) {
	for _, group := range []netip.Addr{group4, group6} {
		for i := range 2 {
			a, b := xsktest.VethPair(t)
			end := []xsktest.End{a, b}[i] // own end: set down; other end: no carrier
			cfg := XDPConfig{Group: group, Port: port, TxFrames: 64}
			rx, tx := openXDPRx(t, b, cfg), openXDPTx(t, a, cfg)
			sendAll(t, tx, []byte("before"))
			takeAll(t, rx, 1)

			setLink(t, end, "down")
			var err error
			waitFor(t, func() bool {
				if err = tx.Flush(); err != nil {
					return true
				}
				commitOne(tx, "x")
				return false
			})
			if !errors.Is(err, ErrLinkDown) {
				t.Fatalf("%s: %v, want ErrLinkDown", group, err)
			}
			// At most one packet is dropped until that is noticed.
			if s := tx.Stats(); s.Errors > 1 {
				t.Errorf("%+v, want at most one packet dropped", s)
			}
			lost := tx.Stats()
			queued := tx.Pending()
			n := 0
			for commitOne(tx, sequence(n)) {
				n++
			}
			if queued+n < 63 {
				t.Errorf("%d messages are queued, want as many as there are frames", queued+n)
			}
			for range 3 {
				if err := tx.Flush(); !errors.Is(err, ErrLinkDown) || tx.Pending() != queued+n {
					t.Errorf("%s: %v with %d pending, want ErrLinkDown and %d", group, err, tx.Pending(), queued+n)
				}
				if err := tx.Wait(time.Millisecond); err != nil {
					t.Error(err)
				}
			}
			if s := tx.Stats(); s.Packets != lost.Packets || s.Errors != lost.Errors || s.LinkDown < 4 {
				t.Errorf("%+v, want no packet sent while the link is down, and at least 4 times LinkDown", s)
			}
			wantXDPLedger(t, tx)

			xsktest.SetLink(t, end, true)
			waitFor(t, func() bool {
				err := tx.Flush()
				if err != nil && !errors.Is(err, ErrLinkDown) {
					t.Fatal(err)
				}
				if err != nil {
					_ = tx.Wait(patience)
				}
				return tx.Pending() == 0
			})
			wantSequence(t, takeAll(t, rx, queued+n)[queued:], n)
			wantXDPLedger(t, tx)
		}
	}
}

// TestXDPDeviceGone deletes the pair while both ends are in use. Both say so,
// leave nothing behind, and start no goroutine.
func TestXDPDeviceGone(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	for _, group := range []netip.Addr{group4, group6} {
		a, b := xsktest.VethPair(t)
		cfg := XDPConfig{Group: group, Port: port, TxFrames: 64}
		maps, fds := mappings(t), openFiles(t)
		rx, tx := openXDPRx(t, b, cfg), openXDPTx(t, a, cfg)
		received := make(chan error)
		go func() { received <- receiveErr(rx) }()
		sendAll(t, tx, []byte("before"))
		setLink(t, a, "delete")
		began := time.Now()
		var err error
		waitFor(t, func() bool {
			commitOne(tx, "x")
			err = tx.Flush()
			return err != nil
		})
		if !errors.Is(err, ErrDeviceGone) {
			t.Errorf("Flush: %v, want ErrDeviceGone", err)
		}
		if err := <-received; !errors.Is(err, ErrDeviceGone) {
			t.Errorf("Receive: %v, want ErrDeviceGone", err)
		}
		t.Logf("noticed by both after %v", time.Since(began))
		if err := tx.Wait(time.Millisecond); err != nil {
			t.Error(err)
		}
		pending := tx.Pending()
		if err := tx.Close(); err != nil {
			t.Error(err)
		}
		if err := rx.Close(); err != nil {
			t.Error(err)
		}
		if s := tx.Stats(); pending == 0 || s.Discarded != uint64(pending) {
			t.Errorf("%d were pending, %+v", pending, s)
		}
		wantXDPLedger(t, tx)
		if m, f := mappings(t), openFiles(t); m != maps || f != fds {
			t.Errorf("%d mappings and %d descriptors, %d and %d before", m, f, maps, fds)
		}
	}
	waitFor(t, func() bool { return runtime.NumGoroutine() <= goroutines })
}

// TestXDPReceiveLinkDownAndUp: the receiver says so, and goes on by itself.
func TestXDPReceiveLinkDownAndUp(t *testing.T) {
	a, b := xsktest.VethPair(t)
	cfg := XDPConfig{Group: group4, Port: port}
	rx, tx := openXDPRx(t, b, cfg), openXDPTx(t, a, cfg)
	setLink(t, b, "down")
	if err := receiveErr(rx); !errors.Is(err, ErrLinkDown) {
		t.Fatalf("%v, want ErrLinkDown", err)
	}
	xsktest.SetLink(t, b, true)
	waitFor(t, func() bool {
		commitOne(tx, "again")
		_ = tx.Flush()
		batch, err := rx.Receive(time.Millisecond)
		if err != nil && !errors.Is(err, ErrLinkDown) {
			t.Fatal(err)
		}
		defer rx.Release()
		return len(batch) > 0
	})
}

// TestXDPCloseAndWake ends a Receive that waits without end, and reads a batch
// after Close.
func TestXDPCloseAndWake(t *testing.T) {
	a, b := xsktest.VethPair(t)
	tx := openXDPTx(t, a, XDPConfig{Group: group4, Port: port})
	fds, maps := openFiles(t), mappings(t)
	for range 5 {
		rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port, RxFrames: 64})
		done := make(chan error)
		go func() {
			if batch, err := rx.Receive(-1); len(batch) != 0 || err != nil {
				t.Errorf("after Wake: %d messages, %v", len(batch), err)
			}
			done <- nil
			done <- receiveErr(rx)
		}()
		rx.Wake()
		<-done
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := rx.Close(); err != nil {
					t.Error(err)
				}
				rx.Wake()
				rx.Stats()
				rx.KernelStats()
			})
		}
		if err := <-done; err != ErrClosed {
			t.Errorf("Receive ended with %v, want ErrClosed", err)
		}
		wg.Wait()
		rx.Release()
		if _, err := rx.Receive(0); err != ErrClosed {
			t.Errorf("Receive after Close: %v, want ErrClosed", err)
		}
	}
	rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port})
	sendAll(t, tx, []byte("lent"))
	var batch []Datagram
	waitFor(t, func() bool {
		var err error
		if batch, err = rx.Receive(time.Second); err != nil {
			t.Fatal(err)
		}
		return len(batch) > 0
	})
	if err := rx.Close(); err != nil {
		t.Error(err)
	}
	if string(batch[0].Payload) != "lent" {
		t.Errorf("after Close the payload is %q", batch[0].Payload)
	}
	rx.Release()
	if rx.queues[0].umem.mem != nil {
		t.Error("the packet memory is still mapped after Release")
	}
	if f, m := openFiles(t), mappings(t); f != fds || m != maps {
		t.Errorf("%d descriptors and %d mappings, %d and %d before", f, m, fds, maps)
	}
}

// TestXDPClosedSender: what is queued is counted, and told.
func TestXDPClosedSender(t *testing.T) {
	a, b := xsktest.VethPair(t)
	var lost []string
	tx := openXDPTx(t, a, XDPConfig{Group: group4, Port: port, Peers: []netip.AddrPort{netip.AddrPortFrom(b.Addr6, 9)},
		Lost: func(m []byte) { lost = append(lost, string(m)) }})
	commitOne(tx, "never sent")
	for range 2 {
		if err := tx.Close(); err != nil {
			t.Error(err)
		}
	}
	_, err := tx.Next()
	for what, err := range map[string]error{"Next": err, "Flush": tx.Flush(), "Wait": tx.Wait(time.Hour)} {
		if err != ErrClosed {
			t.Errorf("%s after Close: %v, want ErrClosed", what, err)
		}
	}
	if s := tx.Stats(); s.Messages != 1 || s.Discarded != 2 || s.Packets != 0 || len(lost) != 1 || lost[0] != "never sent" {
		t.Errorf("%+v, %q lost; want 1 message, discarded for both destinations", s, lost)
	}
	_ = tx.KernelStats()
}

// TestXDPLost: a message that reaches nobody is told, with its bytes.
func TestXDPLost(t *testing.T) {
	a, _ := xsktest.VethPair(t)
	var lost []string
	tx := openXDPTx(t, a, XDPConfig{Peers: []netip.AddrPort{netip.MustParseAddrPort("10.99.0.66:9")}, TxFrames: 64,
		Lost: func(m []byte) { lost = append(lost, string(m)) }})
	for i := range 200 {
		if !commitOne(tx, sequence(i)) {
			t.Fatal("no frame")
		}
		if err := tx.Flush(); !errors.Is(err, ErrNoRoute) {
			t.Fatalf("%v, want ErrNoRoute", err)
		}
	}
	for i, m := range lost {
		if m != sequence(i) {
			t.Fatalf("lost %q, want %q", m, sequence(i))
		}
	}
	if s := tx.Stats(); len(lost) != 200 || s.Errors != 200 || tx.Pending() != 0 {
		t.Errorf("%d lost, %+v", len(lost), s)
	}
	wantXDPLedger(t, tx)
}

// TestXDPTooBig lowers the MTU under an open sender.
func TestXDPTooBig(t *testing.T) {
	a, b := xsktest.VethPair(t)
	rx, tx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port}), openXDPTx(t, a, XDPConfig{Group: group4, Port: port})
	in(t, a, func() error {
		l, err := netlink.LinkByName(a.Name)
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 1400)
	})
	if err := tx.look(); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{10, 1372, 20, 1373, 30} {
		buf, _ := tx.Next()
		tx.Commit(copy(buf, pattern(n)))
	}
	if err := tx.Flush(); !errors.Is(err, ErrMTU) {
		t.Errorf("%v, want ErrMTU", err)
	}
	got := takeAll(t, rx, 4)
	if len(got[1].payload) != 1372 {
		t.Errorf("%d bytes", len(got[1].payload))
	}
	if s := tx.Stats(); s.TooBig != 1 || s.Packets != 4 {
		t.Errorf("%+v", s)
	}
	wantXDPLedger(t, tx)
}

// TestXDPFrameLimit: in copy mode the kernel leaves 256 bytes of a frame free,
// so that one of 2048 holds packets of 1792 bytes, and drops longer ones.
func TestXDPFrameLimit(t *testing.T) {
	a, b := xsktest.VethPairWith(t, netns.VethOptions{MTU: 3000})
	tx := openXDPTx(t, a, XDPConfig{Group: group4, Port: port, FrameSize: 4096})
	const headers = 14 + 20 + 8
	rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port})
	if n := rx.Info().MaxPayload; n != 1792-headers {
		t.Errorf("MaxPayload %d, want %d", n, 1792-headers)
	}
	sendAll(t, tx, pattern(1792-headers), pattern(1793-headers), []byte("behind"))
	got := takeAll(t, rx, 2)
	if got[0].payload != string(pattern(1792-headers)) || got[1].payload != "behind" {
		t.Errorf("got %d and %d bytes", len(got[0].payload), len(got[1].payload))
	}
	if _, err := rx.Receive(0); err != nil || rx.Stats().SocketDrops != 1 || rx.KernelStats()[0].RxDropped != 1 {
		t.Errorf("%+v %+v %v, want one dropped", rx.Stats(), rx.KernelStats(), err)
	}
	rx.Close()
	rx = openXDPRx(t, b, XDPConfig{Group: group4, Port: port, FrameSize: 4096, MaxPayload: 2900})
	sendAll(t, tx, pattern(1793-headers), pattern(2900), pattern(2901))
	got = takeAll(t, rx, 2)
	if got[1].payload != string(pattern(2900)) || len(got[0].payload) != 1793-headers {
		t.Errorf("got %d and %d bytes", len(got[0].payload), len(got[1].payload))
	}
	if _, err := rx.Receive(0); err != nil || rx.Stats().Truncated != 1 {
		t.Errorf("%+v %v, want one longer than MaxPayload", rx.Stats(), err)
	}
}

// TestXDPStarvation: with all frames used up packets are dropped and counted,
// and with the frames given back it goes on.
func TestXDPStarvation(t *testing.T) {
	a, b := xsktest.VethPair(t)
	rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port, RxFrames: 64, Batch: 16})
	tx := openXDPTx(t, a, XDPConfig{Group: group4, Port: port})
	for range 3 {
		before := rx.Stats()
		sendAll(t, tx, sequences(200)...)
		wantSequence(t, takeAll(t, rx, 64), 64)
		if batch, err := rx.Receive(0); len(batch) != 0 || err != nil {
			t.Errorf("%d messages more, %v", len(batch), err)
		}
		if s := rx.Stats(); s.SocketDrops-before.SocketDrops != 200-64 {
			t.Errorf("%+v, want %d dropped", s, 200-64)
		}
		if k := rx.KernelStats()[0]; k.RxFillEmpty == 0 && k.RxRingFull == 0 {
			t.Errorf("%+v, want a reason", k)
		}
	}
	if k := rx.queues[0].q.pool.count(frameKernel); k != 64 {
		t.Errorf("the kernel has %d frames of 64", k)
	}
}

// TestXDPConservation sends a million packets and finds every frame again.
func TestXDPConservation(t *testing.T) {
	n := 1_000_000
	if testing.Short() || raceEnabled {
		n = 50_000
	}
	a, b := xsktest.VethPair(t)
	rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port, RxFrames: 4096})
	tx := openXDPTx(t, a, XDPConfig{Group: group4, Port: port})
	done := make(chan struct{})
	var got uint64
	go func() {
		defer close(done)
		for {
			batch, err := rx.Receive(time.Second)
			if err != nil {
				return
			}
			got += uint64(len(batch))
			for _, d := range batch {
				if len(d.Payload) == 1 && d.Payload[0] == 'E' {
					rx.Release()
					return
				}
			}
			rx.Release()
		}
	}()
	deadline := time.Now().Add(3 * patience)
	for i := 0; i < n && time.Now().Before(deadline); {
		for range 64 {
			if buf, err := tx.Next(); err == nil {
				buf[0] = 'm'
				tx.Commit(100)
				i++
			}
		}
		_ = tx.Flush() // drops of a full receiver are counted
	}
	for range 1000 { // the end mark may be dropped as well
		commitOne(tx, "E")
		_ = tx.Flush()
		select {
		case <-done:
		case <-time.After(time.Millisecond):
			continue
		}
		break
	}
	rx.Wake()
	<-done
	waitFor(t, func() bool {
		_ = tx.Flush()
		tx.q.Reap()
		return tx.Pending() == 0 && tx.q.pool.count(frameFree) == defaultFrames
	})
	if rx.Release(); rx.queues[0].q.pool.count(frameKernel)+rx.queues[0].q.Ready() < 4096 {
		for { // what came behind the end mark
			batch, err := rx.Receive(0)
			if err != nil || len(batch) == 0 {
				break
			}
			got += uint64(len(batch))
		}
	}
	batch, err := rx.Receive(0)
	for err == nil && len(batch) > 0 {
		got += uint64(len(batch))
		batch, err = rx.Receive(0)
	}
	rx.Release()
	if k := rx.queues[0].q.pool.count(frameKernel); k != 4096 {
		t.Errorf("the kernel has %d frames to receive of 4096", k)
	}
	ts, rs := tx.Stats(), rx.Stats()
	t.Logf("%+v\n%+v", ts, rs)
	if ts.Packets != rs.Messages+rs.SocketDrops || got != rs.Messages || tx.q.n.invalid != 0 || rs.Errors != 0 {
		t.Errorf("%d sent, %d received and %d dropped", ts.Packets, rs.Messages, rs.SocketDrops)
	}
	wantXDPLedger(t, tx)
}

const childEnv = "XSK_TEST_CHILD"

// TestXDPChild is the child of TestXDPKilled.
func TestXDPChild(t *testing.T) {
	name := os.Getenv(childEnv)
	if name == "" {
		return // not a child
	}
	cfg := XDPConfig{Interface: name, Group: group4, Port: port}
	if _, err := OpenXDPRx(cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stdout.WriteString("\nready\n"); err != nil {
		t.Fatal(err)
	}
	select {}
}

// TestXDPKilled: a killed process leaves no program behind, and an interface
// that works.
func TestXDPKilled(t *testing.T) {
	a, b := xsktest.VethPair(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestXDPChild$")
	cmd.Env = append(os.Environ(), childEnv+"="+b.Name)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in(t, b, cmd.Start)
	defer cmd.Process.Kill()
	ready := false
	for s := bufio.NewScanner(out); !ready && s.Scan(); {
		ready = s.Text() == "ready"
	}
	if !ready {
		t.Fatal("the child did not start")
	}
	if attached(t, b) == 0 {
		t.Error("no program is attached while the child runs")
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	waitFor(t, func() bool { return attached(t, b) == 0 })
	rx, tx := openRx(t, b, UDPConfig{Group: group4, Port: port}), openXDPTx(t, a, XDPConfig{Group: group4, Port: port})
	sendAll(t, tx, []byte("alive"))
	if m := takeAll(t, rx, 1); m[0].payload != "alive" {
		t.Errorf("%q", m[0].payload)
	}
	rx.Close()
	xrx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port})
	sendAll(t, tx, []byte("alive"))
	takeAll(t, xrx, 1)
}

// withCaps runs fn in the namespace of e on a thread that has only these
// capabilities, and ends the thread.
func withCaps(tb testing.TB, e xsktest.End, fn func(), caps ...uint) {
	tb.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		defer close(done)
		if err := unix.Setns(e.NS.Fd(), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		var mask [2]uint32
		for _, c := range caps {
			mask[c/32] |= 1 << (c % 32)
		}
		var data [2]unix.CapUserData
		for i := range data {
			data[i].Effective, data[i].Permitted = mask[i], mask[i]
		}
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
			done <- err
			return
		}
		fn()
	}()
	if err := <-done; err != nil {
		tb.Fatal(err)
	}
}

// TestXDPMissingCapabilities: the error names what is missing, and what is not
// needed is not asked for.
func TestXDPMissingCapabilities(t *testing.T) {
	a, b := xsktest.VethPair(t)
	cfg := XDPConfig{Interface: b.Name, Group: group4, Port: port}
	want := func(err error, names ...string) {
		t.Helper()
		if !errors.Is(err, ErrPermission) {
			t.Errorf("%v, want ErrPermission", err)
			return
		}
		for _, n := range names {
			if !strings.Contains(err.Error(), n) {
				t.Errorf("%v does not name %s", err, n)
			}
		}
	}
	withCaps(t, b, func() {
		_, err := OpenXDPTx(cfg)
		want(err, "CAP_NET_RAW")
		_, err = OpenXDPRx(cfg)
		want(err, "CAP_BPF", "CAP_NET_ADMIN")
	})
	withCaps(t, b, func() {
		_, err := OpenXDPRx(cfg)
		want(err, "CAP_NET_RAW")
	}, unix.CAP_BPF, unix.CAP_NET_ADMIN)
	withCaps(t, b, func() {
		_, err := OpenXDPRx(cfg)
		want(err, "CAP_BPF")
	}, unix.CAP_NET_RAW, unix.CAP_NET_ADMIN)
	withCaps(t, b, func() {
		_, err := OpenXDPRx(cfg)
		want(err, "CAP_NET_ADMIN")
	}, unix.CAP_NET_RAW, unix.CAP_BPF)
	withCaps(t, b, func() {
		rx, err := OpenXDPRx(cfg)
		if err != nil {
			t.Error(err)
			return
		}
		rx.Close()
	}, unix.CAP_NET_RAW, unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_IPC_LOCK)
	// In copy mode CAP_NET_RAW is enough to send, to peers as well.
	urx := openRx(t, a, UDPConfig{Local: a.Addr4, Port: port})
	withCaps(t, b, func() {
		tx, err := OpenXDPTx(XDPConfig{Interface: b.Name, Peers: []netip.AddrPort{netip.AddrPortFrom(a.Addr4, port)}, TxFrames: 64})
		if err != nil {
			t.Error(err)
			return
		}
		defer tx.Close()
		sendAll(t, tx, []byte("humble"))
	}, unix.CAP_NET_RAW, unix.CAP_IPC_LOCK)
	if m := takeAll(t, urx, 1); m[0].payload != "humble" {
		t.Errorf("%q", m[0].payload)
	}
}

// TestXDPMemlock: a limit that is too low is named, with its value.
func TestXDPMemlock(t *testing.T) {
	a, _ := xsktest.VethPair(t)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &old); err != nil {
		t.Fatal(err)
	}
	low := old
	low.Cur = 64 << 10
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &low); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_MEMLOCK, &old)
	withCaps(t, a, func() {
		_, err := OpenXDPTx(XDPConfig{Interface: a.Name, Group: group4, Port: port})
		if !errors.Is(err, ErrMemlock) || !errors.Is(err, unix.ENOBUFS) ||
			!strings.Contains(err.Error(), "64 KiB") || !strings.Contains(err.Error(), "4096 KiB") || !strings.Contains(err.Error(), "RLIMIT_MEMLOCK") {
			t.Errorf("%v, want ErrMemlock with both sizes", err)
		}
	}, unix.CAP_NET_RAW, unix.CAP_NET_ADMIN, unix.CAP_BPF)
}

// TestXDPZeroCopy: veth has none. Required it is an error, preferred it is a
// fallback that is reported.
func TestXDPZeroCopy(t *testing.T) {
	a, b := xsktest.VethPair(t)
	in(t, a, func() error {
		cfg := XDPConfig{Interface: a.Name, Group: group4, Port: port, Mode: ZeroCopyRequired}
		if _, err := OpenXDPTx(cfg); !errors.Is(err, ErrZeroCopy) {
			t.Errorf("%v, want ErrZeroCopy", err)
		}
		if _, err := OpenXDPRx(cfg); !errors.Is(err, ErrZeroCopy) {
			t.Errorf("%v, want ErrZeroCopy", err)
		}
		return nil
	})
	if attached(t, a) != 0 {
		t.Error("a program stayed")
	}
	for mode, why := range map[CopyMode]bool{ZeroCopyPreferred: true, CopyOnly: false} {
		cfg := XDPConfig{Group: group4, Port: port, Mode: mode}
		rx, tx := openXDPRx(t, b, cfg), openXDPTx(t, a, cfg)
		for _, i := range []XDPInfo{rx.Info(), tx.Info()} {
			if i.ZeroCopy || (i.WhyCopy != "") != why {
				t.Errorf("%v: %+v", mode, i)
			}
		}
		rx.Close()
		tx.Close()
	}
}

// TestXDPMembership: the interface is a member of the group as long as a
// receiver is open.
func TestXDPMembership(t *testing.T) {
	_, b := xsktest.VethPair(t)
	member := func(what string) (is bool) {
		in(t, b, func() error {
			for _, f := range []string{"igmp", "igmp6"} {
				text, err := os.ReadFile("/proc/thread-self/net/" + f)
				if err != nil {
					return err
				}
				is = is || strings.Contains(string(text), what)
			}
			return nil
		})
		return is
	}
	for group, text := range map[netip.Addr]string{group4: "510000E0", group6: "ff020000000000000000000000000081"} {
		if member(text) {
			t.Errorf("%s is joined before", group)
		}
		rx := openXDPRx(t, b, XDPConfig{Group: group, Port: port})
		if !member(text) {
			t.Errorf("%s is not joined", group)
		}
		rx.Close()
		waitFor(t, func() bool { return !member(text) })
	}
}
