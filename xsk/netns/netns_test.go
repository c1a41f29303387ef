package netns_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/ipvsync/ipvsync/xsk/netns"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
	"github.com/vishvananda/netlink"
)

func current(t *testing.T) string {
	t.Helper()
	id, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Error(err)
	}
	return id
}

func TestDoRunsInsideAndReturns(t *testing.T) {
	ns := xsktest.Namespace(t)
	home := current(t)
	want := errors.New("what fn returned")
	var inside, nested, child string
	err := ns.Do(func() error {
		inside = current(t)
		out, err := exec.Command("readlink", "/proc/self/ns/net").Output()
		if err != nil {
			t.Error(err)
		}
		child = strings.TrimSpace(string(out))
		if err := ns.Do(func() error { nested = current(t); return nil }); err != nil {
			t.Error(err)
		}
		if again := current(t); again != inside {
			t.Errorf("after a nested Do the thread is in %s, want %s", again, inside)
		}
		return want
	})
	if err != want {
		t.Errorf("Do returned %v, want %v", err, want)
	}
	if inside == home || inside != child || inside != nested {
		t.Errorf("home %s, inside %s, child %s, nested %s: want the last three equal", home, inside, child, nested)
	}
	if now := current(t); now != home {
		t.Errorf("the caller is in %s after Do, want %s", now, home)
	}
}

// TestDoLeavesNoThreadBehind runs Do from many goroutines, then looks at the
// namespace of every thread of the process.
func TestDoLeavesNoThreadBehind(t *testing.T) {
	ns := xsktest.Namespace(t)
	home := current(t)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := ns.Do(func() error { runtime.Gosched(); return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		id, err := os.Readlink("/proc/self/task/" + task.Name() + "/ns/net")
		if err == nil && id != home {
			t.Errorf("thread %s is left in %s, home is %s", task.Name(), id, home)
		}
	}
}

func TestDoPanicAndGoexit(t *testing.T) {
	ns := xsktest.Namespace(t)
	func() {
		defer func() {
			if r := recover(); r != "oops" {
				t.Errorf("recovered %v, want the panic of fn", r)
			}
		}()
		_ = ns.Do(func() error { panic("oops") })
		t.Error("Do returned from a panic")
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = ns.Do(func() error { runtime.Goexit(); return nil })
		t.Error("Do returned from a Goexit")
	}()
	<-done
}

func TestCloseIsIdempotent(t *testing.T) {
	ns := xsktest.Namespace(t)
	for range 2 {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := ns.Do(func() error { return nil }); !errors.Is(err, netns.ErrClosed) {
		t.Errorf("Do after Close: %v, want ErrClosed", err)
	}
	if ns.Fd() != -1 || ns.File() != nil {
		t.Error("a closed namespace still has a descriptor")
	}
	if err := netns.Veth(ns, ns, netns.VethOptions{}); !errors.Is(err, netns.ErrClosed) {
		t.Errorf("Veth after Close: %v, want ErrClosed", err)
	}
}

// TestVethUsableAtOnce sends the first packet right after Veth returned, over
// both families, unicast and multicast. Each is sent once.
func TestVethUsableAtOnce(t *testing.T) {
	for i := range 5 {
		a, b := xsktest.VethPair(t)
		for _, c := range []struct{ network, local, remote string }{
			{"udp4", "0.0.0.0:0", b.Addr4.String()},
			{"udp6", a.Addr6.String(), b.Addr6.String()},
			{"udp4", "", "224.0.0.81"},
			{"udp6", "", "ff02::81"},
		} {
			var rx net.PacketConn
			err := b.NS.Do(func() (err error) {
				ip := net.ParseIP(c.remote)
				if ip.IsMulticast() {
					ifi, err := net.InterfaceByName(b.Name)
					if err != nil {
						return err
					}
					rx, err = net.ListenMulticastUDP(c.network, ifi, &net.UDPAddr{IP: ip, Port: 8848})
					return err
				}
				rx, err = net.ListenPacket(c.network, net.JoinHostPort(c.remote, "8848"))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			err = a.NS.Do(func() error {
				remote := c.remote
				if c.remote == "ff02::81" {
					remote += "%" + a.Name
				}
				tx, err := net.Dial(c.network, net.JoinHostPort(remote, "8848"))
				if err != nil {
					return err
				}
				defer tx.Close()
				_, err = fmt.Fprintf(tx, "round %d", i)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 100)
			n, _, err := rx.ReadFrom(buf)
			if want := fmt.Sprintf("round %d", i); err != nil || string(buf[:n]) != want {
				t.Errorf("%s: got %q, %v, want %q", c.remote, buf[:n], err, want)
			}
			rx.Close()
		}
	}
}

func TestVethOptions(t *testing.T) {
	a, b := xsktest.VethPairWith(t, netns.VethOptions{MTU: 9000, Queues: 4})
	for _, e := range []xsktest.End{a, b} {
		err := e.NS.Do(func() error {
			link, err := netlink.LinkByName(e.Name)
			if err != nil {
				return err
			}
			at := link.Attrs()
			if at.MTU != 9000 || at.NumTxQueues != 4 || at.NumRxQueues != 4 {
				t.Errorf("MTU %d, %d and %d queues, want 9000, 4 and 4", at.MTU, at.NumTxQueues, at.NumRxQueues)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	// A failing pair leaves nothing: the name of A is taken, then that of B.
	for _, opts := range []netns.VethOptions{
		{A: netns.End{Name: "veth0"}, B: netns.End{Name: "other"}},
		{A: netns.End{Name: "other"}, B: netns.End{Name: "veth0"}},
		{A: netns.End{Name: "other", Addrs: make([]netip.Prefix, 1)}, B: netns.End{Name: "other"}},
	} {
		err := netns.Veth(a.NS, b.NS, opts)
		var typed *netns.Error
		if !errors.As(err, &typed) {
			t.Errorf("Veth(%+v) = %v, want an *Error", opts, err)
		}
		_ = a.NS.Do(func() error {
			if links, err := netlink.LinkList(); err != nil || len(links) != 2 {
				t.Errorf("%d links, %v, want lo and veth0", len(links), err)
			}
			return nil
		})
	}
}

func TestTap(t *testing.T) {
	ns := xsktest.Namespace(t)
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		xsktest.SkipOrFail(t, "%v: load the module tun", err)
	}
	err := netns.Tap(ns, "tap0", netip.MustParsePrefix("10.98.0.1/24"), netip.MustParsePrefix("fd98::1/64"))
	if err != nil {
		t.Fatal(err)
	}
	err = ns.Do(func() error {
		for _, addr := range []string{"10.98.0.1:0", "[fd98::1]:0"} {
			c, err := net.ListenPacket("udp", addr)
			if err != nil {
				return err
			}
			c.Close()
		}
		for _, dst := range []string{"224.0.0.81:8848", "[ff05::81]:8848"} {
			c, err := net.Dial("udp", dst)
			if err != nil {
				return err
			}
			c.Close()
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
