package capture

import (
	"fmt"
	"io"
	"net/netip"
	"time"
)

// Fault is why a host does not deliver the datagram to its socket.
type Fault uint8

// The faults.
const (
	NoFault          Fault = iota
	PacketOverrun          // the IP packet is longer than the frame
	BadUDPLength           // the UDP length is less than 8, or more than IP carries
	FragmentsMissing       // IP fragments did not come, or contradict each other
)

func (f Fault) String() string {
	switch f {
	case NoFault:
		return "none"
	case PacketOverrun:
		return "IP packet runs past its frame"
	case BadUDPLength:
		return "UDP length does not fit the IP packet"
	case FragmentsMissing:
		return "IP fragments missing"
	}
	return fmt.Sprintf("fault %d", uint8(f))
}

// Datagram is one UDP datagram of a capture.
type Datagram struct {
	// Packet counts every packet of the capture from 1. For a datagram in
	// fragments it is the packet that completed it; if it stayed incomplete,
	// its first fragment.
	Packet   int
	Time     time.Time // UTC; zero if the capture has none
	Src, Dst netip.AddrPort
	Payload  []byte // what was captured of it; lent until the next call of Next
	Length   int    // how long it was on the wire; more than Payload if the capture is cut
	Fault    Fault
	Detail   string // figures for Fault
}

// Cut says that the capture holds only the beginning of the datagram.
func (d *Datagram) Cut() bool { return len(d.Payload) < d.Length }

// Stats counts packets; each is in exactly one of the lower five. Orphans are
// a part of Fragments.
type Stats struct {
	Packets   int
	Whole     int // held a datagram, which Next returned
	Fragments int // held a piece of one
	NotIP     int // ARP, LLDP, …, or a link type that is not supported
	NotUDP    int // IP, but neither UDP nor a fragment of it
	Damaged   int // headers cut off or senseless
	Orphans   int // pieces whose datagram's first piece never came
}

// DamageError says where a capture file cannot be read further.
type DamageError struct {
	Packet int   // the packet that could not be read, from 1
	Offset int64 // where in the file (unzipped) it begins
	Err    error
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("packet %d, at byte %d: %v", e.Packet, e.Offset, e.Err)
}

// Unwrap gives the cause.
func (e *DamageError) Unwrap() error { return e.Err }

// Reader reads the datagrams of one capture. It has one user at a time.
type Reader struct {
	Stats Stats

	file  *file
	frags reassembler
	late  []Datagram // given up by frags, to be handed out first
	err   error      // what ended the file
}

// NewReader reads the header of a capture. It reads from r no further than it
// has to, in chunks.
func NewReader(r io.Reader) (*Reader, error) {
	f, err := open(r)
	if err != nil {
		return nil, err
	}
	return &Reader{file: f}, nil
}

// Next reads the next datagram into d. io.EOF is the end; a *DamageError says
// that the file cannot be read further. Before either, what was before it has
// been returned, incomplete datagrams too.
func (r *Reader) Next(d *Datagram) error {
	for {
		if len(r.late) > 0 {
			*d, r.late = r.late[0], r.late[1:]
			return nil
		}
		if r.err != nil {
			return r.err
		}
		fr, err := r.file.next()
		if err != nil {
			if err != io.EOF {
				err = &DamageError{r.Stats.Packets + 1, r.file.begin, err}
			}
			r.err = err
			r.giveUp(r.frags.all())
			continue
		}
		r.Stats.Packets++
		if r.packet(fr, d) {
			return nil
		}
	}
}

// packet takes one frame apart; ok says that d is filled.
func (r *Reader) packet(fr frame, d *Datagram) (ok bool) {
	ip, kind := network(fr.link, fr.data)
	if kind == isIP {
		var p ipPacket
		kind = p.parse(ip, len(ip)+fr.missing)
		if kind == isIP {
			return r.transport(fr, &p, d)
		}
	}
	switch kind {
	case notIP:
		r.Stats.NotIP++
	case notUDP:
		r.Stats.NotUDP++
	default:
		r.Stats.Damaged++
	}
	return false
}

func (r *Reader) transport(fr frame, p *ipPacket, d *Datagram) (ok bool) {
	*d = Datagram{Packet: r.Stats.Packets, Time: fr.time}
	if !p.fragment {
		switch kind := p.datagram(d); kind {
		case isIP:
			r.Stats.Whole++
			return true
		case notUDP:
			r.Stats.NotUDP++
		default:
			r.Stats.Damaged++
		}
		return false
	}
	r.Stats.Fragments++
	whole, given := r.frags.add(p, d.Packet, d.Time)
	r.giveUp(given)
	if whole == nil {
		return false
	}
	// Late ones come first: they are older.
	if !whole.header().fill(d, whole.payload()) {
		return false
	}
	if len(r.late) > 0 {
		r.late = append(r.late, *d)
		return false
	}
	return true
}

// giveUp turns datagrams that will never be complete into faulty ones.
func (r *Reader) giveUp(list []*pending) {
	for _, q := range list {
		d := Datagram{Packet: q.packet, Time: q.time}
		payload := q.payload()
		if len(q.pieces) == 0 || q.pieces[0].start != 0 {
			r.Stats.Orphans += q.count
			continue
		}
		if !q.header().fill(&d, payload) {
			continue
		}
		d.Fault, d.Detail = FragmentsMissing, q.detail()
		r.late = append(r.late, d)
	}
}
