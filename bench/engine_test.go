package bench

import (
	"errors"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/xsk"
)

// transport opens what a Sender sends by; it is called in the near namespace.
type transport func(iface string, lost func([]byte)) (xsk.Tx, error)

func overXDP(sum xsk.UDPChecksum) transport {
	return func(iface string, lost func([]byte)) (xsk.Tx, error) {
		return xsk.OpenXDPTx(xsk.XDPConfig{
			Interface: iface, Group: group, Port: port, MaxPayload: messageSize, Mode: xsk.CopyOnly, Checksum: sum, Lost: lost,
		})
	}
}

func overUDP(gso xsk.Offload) transport {
	return func(iface string, lost func([]byte)) (xsk.Tx, error) {
		return xsk.OpenUDPTx(xsk.UDPConfig{
			Interface: iface, Group: group, Port: port, MaxPayload: messageSize, GSO: gso, Batch: udpBatch, Lost: lost,
		})
	}
}

// udpBatch is two full trains: what was fastest of 22, 44, 64, 88 and 128.
const udpBatch = 88

// published is what the producer publishes at once: so many that messages never
// begin and end with a batch.
var published = flows(32)

// sender is the whole engine: one producer, its ring, the transmit loop, the
// transport. full is called when the ring is.
func (p *path) sender(open transport, ring int, full func()) (s *ipvsync.Sender, send func(n int)) {
	p.in(p.near, func() (err error) {
		s, err = ipvsync.NewSender(ipvsync.SenderConfig{
			Link: ipvsync.Link{Interface: p.near.Name}, Shards: 1, RingSize: ring, CPUs: []int{nearCPU},
			OpenTx: func(_ int, lost func([]byte)) (xsk.Tx, error) { return open(p.near.Name, lost) },
		})
		return err
	})
	p.tb.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, ipvsync.ErrLost) { // it says what was lost since the beginning
			p.tb.Error(err)
		}
		st := s.Stats()
		if st.Published != st.Sent+st.DroppedTotal() {
			p.tb.Errorf("updates got lost without a counter: %+v", st)
		}
	})
	shard := s.Shard(0)
	return s, func(n int) {
		for left := n * recordsPerMessage; left > 0; {
			k, err := shard.PublishBatch(published[:min(left, len(published))])
			left -= k
			if err == nil {
				continue
			}
			if !errors.Is(err, ipvsync.ErrRingFull) {
				p.tb.Error(err)
				return
			}
			full()
		}
		// What a full device gave up did not arrive, and is reported as lost.
		if err := s.Flush(p.tb.Context()); err != nil && !errors.Is(err, ipvsync.ErrLost) {
			p.tb.Error(err)
		}
	}
}

var pauseWord atomic.Uint32

// spin waits some microseconds without leaving the processor: for a producer
// that has one of its own.
func spin() {
	for range 4000 {
		pauseWord.Load()
	}
}

// rest sleeps until some of a ring is empty: 30 µs, and what the kernel adds, some 50.
// Go's own sleep takes a millisecond where nothing else runs, in which a ring of 1 MiB
// has run dry for long.
func rest() {
	ts := unix.NsecToTimespec(30_000)
	_ = unix.Nanosleep(&ts, nil) // interrupted: no matter
}

// engine is a side that publishes, and whose loop sends.
func (p *path) engine(name string, open transport, ring int, full func()) side {
	_, send := p.sender(open, ring, full)
	return side{name: name, send: func(n int) { onCPU(p.tb, farCPU, func() { send(n) }) }, arrived: p.arrived}
}

// direct is a side that encodes straight into the frames of a transport, in one
// goroutine, without the engine.
func (p *path) direct(name string, open transport, write bool) side {
	var tx xsk.Tx
	p.in(p.near, func() (err error) {
		tx, err = open(p.near.Name, func([]byte) { p.tb.Error("a message was given up") })
		return err
	})
	p.tb.Cleanup(func() { tx.Close() })
	m := message()
	flush := func() {
		for first := true; first || tx.Pending() > 0; first = false {
			if err := tx.Flush(); err != nil {
				p.tb.Fatal(err)
			}
		}
	}
	return side{name: name, send: func(n int) {
		for i := range n {
			buf, err := tx.Next()
			if err != nil {
				flush()
				if buf, err = tx.Next(); err != nil {
					p.tb.Fatal(err)
				}
			}
			if write {
				encode(buf, conns)
			} else if i < udpBatch {
				copy(buf, m)
			}
			tx.Commit(messageSize)
			if (i+1)%udpBatch == 0 {
				flush()
			}
		}
		flush()
	}, arrived: p.arrived}
}
