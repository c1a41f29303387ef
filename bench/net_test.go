package bench

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
)

// The ways that Go's libraries offer: a net.UDPConn for each message, and the
// batches of golang.org/x/net, which are sendmmsg and recvmmsg.

// udpConn opens a socket in the namespace of e; it is closed with the benchmark.
func (p *path) udpConn(open func() (*net.UDPConn, error), in func(func() error)) *net.UDPConn {
	var c *net.UDPConn
	in(func() (err error) {
		c, err = open()
		return err
	})
	p.tb.Cleanup(func() { c.Close() })
	return c
}

func (p *path) dialGroup() *net.UDPConn {
	return p.udpConn(func() (*net.UDPConn, error) {
		return net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(group, port)))
	}, func(f func() error) { p.in(p.near, f) })
}

// perMessage writes each message by itself, to a connected socket: one without a
// destination looks up the route each time. With write it encodes the message
// first, in the sending goroutine.
func (p *path) perMessage(write bool) side {
	c, m := p.dialGroup(), message()
	return side{name: "net.UDPConn", send: func(n int) {
		for range n {
			if write {
				encodeByHand(m, conns)
			}
			if _, err := c.Write(m); err != nil {
				p.tb.Fatal(err)
			}
		}
	}, arrived: p.arrived}
}

// train is as many messages as 64 KiB hold.
const train = 44

// perTrain is perMessage with UDP_SEGMENT set on the socket, once: a train of
// messages for each Write. This is all that a Go program needs for GSO.
func (p *path) perTrain(write bool) side {
	c := p.dialGroup()
	setOption(p.tb, c, unix.SOL_UDP, unix.UDP_SEGMENT, messageSize)
	buf := make([]byte, 0, train*messageSize)
	for range train {
		buf = append(buf, message()...)
	}
	return side{name: "net.UDPConn, UDP_SEGMENT", send: func(n int) {
		for n > 0 {
			k := min(n, train)
			if write {
				for i := range k {
					encodeByHand(buf[i*messageSize:], conns)
				}
			}
			if _, err := c.Write(buf[:k*messageSize]); err != nil {
				p.tb.Fatal(err)
			}
			n -= k
		}
	}, arrived: p.arrived}
}

func setOption(tb testing.TB, c *net.UDPConn, level, name, value int) {
	raw, err := c.SyscallConn()
	if err == nil {
		err = errors.Join(raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), level, name, value)
		}), err)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// writeBatch sends batches of 64 by golang.org/x/net. 128 are no faster.
func (p *path) writeBatch(write bool) side {
	c := ipv4.NewPacketConn(p.dialGroup())
	ms := make([]ipv4.Message, batch)
	for i := range ms {
		ms[i].Buffers = [][]byte{message()}
	}
	return side{name: "x-net WriteBatch", send: func(n int) {
		for n > 0 {
			k := min(n, batch)
			if write {
				for i := range ms[:k] {
					encodeByHand(ms[i].Buffers[0], conns)
				}
			}
			sent, err := c.WriteBatch(ms[:k], 0)
			if err != nil {
				p.tb.Fatal(err)
			}
			n -= sent
		}
	}, arrived: p.arrived}
}

// listenGroup opens a socket that gets what is sent to the group, with as large
// a buffer as ours.
func (p *path) listenGroup() *net.UDPConn {
	c := p.udpConn(func() (*net.UDPConn, error) {
		ifi, err := net.InterfaceByName(p.far.Name)
		if err != nil {
			return nil, err
		}
		return net.ListenMulticastUDP("udp4", ifi, &net.UDPAddr{IP: group.AsSlice(), Port: port})
	}, func(f func() error) { p.in(p.far, f) })
	raw, err := c.SyscallConn()
	if err == nil {
		err = errors.Join(raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer)
		}), err)
	}
	if err != nil {
		p.tb.Fatal(err)
	}
	return c
}

const socketBuffer = 16 << 20

// decodeUntilClosed runs step on a goroutine until the socket is closed.
func (p *path) decodeUntilClosed(c *net.UDPConn, step func(count func(message []byte)) error) *counter {
	n := new(counter)
	var done sync.WaitGroup
	done.Go(func() {
		var d encoder.Decoder
		var conn encoder.Conn
		records, sum := 0, uint64(0)
		count := func(m []byte) { // here, lest each message allocate it
			d.Open(m)
			for reason, ok := d.Next(&conn); ok; reason, ok = d.Next(&conn) {
				if reason == encoder.Accepted {
					sum += uint64(conn.Client.Port) + uint64(conn.Client.Addr[3])
					records++
				}
			}
		}
		for {
			records, sum = 0, 0
			err := step(count)
			sink.Add(sum)
			n.add(records)
			switch {
			case errors.Is(err, net.ErrClosed):
				return
			case err != nil:
				p.tb.Error(err)
				return
			}
		}
	})
	p.tb.Cleanup(func() {
		c.Close()
		done.Wait()
	})
	return n
}

// readEach reads message by message, without allocation.
func (p *path) readEach() *counter {
	c, buf := p.listenGroup(), make([]byte, 2048)
	return p.decodeUntilClosed(c, func(count func([]byte)) error {
		n, _, err := c.ReadFromUDPAddrPort(buf)
		count(buf[:n])
		return err
	})
}

// readTrain reads trains, by UDP_GRO, and cuts them apart.
func (p *path) readTrain() *counter {
	c, buf, oob := p.listenGroup(), make([]byte, 1<<16), make([]byte, 64)
	setOption(p.tb, c, unix.SOL_UDP, unix.UDP_GRO, 1)
	return p.decodeUntilClosed(c, func(count func([]byte)) error {
		n, k, _, _, err := c.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			return err
		}
		size := n
		if k >= unix.CmsgLen(4) {
			size = int(binary.NativeEndian.Uint32(oob[unix.CmsgLen(0):]))
		}
		for at := 0; at < n; at += size {
			count(buf[at:min(at+size, n)])
		}
		return nil
	})
}

// readBatch reads batches of 64 by golang.org/x/net.
func (p *path) readBatch() *counter {
	c := p.listenGroup()
	pc := ipv4.NewPacketConn(c)
	ms := make([]ipv4.Message, batch)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, 2048)}
	}
	return p.decodeUntilClosed(c, func(count func([]byte)) error {
		n, err := pc.ReadBatch(ms, 0)
		if err != nil {
			return err
		}
		for i := range ms[:n] {
			count(ms[i].Buffers[0][:ms[i].N])
		}
		return nil
	})
}

// udpReceiver is how a Receiver of the engine listens over UDP, with GRO.
func udpReceiver(iface string) (xsk.Rx, error) {
	return xsk.OpenUDPRx(xsk.UDPConfig{Interface: iface, Group: group, Port: port, RcvBuf: socketBuffer, OwnThread: true})
}

// BenchmarkTxLibraries: the engine, from Shard.PublishBatch to the kernel, beside
// Go's own ways to send. Theirs encode in the sending goroutine, or send what is
// ready.
func BenchmarkTxLibraries(b *testing.B) {
	for _, ours := range []struct {
		name string
		open transport
		turn int
		full func()
	}{
		{"AF_XDP", overXDP(xsk.ChecksumAuto), txTurn, rest},
		{"GSO", overUDP(xsk.OffloadOn), gsoTurn, spin}, // the ring is empty again in a tenth of a millisecond
	} {
		for _, theirs := range []struct {
			name string
			make func(p *path) side
		}{
			{"net.UDPConn encoding", func(p *path) side { return p.perMessage(true) }},
			{"net.UDPConn prefilled", func(p *path) side { return p.perMessage(false) }},
			{"net.UDPConn, UDP_SEGMENT, encoding", func(p *path) side { return p.perTrain(true) }},
			{"net.UDPConn, UDP_SEGMENT, prefilled", func(p *path) side { return p.perTrain(false) }},
			{"x-net WriteBatch encoding", func(p *path) side { return p.writeBatch(true) }},
			{"x-net WriteBatch prefilled", func(p *path) side { return p.writeBatch(false) }},
		} {
			b.Run(ours.name+" engine against "+theirs.name, func(b *testing.B) {
				needProcessors(b)
				duel(b, ours.turn, newPath(b).engine("engine", ours.open, 1<<20, ours.full), theirs.make(newPath(b)))
			})
		}
	}
}

// window is how many messages of trains may be on their way: they cost their
// sender so little that any receiver's buffer would overflow.
const window = 100 * 44

// windowed sends n messages, and waits where the receiver is behind.
func windowed(send func(n int), c *counter) func(n int) {
	return func(n int) {
		begin, behind := c.got.Load(), time.Now()
		for sent := 0; sent < n; {
			k := min(44, n-sent)
			send(k)
			sent += k
			for uint64(sent) > window+(c.got.Load()-begin)/recordsPerMessage {
				if time.Since(behind) > time.Second {
					return // messages were lost: the row says so
				}
				spin()
			}
			behind = time.Now()
		}
	}
}

// BenchmarkRxLibraries: the engine's receiver, up to the handler, beside Go's own
// ways to receive with package encoder's decoder. The messages come as single frames
// of a bare AF_XDP loop, or as trains of a sender with GSO.
func BenchmarkRxLibraries(b *testing.B) {
	for _, flood := range []struct {
		name string
		send func(p *path) func(n int)
	}{
		{"frames", (*path).bareSocket},
		{"trains", func(p *path) func(n int) { return p.bareGSO().send }},
	} {
		for _, ours := range []struct {
			name string
			open func(iface string) (xsk.Rx, error)
		}{{"AF_XDP", xdpReceiver(rxFrames)}, {"GRO", udpReceiver}} {
			if flood.name == "trains" && ours.name == "AF_XDP" {
				continue // the kernel does not cut trains for AF_XDP: they pass it by
			}
			for _, theirs := range []struct {
				name string
				make func(p *path) *counter
			}{
				{"ReadFromUDPAddrPort", (*path).readEach},
				{"ReadMsgUDPAddrPort, UDP_GRO", (*path).readTrain},
				{"x-net ReadBatch", (*path).readBatch},
			} {
				b.Run(flood.name+", "+ours.name+" engine against "+theirs.name, func(b *testing.B) {
					needProcessors(b)
					p, q := newPath(b), newPath(b)
					c, d := p.receiver(ours.open), theirs.make(q)
					toOurs, toTheirs := flood.send(p), flood.send(q)
					if flood.name == "trains" {
						toOurs, toTheirs = windowed(toOurs, c), windowed(toTheirs, d)
					}
					duel(b, rxTurn, p.between("engine", nearCPU, toOurs, c), q.between(theirs.name, nearCPU, toTheirs, d))
				})
			}
		}
	}
}
