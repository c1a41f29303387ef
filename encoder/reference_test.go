package encoder

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// refRecord is what the reference decoder makes of one record.
type refRecord struct {
	reason Reason
	conn   Conn
}

// refDecode is the slow, obvious twin of Decoder: the kernel's decisions in the
// order of ip_vs_sync.c, one after the other, on cloned bytes.
func refDecode(msg []byte, syncID uint8) (records []refRecord, stopped Reason) {
	if len(msg) < 4 {
		return nil, MessageTooShort
	}
	if len(msg) != int(msg[2])<<8+int(msg[3]) {
		return nil, SizeMismatch
	}
	if syncID != 0 && msg[1] != syncID {
		return nil, OtherSyncID
	}
	if len(msg) < 8 || msg[0] != 0 || msg[5] != 1 || msg[6] != 0 || msg[7] != 0 {
		return refDecodeV0(slices.Clone(msg[4:]), int(msg[0]))
	}
	rest, offset := slices.Clone(msg[8:]), 8
	for range msg[4] {
		if len(rest) < 36 {
			return records, MessageCut
		}
		size := int(rest[2]&0x0f)<<8 + int(rest[3])
		if size > len(rest) {
			return append(records, refRecord{reason: RecordOverrun}), RecordOverrun
		}
		if rest[2]>>4 != 0 {
			return append(records, refRecord{reason: BadRecordVersion}), BadRecordVersion
		}
		r := refRecordV1(rest[:size:size], rest[0], size)
		records = append(records, r)
		if r.reason.Scope() == ScopeRest {
			return records, r.reason
		}
		step := size
		for (offset+step)%4 != 0 {
			step++
		}
		offset += step
		rest = rest[min(step, len(rest)):]
	}
	return records, Accepted
}

func refRecordV1(rec []byte, typ byte, size int) (r refRecord) {
	addrSize := 4
	switch {
	case typ%2 == 1:
		addrSize = 16
	case typ != 0:
		return refRecord{reason: BadRecordType}
	}
	if size < 24+3*addrSize {
		return refRecord{reason: RecordTooSmall}
	}
	c := &r.conn
	be := binary.BigEndian
	c.Protocol, c.Flags, c.State = Protocol(rec[1]), Flags(be.Uint32(rec[4:])), State(be.Uint16(rec[8:]))
	c.Fwmark, c.Timeout = be.Uint32(rec[16:]), be.Uint32(rec[20:])
	for i, e := range []*Endpoint{&c.Client, &c.Virtual, &c.Dest} {
		a, _ := netip.AddrFromSlice(rec[24+i*addrSize : 24+(i+1)*addrSize])
		*e = EndpointFrom(netip.AddrPortFrom(a, be.Uint16(rec[10+2*i:])))
	}
	options := rec[24+3*addrSize:]
	c.Options = slices.Clone(options)
	count := map[byte]int{}
	var name, data []byte
	for len(options) > 0 {
		if len(options) < 2 {
			return refRecord{reason: OptionHeaderCut}
		}
		n := int(options[1])
		if n == 0 || 2+n > len(options) {
			return refRecord{reason: BadOptionLength}
		}
		body := options[2 : 2+n]
		kind := options[0] &^ 0x40
		count[kind]++
		switch kind {
		case 1:
			if n != 24 {
				return refRecord{reason: BadSeqLength}
			}
			if count[1] > 1 {
				return refRecord{reason: SeqTwice}
			}
		case 2:
			if count[2] > 1 {
				return refRecord{reason: PEDataTwice}
			}
			data = body
		case 3:
			if n > 16 {
				return refRecord{reason: PENameTooLong}
			}
			if count[3] > 1 {
				return refRecord{reason: PENameTwice}
			}
			name = body
		default:
			if options[0]&0x40 == 0 {
				return refRecord{reason: UnknownOption}
			}
		}
		options = options[2+n:]
	}
	r.reason = refState(c)
	if r.reason != Accepted {
		return r
	}
	if data != nil {
		if name == nil {
			r.reason = PEDataWithoutName
		} else if s := string(name) + "\x00"; s[:4] != "sip\x00" {
			r.reason = UnknownEngine
		}
	}
	return refHashed(r)
}

func refState(c *Conn) Reason {
	states := map[Protocol]State{6: 11, 17: 1, 132: 14, 50: 1, 51: 1}
	n, known := states[c.Protocol]
	if c.Flags&0x1000 != 0 {
		n, known = 2, true
	}
	if !known {
		return UnsupportedProtocol
	}
	if c.State >= n {
		return InvalidState
	}
	return Accepted
}

func refDecodeV0(rest []byte, count int) (records []refRecord, stopped Reason) {
	be := binary.BigEndian
	for range count {
		if len(rest) < 24 {
			return records, MessageCut
		}
		size := 24
		if be.Uint16(rest[20:])&0x600 != 0 {
			size = 48
		}
		if len(rest) < size {
			return append(records, refRecord{reason: RecordOverrun}), RecordOverrun
		}
		var c Conn
		c.Protocol, c.Flags, c.State = Protocol(rest[1]), Flags(be.Uint16(rest[20:])), State(be.Uint16(rest[22:]))
		for i, e := range []*Endpoint{&c.Client, &c.Virtual, &c.Dest} {
			a, _ := netip.AddrFromSlice(rest[8+4*i : 12+4*i])
			*e = EndpointFrom(netip.AddrPortFrom(a, be.Uint16(rest[2+2*i:])))
		}
		if size == 48 {
			c.Options = Options{1, 24}
			for i := 24; i < 48; i += 4 {
				c.Options = be.AppendUint32(c.Options, binary.NativeEndian.Uint32(rest[i:]))
			}
		}
		r := refRecord{conn: c, reason: refState(&c)}
		records = append(records, refHashed(r))
		rest = rest[size:]
	}
	return records, Accepted
}

func refHashed(r refRecord) refRecord {
	if r.reason == Accepted && r.conn.Flags&0x2000 != 0 {
		r.reason = OnePacket
	} else if r.reason == Accepted && r.conn.Flags&0x1800 == 0x1800 {
		r.reason = TemplateNoCport
	}
	return r
}
