package kernellab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Collector keeps, in their order, the synchronisation messages that arrive at
// the host's side. Its methods may be called from several goroutines.
type Collector struct {
	mu    sync.Mutex
	msgs  [][]byte
	err   error
	fresh chan struct{} // one token when msgs or err changed
}

// Collect joins the group of a master daemon with these options and returns when
// the kernel listens. It stops with the test.
func (g *Guest) Collect(tb testing.TB, o DaemonOptions) *Collector {
	tb.Helper()
	c := &Collector{fresh: make(chan struct{}, 1)}
	var conn *net.UDPConn
	err := g.ns.Do(func() error {
		ifi, err := net.InterfaceByName(TapName)
		if err != nil {
			return err
		}
		addr := o.addr()
		network := "udp4"
		if addr.IP.To4() == nil {
			network = "udp6"
		}
		conn, err = net.ListenMulticastUDP(network, ifi, addr)
		return err
	})
	if err != nil {
		tb.Fatalf("join group: %v", err)
	}
	_ = conn.SetReadBuffer(4 << 20)
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, _, err := conn.ReadFromUDP(buf)
			c.add(buf[:n], err)
			if err != nil {
				return
			}
		}
	})
	tb.Cleanup(func() {
		conn.Close()
		wg.Wait()
	})
	return c
}

func (c *Collector) add(msg []byte, err error) {
	c.mu.Lock()
	if err != nil {
		c.err = err
	} else {
		c.msgs = append(c.msgs, append([]byte(nil), msg...))
	}
	c.mu.Unlock()
	select {
	case c.fresh <- struct{}{}:
	default:
	}
}

// All returns what has arrived since the last [Collector.Clear].
func (c *Collector) All() [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([][]byte(nil), c.msgs...)
}

// Clear forgets what has arrived.
func (c *Collector) Clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.msgs = nil
}

// Until waits until the condition holds for the messages since the last Clear
// and returns them. It fails the test after the timeout. Only one goroutine may
// wait at a time.
func (c *Collector) Until(tb testing.TB, timeout time.Duration, cond func(msgs [][]byte) bool) [][]byte {
	tb.Helper()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		msgs := c.All()
		if cond(msgs) {
			return msgs
		}
		c.mu.Lock()
		err := c.err
		c.mu.Unlock()
		if err != nil {
			tb.Fatalf("collect: %v", err)
		}
		select {
		case <-c.fresh:
		case <-timer.C:
			tb.Fatalf("collect: condition not met after %v by %d messages:\n%s", timeout, len(msgs), dump(msgs))
		}
	}
}

func dump(msgs [][]byte) string {
	s := ""
	for _, m := range msgs {
		s += fmt.Sprintf("%x\n", m)
	}
	return s
}

// Capture writes the UDP frames of the wire to ports [SyncPort], SyncPort+63 into
// a pcap file, until the function that it returns is called. Frames are complete:
// the guest computes its checksums itself.
func (g *Guest) Capture(tb testing.TB, path string) (stop func()) {
	tb.Helper()
	var fd int
	err := g.ns.Do(func() (err error) {
		ifi, err := net.InterfaceByName(TapName)
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index})
	})
	if err != nil {
		tb.Fatalf("open packet socket: %v", err)
	}
	sock := os.NewFile(uintptr(fd), "packet socket")
	var wg sync.WaitGroup
	// Header of a little-endian pcap file, version 2.4, link type Ethernet.
	file := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	file = binary.LittleEndian.AppendUint16(file, 2)
	file = binary.LittleEndian.AppendUint16(file, 4)
	for _, v := range []uint32{0, 0, 1 << 16, 1} {
		file = binary.LittleEndian.AppendUint32(file, v)
	}
	wg.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, err := sock.Read(buf)
			if err != nil {
				return
			}
			if !syncFrame(buf[:n]) {
				continue
			}
			now := time.Now()
			for _, v := range []uint32{uint32(now.Unix()), uint32(now.Nanosecond() / 1000), uint32(n), uint32(n)} {
				file = binary.LittleEndian.AppendUint32(file, v)
			}
			file = append(file, buf[:n]...)
		}
	})
	var once sync.Once
	stop = func() {
		once.Do(func() {
			err := sock.Close()
			wg.Wait()
			if err = errors.Join(err, os.WriteFile(path, file, 0o644)); err != nil {
				tb.Errorf("write %s: %v", path, err)
			}
		})
	}
	tb.Cleanup(stop)
	return stop
}

// syncFrame reports whether an Ethernet frame holds UDP, over IPv4 or IPv6
// without extensions, to one of the ports of the protocol.
func syncFrame(b []byte) bool {
	const eth = 14
	var udp int
	switch {
	case len(b) >= eth+20 && b[12] == 0x08 && b[13] == 0x00 && b[eth+9] == unix.IPPROTO_UDP:
		udp = eth + int(b[eth]&0x0f)*4
	case len(b) >= eth+40 && b[12] == 0x86 && b[13] == 0xdd && b[eth+6] == unix.IPPROTO_UDP:
		udp = eth + 40
	default:
		return false
	}
	if len(b) < udp+8 {
		return false
	}
	port := binary.BigEndian.Uint16(b[udp+2:])
	return port >= SyncPort && port < SyncPort+64
}
