package bench

import (
	"github.com/asavie/xdp"
)

// The opponent github.com/asavie/xdp v0.3.3, at its best: batches of 64, rings
// and packet memory of 128 frames, since GetDescs looks at frames from the first
// one on (with 2048 it is half as fast); completions taken by Complete, as its
// documentation has it for whoever polls by himself, since Poll makes one more
// system call; asavieExample has it. Its sockets are never closed: Close leaves the rings mapped,
// so that only the end of the namespace lets go of the queue.

const asavieFrames = 128

func (p *path) asavieSocket(ifindex, tx, rx int) (s *xdp.Socket) {
	var err error
	s, err = xdp.NewSocket(ifindex, 0, &xdp.SocketOptions{
		NumFrames: max(asavieFrames, 2*rx), FrameSize: 2048,
		FillRingNumDescs: max(rx, 64), CompletionRingNumDescs: max(tx, 64), RxRingNumDescs: rx, TxRingNumDescs: tx,
	})
	if err != nil {
		p.tb.Fatal(err)
	}
	return s
}

// asavie sends by asavie/xdp. With write it encodes the records of each message
// straight into the frame, in the sending goroutine; headers and the IP checksum
// stay from packet to packet, and there is no UDP checksum.
func (p *path) asavie(write bool) side {
	packet := p.packet(message())
	var s *xdp.Socket
	p.in(p.near, func() error {
		s = p.asavieSocket(p.netdev(p.near).Index, asavieFrames, 0)
		return nil
	})
	for _, d := range s.GetDescs(asavieFrames) {
		copy(s.GetFrame(d), packet)
	}
	return side{name: "asavie", send: func(n int) {
		for n > 0 || s.NumTransmitted() > 0 {
			descs := s.GetDescs(min(n, batch, s.NumFreeTxSlots()))
			for i := range descs {
				descs[i].Len = uint32(len(packet))
				if write {
					encodeByHand(s.GetFrame(descs[i])[headersSize:], conns)
				}
			}
			n -= s.Transmit(descs)
			s.Complete(s.NumCompleted())
		}
	}, arrived: p.arrived}
}

// asavieExample sends prefilled frames the way of the library's example sendudp,
// with its default sizes and a Poll after each Transmit.
func (p *path) asavieExample() side {
	packet := p.packet(message())
	var s *xdp.Socket
	p.in(p.near, func() (err error) {
		s, err = xdp.NewSocket(p.netdev(p.near).Index, 0, nil)
		return err
	})
	for _, d := range s.GetDescs(xdp.DefaultSocketOptions.NumFrames) {
		copy(s.GetFrame(d), packet)
	}
	return side{name: "asavie example", send: func(n int) {
		for n > 0 || s.NumTransmitted() > 0 {
			descs := s.GetDescs(min(n, s.NumFreeTxSlots()))
			for i := range descs {
				descs[i].Len = uint32(len(packet))
			}
			n -= s.Transmit(descs)
			if _, _, err := s.Poll(-1); err != nil {
				p.tb.Error(err)
				return
			}
		}
	}, arrived: p.arrived}
}
