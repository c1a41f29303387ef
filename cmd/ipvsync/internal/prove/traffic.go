package prove

import (
	"time"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
)

// maker makes messages. Addresses are those of benchmarks (RFC 2544): should such
// a record ever reach a balancer, it matches no connection.
type maker struct {
	w       encoder.Writer
	c       encoder.Conn
	syncID  uint8
	records uint64 // made so far
}

func newMaker(syncID uint8) *maker {
	ip := func(d byte) encoder.Endpoint {
		e := encoder.Endpoint{Family: encoder.IPv4, Port: 80}
		copy(e.Addr[:], []byte{198, 18, 0, d})
		return e
	}
	return &maker{syncID: syncID, c: encoder.Conn{
		Client: ip(0), Virtual: ip(1), Dest: ip(2),
		Protocol: encoder.TCP, State: encoder.TCPEstablished, Timeout: 1,
	}}
}

// fill makes message number n in buf, as full as buf allows, and returns its
// size and how many records it has.
func (m *maker) fill(buf []byte, n uint32) (size, records int, err error) {
	if err := m.w.Init(buf, encoder.Version1, m.syncID); err != nil {
		return 0, 0, err
	}
	for {
		m.c.Client.Addr[1], m.c.Client.Addr[2], m.c.Client.Addr[3] = 18+byte(m.records>>32)&1, byte(m.records>>24), byte(m.records>>16)
		m.c.Client.Port, m.c.Fwmark = uint16(m.records), n
		err := m.w.Append(&m.c)
		if err == encoder.ErrFull {
			break
		}
		if err != nil {
			return 0, 0, err
		}
		m.records++
		if m.w.Count() == encoder.MaxRecords {
			break
		}
	}
	records = m.w.Count()
	return len(m.w.Seal()), records, nil
}

// tally counts what arrives.
type tally struct {
	decoder     encoder.Decoder
	conn        encoder.Conn
	seen        []uint64 // a bit for each message
	last        uint64
	first, end  time.Time
	count       Count
	mostMessage uint64
}

func newTally(syncID uint8, messages uint64) *tally {
	return &tally{decoder: encoder.Decoder{SyncID: syncID}, seen: make([]uint64, messages/64+1), mostMessage: messages}
}

// add counts a batch, which arrived now.
func (t *tally) add(batch []xsk.Datagram, now time.Time) {
	for i := range batch {
		t.message(batch[i].Payload, now)
	}
}

func (t *tally) message(payload []byte, now time.Time) {
	d := &t.decoder
	if d.Open(payload) != encoder.Accepted || d.Header().SyncID != d.SyncID {
		t.count.Foreign++
		return
	}
	var accepted, refused, number uint64
	for {
		reason, ok := d.Next(&t.conn)
		if !ok {
			break
		}
		if reason != encoder.Accepted {
			refused++
			continue
		}
		if accepted == 0 {
			number = uint64(t.conn.Fwmark)
		}
		accepted++
	}
	switch bit := uint64(1) << (number % 64); {
	case accepted == 0 || number > t.mostMessage:
		t.count.Foreign++
		return
	case number == 0:
		t.count.Pilots++
		return
	case t.seen[number/64]&bit != 0:
		t.count.Duplicates++
		return
	default:
		t.seen[number/64] |= bit
	}
	if number < t.last {
		t.count.Reordered++
	}
	t.last = max(t.last, number)
	if t.count.Arrived == 0 {
		t.first = now
	}
	t.end = now
	t.count.Arrived++
	t.count.Records += accepted
	t.count.Refused += refused + uint64(d.Unread())
}

func (t *tally) result() Count {
	c := t.count
	c.Seconds = t.end.Sub(t.first).Seconds()
	return c
}
