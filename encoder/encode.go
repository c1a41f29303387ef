package encoder

import (
	"encoding/binary"
	"slices"
)

// RecordSize is the number of bytes that AppendRecord appends for c in version
// v, without the padding before the next record. It does not check c.
func RecordSize(v Version, c *Conn) int {
	if v == Version0 {
		if c.Flags&FlagSeqMask != 0 {
			return fullSizeV0
		}
		return simpleSizeV0
	}
	if c.Client.Family == IPv6 {
		return fixedSizeV6 + len(c.Options)
	}
	return fixedSizeV4 + len(c.Options)
}

// AppendRecord appends c to dst as one record of version v, without padding,
// and returns the longer slice. It allocates only if dst has no room. c is not
// retained. What cannot be encoded is a *FieldError, and dst is as before.
//
// Version 1 carries everything, Flags as they are. Version 0 carries what the
// kernel's version 0 carries and no more: the lower 16 bits of Flags without
// HASHED; no timeout, no fwmark, no options but the sequence data, which goes
// with the SEQ flags. IPv6, and SEQ flags or sequence data without the other,
// are errors there.
func AppendRecord(dst []byte, v Version, c *Conn) ([]byte, error) {
	if n := len(dst); v != Version0 && cap(dst)-n >= PlainIPv4Size && c.PlainIPv4() {
		dst = dst[:n+PlainIPv4Size]
		b := (*[PlainIPv4Size]byte)(dst[n:])
		putFixed((*[24]byte)(b[:]), c, plainFrame4)
		putAddrs4((*[12]byte)(b[24:]), c)
		return dst, nil
	}
	return appendAny(dst, v, c)
}

// appendAny is AppendRecord without the short cut.
func appendAny(dst []byte, v Version, c *Conn) ([]byte, error) {
	if c.Client.Family != c.Virtual.Family || c.Client.Family != c.Dest.Family ||
		(c.Client.Family != IPv4 && c.Client.Family != IPv6) {
		return dst, checkFamilies(c)
	}
	if v == Version0 {
		return appendRecordV0(dst, c)
	}
	size := RecordSize(v, c)
	if len(c.Options) != 0 {
		if err := c.Options.check(); err != nil {
			return dst, err
		}
		if size > MaxRecordSize {
			return dst, fieldError("record", ErrTooLong, "%d bytes with its options, at most %d", size, MaxRecordSize)
		}
	}
	n := len(dst)
	if cap(dst)-n < size {
		dst = slices.Grow(dst, size)
	}
	dst = dst[:n+size]
	b := dst[n:]
	if c.Client.Family == IPv4 {
		putFixed((*[24]byte)(b), c, frame(0, size))
		putAddrs4((*[12]byte)(b[24:]), c)
	} else {
		putFixed((*[24]byte)(b), c, frame(typeIPv6, size))
		copy(b[24:40], c.Client.Addr[:])
		copy(b[40:56], c.Virtual.Addr[:])
		copy(b[56:72], c.Dest.Addr[:])
	}
	copy(b[size-len(c.Options):], c.Options)
	return dst, nil
}

// PlainIPv4Size is the size of the record that most connections have: version 1,
// IPv4, without options.
const PlainIPv4Size = fixedSizeV4

// PlainIPv4 says whether c makes such a record, and can be encoded.
func (c *Conn) PlainIPv4() bool {
	return c.Client.Family == IPv4 && c.Virtual.Family == IPv4 && c.Dest.Family == IPv4 && len(c.Options) == 0
}

// PutPlainIPv4 writes the record of c, for which PlainIPv4 must hold: what
// AppendRecord would append. It is too long for the compiler to inline.
func PutPlainIPv4(b *[PlainIPv4Size]byte, c *Conn) {
	putFixed((*[24]byte)(b[:]), c, plainFrame4)
	putAddrs4((*[12]byte)(b[24:]), c)
}

// PutPlainIPv4s writes the records of conns, for all of which PlainIPv4 must hold,
// back to back into b, which must have room for them: PutPlainIPv4 for each,
// without the calls, which are a third of the time.
func PutPlainIPv4s(b []byte, conns []Conn) {
	b = b[:len(conns)*PlainIPv4Size]
	for i := range conns {
		c, r := &conns[i], (*[PlainIPv4Size]byte)(b[i*PlainIPv4Size:])
		putFixed((*[24]byte)(r[:]), c, plainFrame4)
		putAddrs4((*[12]byte)(r[24:]), c)
	}
}

// frame is the first word of a record, as little-endian memory has it, less the
// protocol: type, (protocol), version and size.
func frame(typ byte, size int) uint32 {
	return uint32(typ) | uint32(size>>8)<<16 | uint32(size&0xff)<<24
}

// The frames of records without options.
const (
	plainFrame4 = fixedSizeV4 << 24
	plainFrame6 = fixedSizeV6<<24 | typeIPv6
)

// putFixed writes what precedes the addresses of a version 1 record. A store for
// each field is faster than putting fields together to make fewer stores, but for
// the first word, half of which is a constant in the calls that matter.
func putFixed(b *[24]byte, c *Conn, frame uint32) {
	binary.LittleEndian.PutUint32(b[0:], frame|uint32(c.Protocol)<<8)
	binary.BigEndian.PutUint32(b[4:], uint32(c.Flags))
	binary.BigEndian.PutUint16(b[8:], uint16(c.State))
	binary.BigEndian.PutUint16(b[10:], c.Client.Port)
	binary.BigEndian.PutUint16(b[12:], c.Virtual.Port)
	binary.BigEndian.PutUint16(b[14:], c.Dest.Port)
	binary.BigEndian.PutUint32(b[16:], c.Fwmark)
	binary.BigEndian.PutUint32(b[20:], c.Timeout)
}

// putAddrs4 writes what follows that in a record of IPv4.
func putAddrs4(b *[12]byte, c *Conn) {
	*(*[4]byte)(b[0:]) = [4]byte(c.Client.Addr[:])
	*(*[4]byte)(b[4:]) = [4]byte(c.Virtual.Addr[:])
	*(*[4]byte)(b[8:]) = [4]byte(c.Dest.Addr[:])
}

func appendRecordV0(dst []byte, c *Conn) ([]byte, error) {
	if c.Client.Family != IPv4 {
		return dst, fieldError("client", ErrVersion0, "it is IPv6; version 0 knows IPv4 only")
	}
	in, out, haveSeq := Seq{}, Seq{}, false
	if len(c.Options) != 0 {
		if err := c.Options.check(); err != nil {
			return dst, err
		}
		in, out, haveSeq = c.Options.Seq()
	}
	size := RecordSize(Version0, c)
	if wantSeq := size == fullSizeV0; wantSeq != haveSeq {
		if wantSeq {
			return dst, fieldError("seq", ErrNoPartner, "flags %s need sequence data", c.Flags&FlagSeqMask)
		}
		return dst, fieldError("seq", ErrNoPartner, "in version 0 sequence data goes with the flag IN_SEQ or OUT_SEQ only")
	}
	n := len(dst)
	dst = slices.Grow(dst, size)[:n+size]
	b := dst[n : n+size : n+size]
	_ = b[simpleSizeV0-1]
	b[0] = 0
	b[1] = byte(c.Protocol)
	binary.BigEndian.PutUint16(b[2:], c.Client.Port)
	binary.BigEndian.PutUint16(b[4:], c.Virtual.Port)
	binary.BigEndian.PutUint16(b[6:], c.Dest.Port)
	copy(b[8:12], c.Client.Addr[:4])
	copy(b[12:16], c.Virtual.Addr[:4])
	copy(b[16:20], c.Dest.Addr[:4])
	binary.BigEndian.PutUint16(b[20:], uint16(c.Flags&^FlagHashed))
	binary.BigEndian.PutUint16(b[22:], uint16(c.State))
	if haveSeq {
		putSeqHost(b[24:], in)
		putSeqHost(b[36:], out)
	}
	return dst, nil
}

// putSeqHost writes host order: the kernel copies its own memory in version 0,
// so both ends must have the same byte order.
func putSeqHost(b []byte, s Seq) {
	binary.NativeEndian.PutUint32(b, s.Init)
	binary.NativeEndian.PutUint32(b[4:], s.Delta)
	binary.NativeEndian.PutUint32(b[8:], s.PreviousDelta)
}

func checkFamilies(c *Conn) error {
	ends := [...]struct {
		name string
		e    *Endpoint
	}{{"client", &c.Client}, {"virtual", &c.Virtual}, {"dest", &c.Dest}}
	for _, x := range ends {
		if x.e.Family != IPv4 && x.e.Family != IPv6 {
			return fieldError(x.name, ErrNoAddress, "family %s", x.e.Family)
		}
	}
	for _, x := range ends[1:] {
		if x.e.Family != c.Client.Family {
			return fieldError(x.name, ErrMixedFamilies, "%s, but the client is %s", x.e.Family, c.Client.Family)
		}
	}
	return nil
}
