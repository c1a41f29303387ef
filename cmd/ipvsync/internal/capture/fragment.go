package capture

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// How long a datagram waits for its fragments, from the first to come:
// ipfrag_time and ip6frag_time of Linux.
const (
	patienceV4 = 30 * time.Second
	patienceV6 = 60 * time.Second
)

const (
	maxPending  = 1024 // datagrams; bounds the memory that a hostile capture can take
	maxDatagram = 65535
)

type fragKey struct {
	src, dst netip.Addr
	id       uint32
	proto    uint8
}

// pending is a datagram that waits for its fragments.
type pending struct {
	key    fragKey
	pieces []piece // by offset, without overlap
	total  int     // bytes in all, once the last piece has come; else 0
	count  int     // packets that brought something
	since  time.Time
	bad    string // why it is lost before its time

	packet int // of the piece at offset 0, or of the first to come
	time   time.Time
}

// piece is one fragment. data is shorter than it should be if the capture is cut.
type piece struct {
	start, end int
	data       []byte
}

// reassembler puts fragments together by the rules of Linux: whole 8-byte units
// but for the last; a repeat is ignored; any other overlap, or an end that
// contradicts another, loses the datagram (inet_frag_queue_insert). The zero
// value is ready.
type reassembler struct {
	queue []*pending // oldest first
}

// add takes one fragment. whole is the datagram that it completes; given are
// those that are given up.
func (r *reassembler) add(p *ipPacket, packet int, now time.Time) (whole *pending, given []*pending) {
	for len(r.queue) > 0 && (r.queue[0].expired(now) || len(r.queue) > maxPending) {
		given = append(given, r.queue[0])
		r.queue = r.queue[1:]
	}
	key := fragKey{p.src, p.dst, p.id, p.proto}
	i := slices.IndexFunc(r.queue, func(q *pending) bool { return q.key == key })
	if i >= 0 && r.queue[i].expired(now) { // behind an IPv6 one, which waits longer
		given = append(given, r.queue[i])
		r.queue = slices.Delete(r.queue, i, i+1)
		i = -1
	}
	if i < 0 {
		r.queue = append(r.queue, &pending{key: key, since: now, packet: packet, time: now})
		i = len(r.queue) - 1
	}
	q := r.queue[i]
	q.count++
	switch {
	case !q.insert(p, packet, now):
		given = append(given, q)
	case q.complete():
		q.packet, q.time = packet, now
		whole = q
	default:
		return nil, given
	}
	r.queue = slices.Delete(r.queue, i, i+1)
	return whole, given
}

// all gives up everything that waits.
func (r *reassembler) all() []*pending {
	q := r.queue
	r.queue = nil
	return q
}

func (q *pending) expired(now time.Time) bool {
	patience := patienceV4
	if q.key.src.Is6() {
		patience = patienceV6
	}
	return now.Sub(q.since) > patience
}

// insert is false if the fragment loses the datagram.
func (q *pending) insert(p *ipPacket, packet int, now time.Time) bool {
	length := p.length
	if p.more {
		length &^= fragUnit - 1
	}
	start, end := p.offset, p.offset+length
	at := 0
	for at < len(q.pieces) && q.pieces[at].end <= start {
		at++
	}
	switch {
	case p.fault != NoFault:
		return true // dropped before it gets here; another copy may come
	case length <= 0 || end > maxDatagram:
		q.bad = "fragment of senseless length"
	case at < len(q.pieces) && q.pieces[at].start <= start && q.pieces[at].end >= end:
		return true // a repeat
	case at < len(q.pieces) && q.pieces[at].start < end:
		q.bad = "fragments overlap"
	case !p.more && (q.total != 0 && q.total != end || q.end() > end), q.total != 0 && end > q.total:
		q.bad = "fragments contradict each other about the end"
	}
	if q.bad != "" {
		return false
	}
	if !p.more {
		q.total = end
	}
	if start == 0 {
		q.packet, q.time = packet, now
	}
	q.pieces = slices.Insert(q.pieces, at, piece{start, end, slices.Clone(p.payload[:min(length, len(p.payload))])})
	return true
}

// end is the offset up to which there is something.
func (q *pending) end() int {
	if len(q.pieces) == 0 {
		return 0
	}
	return q.pieces[len(q.pieces)-1].end
}

func (q *pending) bytes() (n int) {
	for _, p := range q.pieces {
		n += p.end - p.start
	}
	return n
}

func (q *pending) complete() bool { return q.total != 0 && q.bytes() == q.total }

// payload is what there is from the beginning on, up to the first gap.
func (q *pending) payload() (b []byte) {
	for _, p := range q.pieces {
		if p.start != len(b) {
			break
		}
		b = append(b, p.data...)
	}
	return b
}

// header is the IP packet that the fragments make.
func (q *pending) header() ipPacket {
	length := q.total
	if length == 0 {
		length = q.end()
	}
	return ipPacket{src: q.key.src, dst: q.key.dst, proto: q.key.proto, length: length}
}

// detail says what is missing.
func (q *pending) detail() string {
	switch {
	case q.bad != "":
		return q.bad
	case q.total == 0:
		return fmt.Sprintf("%d bytes are there, the last fragment is not", q.bytes())
	}
	return fmt.Sprintf("%d of %d bytes are there", q.bytes(), q.total)
}
