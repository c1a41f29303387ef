package dissect

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/capture"
	"github.com/ipvsync/ipvsync/encoder"
)

// refusedByCut is the refusal of a record of which the capture has only the
// beginning: nobody can say what a backup made of it.
const refusedByCut = "cut off by the capture"

// Message is one datagram taken apart. Its contents last until the Dissector
// takes the next one apart.
type Message struct {
	Packet   int
	Time     time.Time
	Src, Dst netip.AddrPort
	Header   encoder.Header
	Records  []Record
	Error    string // why a backup ignores it or stops in it, or what the capture lacks
	Trailer  []byte // what follows the last record
}

// Record is one record with the decision about it.
type Record struct {
	Conn    encoder.Conn
	Refusal string // "" if a backup accepts it
}

// Dissector takes datagrams apart, one after another. SyncID is the backup's; 0
// accepts all. The zero value is ready; it has one user at a time.
type Dissector struct {
	SyncID uint8

	d       encoder.Decoder
	records []Record // kept for the room in their options
	patched []byte
	errs    []string
}

// Dissect takes dg apart into m.
func (x *Dissector) Dissect(dg *capture.Datagram, m *Message) {
	*m = Message{Packet: dg.Packet, Time: dg.Time, Src: dg.Src, Dst: dg.Dst}
	x.d.SyncID, x.d.Lenient = x.SyncID, true
	x.errs = x.errs[:0]

	msg, size := x.wholeMessage(dg)
	ignored := x.d.Open(msg)
	m.Header = x.d.Header()
	m.Header.Size = size
	verdict := "" // for every record
	switch {
	case dg.Fault != capture.NoFault:
		verdict = dg.Fault.String()
		x.errorf("not delivered: %s: %s", verdict, dg.Detail)
	case ignored == encoder.MessageTooShort && dg.Cut():
		// Whatever it was, it is not in the capture.
	case ignored != encoder.Accepted:
		verdict = ignored.String()
		x.errorf("ignored: %s", x.detail(ignored, dg, m))
	}
	x.walk(dg, m, ignored, verdict)
	if dg.Cut() && dg.Fault == capture.NoFault {
		x.errorf("the capture has %d of %d bytes", len(dg.Payload), dg.Length)
	}
	m.Error = strings.Join(x.errs, "; ")
	m.Trailer = x.d.Trailer()
}

func (x *Dissector) errorf(format string, args ...any) {
	x.errs = append(x.errs, fmt.Sprintf(format, args...))
}

// wholeMessage is the message for the decoder, and the size that its header
// names. If the capture is cut, but the size was right on the wire, the decoder
// gets one that is right for the rest: the records in it were on the wire just
// as they are, and a backup takes them one by one.
func (x *Dissector) wholeMessage(dg *capture.Datagram) (msg []byte, size uint16) {
	msg = dg.Payload
	if len(msg) < 4 {
		return msg, 0
	}
	size = binary.BigEndian.Uint16(msg[2:])
	if dg.Cut() && int(size) == dg.Length {
		x.patched = append(x.patched[:0], msg...)
		msg = x.patched
		binary.BigEndian.PutUint16(msg[2:], uint16(len(msg)))
	}
	return msg, size
}

func (x *Dissector) detail(r encoder.Reason, dg *capture.Datagram, m *Message) string {
	switch r {
	case encoder.OtherSyncID:
		return fmt.Sprintf("%s: %d, the backup's is %d", r, m.Header.SyncID, x.SyncID)
	case encoder.SizeMismatch:
		return fmt.Sprintf("%s: %d, and %d bytes", r, m.Header.Size, dg.Length)
	case encoder.MessageTooShort:
		return fmt.Sprintf("%s: %d", r, dg.Length)
	}
	return r.String()
}

// walk fills m.Records. verdict, unless empty, is the refusal of them all.
func (x *Dissector) walk(dg *capture.Datagram, m *Message, ignored encoder.Reason, verdict string) {
	n := 0
	stopped := ignored != encoder.Accepted || verdict != ""
	for {
		if n == len(x.records) {
			x.records = append(x.records, Record{})
		}
		rec := &x.records[n]
		reason, ok := x.d.Next(&rec.Conn)
		atCut := dg.Cut() && (reason == encoder.RecordOverrun || reason == encoder.MessageCut)
		if reason.Scope() == encoder.ScopeRest && reason != encoder.NotReached && !atCut && !stopped {
			stopped = true
			x.errorf("record %d of %d: %s; a backup stops here", n+1, m.Header.Count, reason)
		}
		if !ok {
			break
		}
		n++
		switch {
		case verdict != "":
			rec.Refusal = verdict
		case atCut:
			rec.Refusal = refusedByCut
		case reason != encoder.Accepted:
			rec.Refusal = reason.String()
		default:
			rec.Refusal = ""
		}
	}
	m.Records = x.records[:n]
	// Behind an ignored header or a stop, a count that is not kept is worth a
	// word as well: nothing else tells that records are absent here.
	switch left := x.d.Unread(); {
	case left == 1:
		x.errorf("record %d of %d is not there", n+1, m.Header.Count)
	case left > 1:
		x.errorf("records %d to %d of %d are not there", n+1, n+left, m.Header.Count)
	}
}
