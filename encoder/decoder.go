package encoder

import (
	"bytes"
	"encoding/binary"
)

// Header is what the first bytes of a message say.
type Header struct {
	// Version is how a Linux backup parses the message: anything that is not
	// in exact version 1 form is read as version 0.
	Version Version
	SyncID  uint8
	Size    uint16 // bytes, as the message says
	Count   uint8  // records, as the message says
}

// Decoder walks the records of one message after another and takes the
// decisions of a Linux backup. The zero value accepts every SyncID and knows
// the engine "sip", the only one that Linux has. It has one user at a time,
// keeps the message from Open to the last call of Next or Trailer, and copies
// everything that it hands out but the trailer.
//
//	if reason := d.Open(msg); reason != encoder.Accepted {
//		return // a backup ignores the message
//	}
//	for {
//		reason, ok := d.Next(&c)
//		if !ok {
//			break // d.Stopped() says why, d.Unread() how many were not looked at
//		}
//		if reason == encoder.Accepted { … }
//	}
type Decoder struct {
	// SyncID of the messages to accept; 0 accepts all, as the kernel does.
	SyncID uint8
	// Engines lists the persistence engines that are loaded; nil means "sip".
	Engines []string
	// Lenient goes on where the kernel stops, for analysis: messages with
	// another SyncID or a wrong size are walked, and records behind a stopping
	// one come with the reason NotReached, or with their own.
	Lenient bool

	header  Header
	msg     []byte // the message, up to its end
	next    int    // offset at which the next record begins
	end     int    // offset at which the last record ended, without padding
	left    int    // records that the count still promises
	stopped Reason // why the kernel stops, or Accepted
	dead    bool   // there is no next record to find
	smooth  bool   // version 1, and nothing has stopped the walk
}

// Open begins a message: one whole datagram. It returns Accepted, or why a
// backup ignores the message; then Next finds nothing, unless Lenient is set.
// Header holds what could be read of the header in any case.
func (d *Decoder) Open(msg []byte) Reason {
	d.header, d.msg = Header{}, msg
	d.next, d.end, d.left = 0, 0, 0
	d.stopped, d.dead, d.smooth = Accepted, true, false
	if len(msg) < headerSizeV0 {
		return d.refuse(MessageTooShort)
	}
	h := &d.header
	h.SyncID = msg[1]
	h.Size = binary.BigEndian.Uint16(msg[2:])
	// ip_vs_process_message: version 1 in exact form, all else is version 0.
	// It looks at the version even if the message is shorter than a version 1
	// header; such a message cannot hold a record in either version.
	if len(msg) >= headerSizeV1 && msg[0] == 0 && msg[5] == protoVersion && msg[6] == 0 && msg[7] == 0 {
		h.Version, h.Count = Version1, msg[4]
		d.next = headerSizeV1
	} else {
		h.Version, h.Count = Version0, msg[0]
		d.next = headerSizeV0
	}
	d.end = d.next
	reason := Accepted
	switch {
	case len(msg) != int(h.Size):
		reason = SizeMismatch
	case d.SyncID != 0 && h.SyncID != d.SyncID:
		reason = OtherSyncID
	}
	if reason != Accepted && !d.Lenient {
		d.left = int(h.Count)
		return d.refuse(reason)
	}
	d.left = int(h.Count)
	d.dead = false
	d.stopped = reason
	d.smooth = reason == Accepted && h.Version == Version1
	return reason
}

func (d *Decoder) refuse(r Reason) Reason {
	d.stopped = r
	return r
}

// Header of the message that Open was given last.
func (d *Decoder) Header() Header { return d.header }

// Next decodes the next record into c and returns the verdict on it; ok is
// false when there is no further record. c is filled as far as the bytes allow
// for every verdict; c.Options holds the well-formed options of a record that
// was refused for another. Next never reads past the message.
func (d *Decoder) Next(c *Conn) (reason Reason, ok bool) {
	at, end := d.next, d.next+PlainIPv4Size
	if !d.smooth || d.left == 0 || end > len(d.msg) {
		return d.nextAny(c)
	}
	b := (*[PlainIPv4Size]byte)(d.msg[at:end:end])
	if !acceptable(b) {
		return d.nextAny(c)
	}
	switch frame := frameOf(b); {
	case frame == plainFrame4:
		getAddrs4(c, (*[12]byte)(b[24:]))
	case frame == plainFrame6 && at+fixedSizeV6 <= len(d.msg):
		end = at + fixedSizeV6
		getAddrs6(c, (*[48]byte)(d.msg[at+24:end]))
	default:
		return d.nextAny(c)
	}
	getFixed(c, (*[24]byte)(b[:]))
	c.Options = c.Options[:0]
	d.next, d.end = end, end // without padding
	d.left--
	return Accepted, true
}

// nextAny is Next without the short cut.
func (d *Decoder) nextAny(c *Conn) (reason Reason, ok bool) {
	if d.left == 0 || d.dead {
		return Accepted, false
	}
	already := d.stopped
	if d.header.Version == Version1 {
		reason, ok = d.nextV1(c)
	} else {
		reason, ok = d.nextV0(c)
	}
	if ok {
		d.left--
	}
	if reason.Scope() >= ScopeRest {
		d.smooth = false
		if already == Accepted {
			d.stopped = reason
		}
		if !d.Lenient || !ok {
			d.dead = true
		}
	}
	if ok && already != Accepted && reason == Accepted {
		reason = NotReached
	}
	return reason, ok
}

func (d *Decoder) nextV1(c *Conn) (Reason, bool) {
	if len(d.msg)-d.next < fixedSizeV4 {
		return MessageCut, false
	}
	b := d.msg[d.next:]
	verSize := binary.BigEndian.Uint16(b[2:])
	size := int(verSize & sizeMask)
	reason := Accepted
	switch {
	case size > len(b):
		reason = RecordOverrun
		d.dead = true
		size = len(b)
	case verSize>>versionShift != 0:
		reason = BadRecordVersion
	case b[0]&typeIPv6 == 0 && b[0] != 0:
		reason = BadRecordType
	case size < fixedSizeV4, b[0]&typeIPv6 != 0 && size < fixedSizeV6:
		reason = RecordTooSmall
	}
	if reason != Accepted {
		// The fixed part is filled for whoever analyses it; where the record
		// ends is known unless its size makes no sense.
		fillRecord(c, b[:max(size, fixedSizeV4)])
		c.Options = c.Options[:0]
		if size < fixedSizeV4 {
			d.dead = true
		}
		d.advance(size)
		return reason, true
	}
	options := fillRecord(c, b[:size])
	if len(options) == 0 {
		c.Options = c.Options[:0]
	} else {
		var good int
		reason, good = parseOptions(options)
		switch reason {
		case Accepted, PEDataWithoutName:
			good = len(options)
		case UnknownOption:
			good += Options(options[good:]).wellFormed() // the offender and what follows, for analysis
		}
		c.Options = append(c.Options[:0], options[:good]...)
	}
	d.advance(size)
	if reason.Scope() == ScopeRest || reason == UnknownOption {
		return reason, true
	}
	// The kernel looks at protocol and state before it looks for the engine.
	if r := checkState(c); r != Accepted {
		return r, true
	}
	if reason == Accepted && len(c.Options) != 0 {
		reason = d.checkEngine(c.Options)
	}
	if reason == Accepted {
		reason = checkHashed(c.Flags)
	}
	return reason, true
}

// advance steps over a record of size bytes and over the padding behind it.
func (d *Decoder) advance(size int) {
	d.end = min(d.next+size, len(d.msg))
	d.next = min(align(d.next+size), len(d.msg))
}

// checkEngine is the kernel's search for the engine that a record with engine
// data names; the name is compared as a C string.
func (d *Decoder) checkEngine(o Options) Reason {
	name, data, _ := o.PE()
	if data == nil {
		return Accepted // a name alone is ignored
	}
	if i := bytes.IndexByte(name, 0); i >= 0 {
		name = name[:i]
	}
	if d.Engines == nil {
		if string(name) == "sip" {
			return Accepted
		}
		return UnknownEngine
	}
	for _, e := range d.Engines {
		if string(name) == e {
			return Accepted
		}
	}
	return UnknownEngine
}

func (d *Decoder) nextV0(c *Conn) (Reason, bool) {
	b := d.msg[d.next:]
	if len(b) < simpleSizeV0 {
		return MessageCut, false
	}
	c.Protocol = Protocol(b[1])
	c.Client.Port, c.Virtual.Port, c.Dest.Port = binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
	getAddrs4(c, (*[12]byte)(b[8:]))
	c.Flags = Flags(binary.BigEndian.Uint16(b[20:]))
	c.State = State(binary.BigEndian.Uint16(b[22:]))
	c.Fwmark, c.Timeout = 0, 0
	c.Options = c.Options[:0]
	size := simpleSizeV0
	if c.Flags&FlagSeqMask != 0 {
		size = fullSizeV0
		if len(b) < size {
			d.dead = true
			d.next, d.end = len(d.msg), len(d.msg)
			return RecordOverrun, true
		}
		c.Options = append(c.Options, byte(OptionSeq), seqSize)
		c.Options = appendSeq(c.Options, getSeq(b[24:], binary.NativeEndian))
		c.Options = appendSeq(c.Options, getSeq(b[36:], binary.NativeEndian))
	}
	d.next += size
	d.end = d.next
	reason := checkState(c)
	if reason == Accepted {
		reason = checkHashed(c.Flags)
	}
	return reason, true
}

// Stopped says why the kernel leaves the rest of the message, or the whole of
// it, unread; Accepted if it does not.
func (d *Decoder) Stopped() Reason { return d.stopped }

// Unread is the number of records that the header promises and Next has not
// returned. After the last Next it is what a refusal cost beyond the records
// that were returned.
func (d *Decoder) Unread() int { return d.left }

// Trailer is what follows the last record in the bytes that Open was given,
// which Linux never looks at; nil if there is nothing, if not every record has been walked
// yet, or if up to three zero bytes only pad the last record. It is lent: it
// lies in the message.
func (d *Decoder) Trailer() []byte {
	if d.left != 0 || d.end == 0 || d.end >= len(d.msg) {
		return nil
	}
	t := d.msg[d.end:]
	if d.header.Version == Version1 && len(t) == align(d.end)-d.end && len(bytes.Trim(t, "\x00")) == 0 {
		return nil
	}
	return t
}
