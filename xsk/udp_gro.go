package xsk

// Receiving trains: UDP GRO, the other half of udp_gso.go.
//
// A socket that asks for it gets datagrams of one sender in one piece, with
// their size in a control message: those that NAPI has put together
// (udp_gro_receive), and those that were never cut, because the sender's train
// came over veth, loopback or a virtual NIC. Here they are split where they lie:
// a Datagram is a slice of the buffer. A train may have more messages than a
// batch has room for; the next Receive goes on with it before it asks the kernel.

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	// trainBuffer holds the longest UDP payload, so that nothing is ever cut
	// off. (GRO and IPv6 jumbograms stay below: skb_gro_receive, GRO_LEGACY_MAX_SIZE.)
	trainBuffer = maxDatagram

	// trainStride is the distance between buffers: 64 KiB and a bit more, so
	// that the starts of all buffers do not fall on the same lines of a cache,
	// which are all that is used where no trains come.
	trainStride = 64<<10 + 1536

	// trainBuffers is the most buffers with GRO.
	trainBuffers = 64

	// recvBytes is about how much one recvmmsg should bring: what is read
	// soon after should still be in the cache. Four full trains cost 52 ns a
	// message, eight 60, sixteen and more 75 (1448 bytes, 2 MiB of L2).
	recvBytes = 4 * trainBuffer
)

// enableGRO asks for trains, and reports whether they will come.
func enableGRO(fd int, want Offload) (bool, error) {
	if want == OffloadOff {
		return false, nil
	}
	return supported("UDP_GRO", "GRO", "5.0", unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1), want)
}

// groFrames makes the buffers of a receiver.
func groFrames(batch, size int, gro bool) *udpRxFrames {
	if gro {
		return newUDPRxFrames(min(batch, trainBuffers), trainBuffer, trainStride, true)
	}
	return newUDPRxFrames(batch, size, (size+63)&^63, false)
}

// adapt sets how many buffers the next recvmmsg gets, from how full the last one
// made n of them: a few where trains come, all where single messages do.
func (r *UDPRx) adapt(n int) {
	r.ask = len(r.frames.msgs)
	if bytes := r.frames.bytes(n); r.info.GRO && bytes > 0 {
		r.ask = min(r.ask, max(recvBytes*n/bytes, recvBytes/trainBuffer))
	}
}

// splitter is how far the frames of the last recvmmsg have been split.
type splitter struct {
	next    int    // the frame after the one that rest is of
	rest    []byte // what is left of that one
	segment int    // size of its messages; the last may be shorter
	train   bool   // it had more than one
	src     netip.AddrPort
}

// unsplit says whether the next Receive has something without asking the kernel.
// For the receiving goroutine.
func (r *UDPRx) unsplit() bool { return len(r.rest) > 0 || r.next < r.used }

// split fills the batch with messages not yet delivered, as many as it holds.
func (r *UDPRx) split() {
	s := &r.splitter
	for len(r.batch) < cap(r.batch) {
		if len(s.rest) == 0 {
			if s.next == r.used {
				return
			}
			r.open()
			if s.segment == 0 { // a datagram without payload
				r.batch = append(r.batch, Datagram{Payload: s.rest, Src: s.src})
				r.n.Messages++
			}
			continue
		}
		r.splitOne()
	}
}

// splitOne delivers what is left of one frame, or as much as the batch holds.
func (r *UDPRx) splitOne() {
	s := &r.splitter
	rest, src, segment := s.rest, s.src, s.segment
	most := r.cfg.MaxPayload
	batch, was := r.batch, len(r.batch)
	for len(rest) > 0 && len(batch) < cap(batch) {
		n := min(segment, len(rest))
		if n > most {
			r.n.Truncated++
		} else {
			batch = batch[:len(batch)+1]
			d := &batch[len(batch)-1]
			d.Payload, d.Src = rest[:n:n], src
			r.n.Bytes += uint64(n)
		}
		rest = rest[n:]
	}
	s.rest, r.batch = rest, batch
	n := uint64(len(batch) - was)
	r.n.Messages += n
	if s.train {
		r.n.Coalesced += n
	}
}

// open begins with the next frame. If bytes were cut off at its end, the last
// message is dropped.
func (r *UDPRx) open() {
	s := &r.splitter
	var truncated bool
	s.rest, s.segment, s.src, truncated = r.frames.received(s.next)
	s.train = s.segment < len(s.rest)
	s.next++
	if truncated && s.segment > 0 {
		r.n.Truncated++
		s.rest = s.rest[:(len(s.rest)-1)/s.segment*s.segment]
	}
}
