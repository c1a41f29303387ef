package bench

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/asavie/xdp"
	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
)

// rxTurn is long enough for receivers to fall behind, if they do.
const rxTurn = 200_000

// counter is what a receiver has got: records, since the last message of a turn
// may be part-filled. It is written by the receiver alone.
type counter struct {
	_   [64]byte
	got atomic.Uint64
	_   [64]byte

	// Of a receiver that never sleeps: it must not disturb the other side's turns.
	active atomic.Bool
	resume chan struct{} // nil: of one that sleeps

	ended time.Time // when the last message of a turn was seen to come
}

func (c *counter) add(records int) { c.got.Store(c.got.Load() + uint64(records)) }

func (c *counter) messages() uint64 { return c.got.Load() / recordsPerMessage }

// until waits for a receiver to have n records, or for it to get nothing more:
// what has not come by then, with the sender long done, is lost.
func (c *counter) until(n uint64) {
	last, since := c.got.Load(), time.Now()
	for last < n && time.Since(since) < 20*time.Millisecond {
		time.Sleep(20 * time.Microsecond)
		if now := c.got.Load(); now != last {
			last, since = now, time.Now()
		}
	}
	c.ended = since
}

// between is a side with a sender, which sends on cpu, and a receiver on farCPU.
func (p *path) between(name string, cpu int, send func(n int), c *counter) side {
	return side{name: name, send: func(n int) {
		if c.resume != nil {
			c.active.Store(true)
			c.resume <- struct{}{}
			defer c.active.Store(false)
		}
		before := c.got.Load()
		onCPU(p.tb, cpu, func() { send(n) })
		c.until(before + uint64(n)*recordsPerMessage)
	}, arrived: c.messages, ended: func() time.Time { return c.ended }}
}

// receiveUntilStopped runs step on a goroutine until the end of the benchmark, in the
// turns of its side. step returns how many records it got. If none, it naps as our
// receiver does: whoever looks at the ring all the time takes its lines from the kernel
// that writes them, which made bare loops a fifth slower and twice as dear.
func (p *path) receiveUntilStopped(c *counter, step func() int) {
	c.resume = make(chan struct{}, 1)
	var stop atomic.Bool
	var done sync.WaitGroup
	done.Go(func() {
		pin(p.tb, farCPU)
		for !stop.Load() {
			if !c.active.Load() {
				<-c.resume
				continue
			}
			if n := step(); n > 0 {
				c.add(n)
			} else {
				nap()
			}
		}
	})
	p.tb.Cleanup(func() {
		stop.Store(true)
		close(c.resume)
		done.Wait()
	})
}

// nap is what ours is by default: 20 µs, and what the kernel adds, some 50.
func nap() {
	ts := unix.NsecToTimespec(20_000)
	_ = unix.Nanosleep(&ts, nil) // interrupted: no matter
}

var sink atomic.Uint64

// walk reads all records of a message, as a bare loop would: no checks.
func walk(m []byte) (sum uint64) {
	for at := 8; at+recordSize <= len(m); at += recordSize {
		sum += uint64(m[at+24]) + uint64(m[at+10])
	}
	return sum
}

// bareReceiver takes packets off our own socket and gives them back. With records
// it looks at each record, too.
func (p *path) bareReceiver(frames int, records bool) *counter {
	c := new(counter)
	var prog *xsk.Program
	var s *xsk.Socket
	p.in(p.far, func() (err error) {
		prog, err = xsk.OpenProgram(xsk.ProgramConfig{Interface: p.far.Name, Group: group, FirstPort: port})
		if err == nil {
			s, err = xsk.OpenSocket(xsk.SocketConfig{Interface: p.far.Name, RxFrames: frames, Mode: xsk.CopyOnly, Program: prog})
		}
		return err
	})
	p.tb.Cleanup(func() {
		prog.Close()
		s.Close()
		s.Unmap()
	})
	q := s.Rx()
	p.receiveUntilStopped(c, func() (n int) {
		sum := uint64(0)
		for range batch {
			f, packet, ok := q.Take()
			if !ok {
				break
			}
			if records {
				sum += walk(packet[headersSize:])
			} else {
				sum += uint64(packet[len(packet)-1])
			}
			q.Put(f)
			n += recordsPerMessage
		}
		if n > 0 {
			q.Refill()
			sink.Add(sum)
		}
		return n
	})
	return c
}

// receiver is the whole engine: transport, checks, decoder, handler. The handler
// looks at each connection.
func (p *path) receiver(open func(iface string) (xsk.Rx, error)) *counter {
	c := new(counter)
	var r *ipvsync.Receiver
	p.in(p.far, func() (err error) {
		sum := uint64(0)
		r, err = ipvsync.NewReceiver(ipvsync.ReceiverConfig{
			Link: ipvsync.Link{Interface: p.far.Name}, CPUs: []int{farCPU},
			OpenRx: func() (xsk.Rx, error) { return open(p.far.Name) },
		}, func(m *ipvsync.Message) {
			for i := range m.Conns {
				sum += uint64(m.Conns[i].Client.Port) + uint64(m.Conns[i].Client.Addr[3])
			}
			c.add(len(m.Conns))
		})
		return err
	})
	done := make(chan error, 1)
	go func() { done <- r.Run(context.Background()) }()
	p.tb.Cleanup(func() {
		r.Close()
		<-done
	})
	return c
}

// rxFrames is what ipvsync backup has by default, 8 MiB; a Receiver has half. fewFrames
// is what the second-level cache has room for.
const rxFrames, fewFrames = 4096, 1024

func xdpReceiver(frames int) func(iface string) (xsk.Rx, error) {
	return func(iface string) (xsk.Rx, error) {
		return xsk.OpenXDPRx(xsk.XDPConfig{Interface: iface, Group: group, Port: port, Mode: xsk.CopyOnly, RxFrames: frames, OwnThread: true})
	}
}

// asavieReceiver is asavie/xdp with package encoder's decoder. It does
// without Poll, which would have the sender wake it for each batch.
func (p *path) asavieReceiver() *counter {
	c := new(counter)
	const frames = rxFrames
	var s *xdp.Socket
	p.in(p.far, func() error {
		ifindex := p.netdev(p.far).Index
		program, err := xdp.NewProgram(1)
		if err != nil {
			return err
		}
		p.tb.Cleanup(func() { program.Close() })
		if err := program.Attach(ifindex); err != nil {
			return err
		}
		s, err = xdp.NewSocket(ifindex, 0, &xdp.SocketOptions{NumFrames: frames, FrameSize: 2048,
			FillRingNumDescs: frames, CompletionRingNumDescs: 64, RxRingNumDescs: frames})
		if err != nil {
			return err
		}
		return program.Register(0, s.FD())
	})
	s.Fill(s.GetDescs(frames))
	var d encoder.Decoder
	var conn encoder.Conn
	p.receiveUntilStopped(c, func() int {
		n := s.NumReceived()
		if n == 0 {
			return 0
		}
		records, sum := 0, uint64(0)
		descs := s.Receive(min(n, batch))
		for i := range descs {
			d.Open(s.GetFrame(descs[i])[headersSize:])
			for reason, ok := d.Next(&conn); ok; reason, ok = d.Next(&conn) {
				if reason == encoder.Accepted {
					sum += uint64(conn.Client.Port) + uint64(conn.Client.Addr[3])
					records++
				}
			}
		}
		s.Fill(descs) // the addresses are behind a headroom: the kernel masks them
		sink.Add(sum)
		return records
	})
	return c
}

// BenchmarkXDPRx: the engine's receiver, handed a flood by a bare sender, against
// a loop that receives and releases, or also reads each record: on two processors,
// what is read has to come from one to the other.
func BenchmarkXDPRx(b *testing.B) {
	for _, c := range []struct {
		ours, bare string
		frames     int
		records    bool
	}{
		{"decoding", "bare loop", rxFrames, false},
		{"decoding", "reading loop", rxFrames, true},
		{"decoding, 1024 frames,", "bare loop", fewFrames, false},
		{"decoding, 1024 frames,", "reading loop", fewFrames, true},
	} {
		b.Run(c.ours+" against "+c.bare, func(b *testing.B) {
			needProcessors(b)
			p, q := newPath(b), newPath(b)
			got, theirs := p.receiver(xdpReceiver(c.frames)), q.bareReceiver(c.frames, c.records)
			duel(b, rxTurn, p.between("engine", nearCPU, p.bareSocket(), got), q.between("bare", nearCPU, q.bareSocket(), theirs))
		})
	}
}

// bothEndsRing holds what the loop sends in some milliseconds: as long as a
// producer may have to wait for the thread that it shares its processor with. With
// 1 MiB, a quarter of that, the loop ran dry, and the rate was half.
const bothEndsRing = 4 << 20

// BenchmarkBothEnds: from published records to the handler. The engine has three
// threads. On two processors the producer takes its time either from the transmit
// loop, and then nothing is lost, or from the receiver.
func BenchmarkBothEnds(b *testing.B) {
	for _, c := range []struct {
		name string
		cpu  int
	}{{"sender", nearCPU}, {"receiver", farCPU}} {
		run := func(name string, theirs func(p *path) side) {
			b.Run("engine, producer beside the "+c.name+", against "+name, func(b *testing.B) {
				needProcessors(b)
				p := newPath(b)
				got := p.receiver(xdpReceiver(rxFrames))
				_, send := p.sender(overXDP(xsk.ChecksumAuto), bothEndsRing, rest)
				duel(b, rxTurn, p.between("engine", c.cpu, send, got), theirs(newPath(b)))
			})
		}
		run("asavie", func(p *path) side {
			c := p.asavieReceiver()
			return p.between("asavie", nearCPU, p.asavie(true).send, c)
		})
		run("bare loops", func(p *path) side {
			c := p.bareReceiver(rxFrames, true)
			return p.between("bare", nearCPU, p.bareSocket(), c)
		})
	}
}
