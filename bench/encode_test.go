package bench

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/gopacket/gopacket"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/encoder"
)

// wireRecord is an IPv4 record as a struct whose fields lie as on the wire, for
// encoding/binary.
type wireRecord struct {
	Type, Protocol                    uint8
	VerSize                           uint16
	Flags                             uint32
	State                             uint16
	ClientPort, VirtualPort, DestPort uint16
	Fwmark, Timeout                   uint32
	ClientAddr, VirtualAddr, DestAddr [4]byte
}

type wireHeader struct {
	Reserved, SyncID uint8
	Size             uint16
	Count, Version   uint8
	Spare            uint16
}

func (w *wireRecord) set(c *ipvsync.Conn) {
	*w = wireRecord{
		Protocol: uint8(c.Protocol), VerSize: recordSize, Flags: uint32(c.Flags), State: uint16(c.State),
		ClientPort: c.Client.Port, VirtualPort: c.Virtual.Port, DestPort: c.Dest.Port, Fwmark: c.Fwmark, Timeout: c.Timeout,
		ClientAddr: [4]byte(c.Client.Addr[:4]), VirtualAddr: [4]byte(c.Virtual.Addr[:4]), DestAddr: [4]byte(c.Dest.Addr[:4]),
	}
}

// wireHeaderOf is the header of a message of 40 records.
var wireHeaderOf = wireHeader{Size: messageSize, Count: recordsPerMessage, Version: 1}

// What makes an encoding is not inlined: a copy of it in a function as big as a
// benchmark has calls of encoding/binary in it, where its own has stores.

// An encoding makes a message of conns in buf, which has room for it.
type encoding struct {
	name   string
	encode func(buf []byte, conns []ipvsync.Conn) []byte
}

//go:noinline
func writerEncoding() encoding {
	var w encoder.Writer
	return encoding{"Writer", func(buf []byte, conns []ipvsync.Conn) []byte {
		if w.Init(buf[:messageSize], encoder.Version1, 0) != nil {
			return nil
		}
		for i := range conns {
			if w.Append(&conns[i]) != nil {
				return nil
			}
		}
		return w.Seal()
	}}
}

// appendEncoding is what a ring gets: records, one after the other.
//
//go:noinline
func appendEncoding() encoding {
	return encoding{"AppendRecord", func(buf []byte, conns []ipvsync.Conn) []byte {
		b := append(buf[:0], 0, 0, messageSize>>8, messageSize&0xff, recordsPerMessage, 1, 0, 0)
		for i := range conns {
			b, _ = encoder.AppendRecord(b, encoder.Version1, &conns[i])
		}
		return b
	}}
}

// fieldsEncoding is encoding/binary by hand, the way it is mostly written.
//
//go:noinline
func fieldsEncoding() encoding {
	return encoding{"binary field by field", func(buf []byte, conns []ipvsync.Conn) []byte {
		be := binary.BigEndian
		b := append(buf[:0], 0, 0)
		b = be.AppendUint16(b, messageSize)
		b = append(b, recordsPerMessage, 1, 0, 0)
		for i := range conns {
			c := &conns[i]
			b = append(b, 0, byte(c.Protocol))
			b = be.AppendUint16(b, recordSize)
			b = be.AppendUint32(b, uint32(c.Flags))
			b = be.AppendUint16(b, uint16(c.State))
			b = be.AppendUint16(b, c.Client.Port)
			b = be.AppendUint16(b, c.Virtual.Port)
			b = be.AppendUint16(b, c.Dest.Port)
			b = be.AppendUint32(b, c.Fwmark)
			b = be.AppendUint32(b, c.Timeout)
			b = append(b, c.Client.Addr[:4]...)
			b = append(b, c.Virtual.Addr[:4]...)
			b = append(b, c.Dest.Addr[:4]...)
		}
		return b
	}}
}

// putEncoding is the same with stores at fixed places.
//
//go:noinline
func putEncoding() encoding {
	return encoding{"binary stores", func(buf []byte, conns []ipvsync.Conn) []byte {
		encodeByHand(buf, conns)
		return buf[:messageSize]
	}}
}

// wordsEncoding is the same with fields that lie side by side put together first:
// fewer stores, and slower.
//
//go:noinline
func wordsEncoding() encoding {
	return encoding{"binary words", func(buf []byte, conns []ipvsync.Conn) []byte {
		be, ne := binary.BigEndian, binary.NativeEndian
		b := buf[:messageSize]
		b[0], b[1], b[4], b[5], b[6], b[7] = 0, 0, recordsPerMessage, 1, 0, 0
		be.PutUint16(b[2:], messageSize)
		for i := range conns {
			c, r := &conns[i], (*[recordSize]byte)(b[8+i*recordSize:])
			be.PutUint64(r[0:], uint64(c.Protocol)<<48|recordSize<<32|uint64(c.Flags))
			be.PutUint64(r[8:], uint64(c.State)<<48|uint64(c.Client.Port)<<32|uint64(c.Virtual.Port)<<16|uint64(c.Dest.Port))
			be.PutUint64(r[16:], uint64(c.Fwmark)<<32|uint64(c.Timeout))
			ne.PutUint32(r[24:], ne.Uint32(c.Client.Addr[:]))
			ne.PutUint32(r[28:], ne.Uint32(c.Virtual.Addr[:]))
			ne.PutUint32(r[32:], ne.Uint32(c.Dest.Addr[:]))
		}
		return b
	}}
}

// structEncoding is encoding/binary's reflection over a struct: binary.Write, or
// the newer Append, which makes no buffers of its own.
//
//go:noinline
func structEncoding(write bool) encoding {
	var all struct {
		Header  wireHeader
		Records [recordsPerMessage]wireRecord
	}
	set := func(conns []ipvsync.Conn) {
		all.Header = wireHeaderOf
		for i := range conns {
			all.Records[i].set(&conns[i])
		}
	}
	if write {
		var out bytes.Buffer
		return encoding{"binary.Write", func(_ []byte, conns []ipvsync.Conn) []byte {
			set(conns)
			out.Reset()
			if binary.Write(&out, binary.BigEndian, &all) != nil {
				return nil
			}
			return out.Bytes()
		}}
	}
	return encoding{"binary.Append", func(buf []byte, conns []ipvsync.Conn) []byte {
		set(conns)
		b, _ := binary.Append(buf[:0], binary.BigEndian, &all)
		return b
	}}
}

// recordLayer is a record as gopacket serialises it: written in front of what is
// there already, so the last record comes first.
type recordLayer struct{ c *ipvsync.Conn }

func (recordLayer) LayerType() gopacket.LayerType { return gopacket.LayerTypePayload }

func (l recordLayer) SerializeTo(b gopacket.SerializeBuffer, _ gopacket.SerializeOptions) error {
	r, err := b.PrependBytes(recordSize)
	if err != nil {
		return err
	}
	encoder.PutPlainIPv4((*[recordSize]byte)(r), l.c)
	return nil
}

type headerLayer struct{ count int }

func (headerLayer) LayerType() gopacket.LayerType { return gopacket.LayerTypePayload }

func (l headerLayer) SerializeTo(b gopacket.SerializeBuffer, _ gopacket.SerializeOptions) error {
	size := len(b.Bytes()) + 8
	h, err := b.PrependBytes(8)
	if err != nil {
		return err
	}
	h[0], h[1], h[4], h[5], h[6], h[7] = 0, 0, byte(l.count), 1, 0, 0
	binary.BigEndian.PutUint16(h[2:], uint16(size))
	return nil
}

// plainEncoding is package encoder's short cut for records without options.
//
//go:noinline
func plainEncoding() encoding {
	return encoding{"PutPlainIPv4", func(buf []byte, conns []ipvsync.Conn) []byte {
		encode(buf, conns)
		return buf[:messageSize]
	}}
}

// gopacketEncoding serialises layers into one buffer, which is cleared and used
// again, as gopacket advises. A layer's own encoding is ours, the fastest.
//
//go:noinline
func gopacketEncoding() encoding {
	buf := gopacket.NewSerializeBufferExpectedSize(messageSize, 0)
	todo := make([]gopacket.SerializableLayer, 1+recordsPerMessage)
	records := make([]recordLayer, recordsPerMessage)
	todo[0] = headerLayer{recordsPerMessage}
	for i := range records {
		todo[1+i] = &records[i]
	}
	return encoding{"gopacket", func(_ []byte, conns []ipvsync.Conn) []byte {
		for i := range conns {
			records[i].c = &conns[i]
		}
		if gopacket.SerializeLayers(buf, gopacket.SerializeOptions{}, todo...) != nil {
			return nil
		}
		return buf.Bytes()
	}}
}

func (e encoding) side() side {
	n, buf := uint64(0), make([]byte, messageSize)
	return side{name: e.name, send: func(turn int) {
		for range turn {
			n += uint64(len(e.encode(buf, conns)) / messageSize)
		}
	}, arrived: func() uint64 { return n }}
}

// All encodings make the same message.
func TestEncodings(t *testing.T) {
	want := message()
	for _, e := range []encoding{writerEncoding(), appendEncoding(), plainEncoding(), fieldsEncoding(), putEncoding(), wordsEncoding(),
		structEncoding(false), structEncoding(true), gopacketEncoding()} {
		for turn := range 2 { // buffers that are used again
			if got := e.encode(make([]byte, messageSize), conns); !bytes.Equal(got, want) {
				t.Errorf("%s, turn %d:\n%x, want\n%x", e.name, turn, got, want)
			}
		}
	}
}

const encodeTurn = 50_000

// BenchmarkEncode: connections into a message of 40 records, in memory.
func BenchmarkEncode(b *testing.B) {
	for _, theirs := range []encoding{fieldsEncoding(), putEncoding(), wordsEncoding(), structEncoding(false), structEncoding(true), gopacketEncoding()} {
		for _, ours := range []encoding{writerEncoding(), appendEncoding(), plainEncoding()} {
			b.Run(ours.name+" against "+theirs.name, func(b *testing.B) {
				duel(b, encodeTurn, ours.side(), theirs.side())
			})
		}
	}
}

// A decoding looks at every connection of a message.
//
//go:noinline
func decoderSide() side {
	var d encoder.Decoder
	var c ipvsync.Conn
	n, sum, m := uint64(0), uint64(0), message()
	return side{name: "Decoder", send: func(turn int) {
		for range turn {
			d.Open(m)
			for reason, ok := d.Next(&c); ok && reason == encoder.Accepted; reason, ok = d.Next(&c) {
				sum += uint64(c.Client.Port) + uint64(c.Client.Addr[3])
			}
			if d.Unread() == 0 {
				n++
			}
		}
		sink.Add(sum)
	}, arrived: func() uint64 { return n }}
}

// fieldsDecoder reads the fields that our Decoder does, with one check of the
// length and none of what the record says.
//
//go:noinline
func fieldsDecoder() side {
	var c ipvsync.Conn
	n, sum, m := uint64(0), uint64(0), message()
	be := binary.BigEndian
	return side{name: "binary field by field", send: func(turn int) {
		for range turn {
			for i := range int(m[4]) {
				r := m[8+i*recordSize:][:recordSize]
				c.Protocol, c.Flags, c.State = encoder.Protocol(r[1]), encoder.Flags(be.Uint32(r[4:])), encoder.State(be.Uint16(r[8:]))
				c.Client.Port, c.Virtual.Port, c.Dest.Port = be.Uint16(r[10:]), be.Uint16(r[12:]), be.Uint16(r[14:])
				c.Fwmark, c.Timeout = be.Uint32(r[16:]), be.Uint32(r[20:])
				c.Client.Family, c.Virtual.Family, c.Dest.Family = encoder.IPv4, encoder.IPv4, encoder.IPv4
				c.Client.Addr = [16]byte{r[24], r[25], r[26], r[27]}
				c.Virtual.Addr = [16]byte{r[28], r[29], r[30], r[31]}
				c.Dest.Addr = [16]byte{r[32], r[33], r[34], r[35]}
				sum += uint64(c.Client.Port) + uint64(c.Client.Addr[3])
			}
			n++
		}
		sink.Add(sum)
	}, arrived: func() uint64 { return n }}
}

// structDecoder is binary.Decode into a struct, which also checks nothing.
//
//go:noinline
func structDecoder() side {
	var records [recordsPerMessage]wireRecord
	n, sum, m := uint64(0), uint64(0), message()
	return side{name: "binary.Decode", send: func(turn int) {
		for range turn {
			if _, err := binary.Decode(m[8:], binary.BigEndian, &records); err == nil {
				n++
			}
			for i := range records {
				sum += uint64(records[i].ClientPort) + uint64(records[i].ClientAddr[3])
			}
		}
		sink.Add(sum)
	}, arrived: func() uint64 { return n }}
}

// BenchmarkDecode: a message of 40 records, read. Decoder takes the decisions of a
// Linux backup on each, the others none.
func BenchmarkDecode(b *testing.B) {
	for _, theirs := range []func() side{fieldsDecoder, structDecoder} {
		ours, theirs := decoderSide(), theirs()
		b.Run(ours.name+" against "+theirs.name, func(b *testing.B) {
			duel(b, encodeTurn, ours, theirs)
		})
	}
}
