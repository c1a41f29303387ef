package encoder

import "encoding/binary"

// frameOf is the frame of the record that b begins with, without its protocol.
func frameOf(b *[PlainIPv4Size]byte) uint32 { return binary.LittleEndian.Uint32(b[0:]) &^ 0xff00 }

// acceptable says of most records without options that a backup accepts them: no
// template, in a state that its protocol has, and not ONE_PACKET. The others are not
// refused: they are looked at closely.
func acceptable(b *[PlainIPv4Size]byte) bool {
	flags, state := Flags(binary.BigEndian.Uint32(b[4:])), State(binary.BigEndian.Uint16(b[8:]))
	return flags&(FlagTemplate|FlagOnePacket) == 0 && state < State(protocolStates[b[1]])
}

// fillRecord decodes the fixed part of a version 1 record, at least 36 bytes,
// and returns what follows it. An IPv6 record that is too short for its
// addresses has none.
func fillRecord(c *Conn, b []byte) (options []byte) {
	getFixed(c, (*[24]byte)(b))
	switch {
	case b[0]&typeIPv6 == 0:
		getAddrs4(c, (*[12]byte)(b[24:]))
		return b[fixedSizeV4:]
	case len(b) >= fixedSizeV6:
		getAddrs6(c, (*[48]byte)(b[24:]))
		return b[fixedSizeV6:]
	}
	for _, e := range [...]*Endpoint{&c.Client, &c.Virtual, &c.Dest} {
		e.Addr, e.Family = [16]byte{}, FamilyNone
	}
	return nil
}

// getFixed reads what precedes the addresses of a version 1 record.
func getFixed(c *Conn, b *[24]byte) {
	c.Protocol = Protocol(b[1])
	c.Flags = Flags(binary.BigEndian.Uint32(b[4:]))
	c.State = State(binary.BigEndian.Uint16(b[8:]))
	c.Client.Port = binary.BigEndian.Uint16(b[10:])
	c.Virtual.Port = binary.BigEndian.Uint16(b[12:])
	c.Dest.Port = binary.BigEndian.Uint16(b[14:])
	c.Fwmark = binary.BigEndian.Uint32(b[16:])
	c.Timeout = binary.BigEndian.Uint32(b[20:])
}

// getAddrs4 reads the addresses of a record of IPv4.
func getAddrs4(c *Conn, b *[12]byte) {
	c.Client.set4((*[4]byte)(b[0:]))
	c.Virtual.set4((*[4]byte)(b[4:]))
	c.Dest.set4((*[4]byte)(b[8:]))
}

// getAddrs6 reads those of a record of IPv6.
func getAddrs6(c *Conn, b *[48]byte) {
	c.Client.Addr, c.Client.Family = [16]byte(b[0:]), IPv6
	c.Virtual.Addr, c.Virtual.Family = [16]byte(b[16:]), IPv6
	c.Dest.Addr, c.Dest.Family = [16]byte(b[32:]), IPv6
}

// set4 changes e in place: an Endpoint made and then copied costs twice the time.
func (e *Endpoint) set4(addr *[4]byte) {
	e.Addr = [16]byte{}
	*(*[4]byte)(e.Addr[:]) = *addr
	e.Family = IPv4
}

// checkState is the kernel's test of protocol and state.
func checkState(c *Conn) Reason {
	if c.Flags&FlagTemplate != 0 {
		if c.State > TemplateAssured {
			return InvalidState
		}
		return Accepted
	}
	switch n := State(protocolStates[c.Protocol]); {
	case n == 0:
		return UnsupportedProtocol
	case c.State >= n:
		return InvalidState
	}
	return Accepted
}

// checkHashed tells the connections that a backup never has in its table,
// although nothing is wrong with their records.
func checkHashed(f Flags) Reason {
	switch {
	case f&FlagOnePacket != 0:
		return OnePacket
	case f&FlagTemplate != 0 && f&FlagNoCport != 0:
		return TemplateNoCport
	}
	return Accepted
}
