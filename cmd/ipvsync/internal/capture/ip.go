package capture

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// IP protocol numbers, and IPv6 extension headers among them.
const (
	protoHopByHop = 0
	protoUDP      = 17
	protoRouting  = 43
	protoFragment = 44
	protoAH       = 51
	protoDestOpts = 60
	protoMobility = 135
	protoHIP      = 139
	protoShim6    = 140
)

const (
	minIPv4   = 20
	sizeIPv6  = 40
	sizeUDP   = 8
	fragUnit  = 8
	moreV4    = 0x2000 // IP_MF
	offsetV4  = 0x1fff // IP_OFFSET, in units of 8 bytes
	moreV6    = 0x0001
	offsetV6  = 0xfff8 // in bytes, by position
	unitAH    = 4      // its length counts these
	unitOther = 8      // and all others' these
)

// ipPacket is what the IP headers say. payload is what was captured behind
// them, length what there was on the wire.
type ipPacket struct {
	src, dst netip.Addr
	proto    uint8
	payload  []byte
	length   int
	fault    Fault
	detail   string

	fragment bool
	id       uint32
	offset   int // bytes
	more     bool
}

// parse reads the IP header of b; wire is how long b was on the wire.
func (p *ipPacket) parse(b []byte, wire int) kind {
	*p = ipPacket{}
	if len(b) == 0 {
		return damaged
	}
	switch b[0] >> 4 {
	case 4:
		return p.parse4(b, wire)
	case 6:
		return p.parse6(b, wire)
	}
	return damaged
}

func (p *ipPacket) parse4(b []byte, wire int) kind {
	header := int(b[0]&0xf) * 4
	if header < minIPv4 || len(b) < header {
		return damaged
	}
	total := int(binary.BigEndian.Uint16(b[2:]))
	if total == 0 {
		total = wire // a sender with segmentation offload leaves it to the NIC
	}
	if total < header {
		return damaged
	}
	p.src, p.dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	p.proto = b[9]
	p.body(b[header:], total-header, wire-header)
	frag := binary.BigEndian.Uint16(b[6:])
	p.offset, p.more = int(frag&offsetV4)*fragUnit, frag&moreV4 != 0
	p.fragment = p.more || p.offset != 0
	p.id = uint32(binary.BigEndian.Uint16(b[4:]))
	if p.proto != protoUDP {
		return notUDP
	}
	return isIP
}

func (p *ipPacket) parse6(b []byte, wire int) kind {
	if len(b) < sizeIPv6 {
		return damaged
	}
	p.src, p.dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	p.proto = b[6]
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length == 0 && p.proto == protoHopByHop {
		length = wire - sizeIPv6 // a jumbogram, RFC 2675
	}
	p.body(b[sizeIPv6:], length, wire-sizeIPv6)
	return p.extensions()
}

// body cuts what follows the header to the length that the header names; room
// is how much the frame had on the wire.
func (p *ipPacket) body(b []byte, length, room int) {
	if length > room {
		p.fault, p.detail = PacketOverrun, fmt.Sprintf("%d bytes of payload, the frame has %d", length, room)
		length = room
	}
	p.length = length
	p.payload = b[:min(length, len(b))]
}

// extensions goes over IPv6 extension headers, up to UDP or to a fragment.
func (p *ipPacket) extensions() kind {
	for {
		b, unit := p.payload, unitOther
		switch p.proto {
		case protoUDP:
			return isIP
		case protoFragment:
			if len(b) < 8 {
				return damaged
			}
			frag := binary.BigEndian.Uint16(b[2:])
			p.proto, p.id = b[0], binary.BigEndian.Uint32(b[4:])
			p.offset, p.more = int(frag&offsetV6), frag&moreV6 != 0
			p.payload, p.length = b[8:], p.length-8
			if p.offset != 0 || p.more {
				p.fragment = true
				return isIP // what follows may be UDP, or not; a fragment alone cannot tell
			}
			continue // an atomic fragment, RFC 6946
		case protoAH:
			unit = unitAH
		case protoHopByHop, protoRouting, protoDestOpts, protoMobility, protoHIP, protoShim6:
		default:
			return notUDP
		}
		if len(b) < 8 {
			return damaged
		}
		size := (int(b[1]) + 1) * unit
		if p.proto == protoAH {
			size += unitAH
		}
		if size > len(b) {
			return damaged
		}
		p.proto, p.payload, p.length = b[0], b[size:], p.length-size
	}
}

// datagram reads the UDP header of a packet that is no fragment.
func (p *ipPacket) datagram(d *Datagram) kind {
	b := p.payload
	if len(b) < sizeUDP {
		return damaged
	}
	d.Src = netip.AddrPortFrom(p.src, binary.BigEndian.Uint16(b))
	d.Dst = netip.AddrPortFrom(p.dst, binary.BigEndian.Uint16(b[2:]))
	d.Fault, d.Detail = p.fault, p.detail
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length == 0 && p.src.Is6() {
		length = p.length // udp6_rcv takes it for a jumbogram
	}
	if length < sizeUDP || length > p.length {
		if d.Fault == NoFault {
			d.Fault, d.Detail = BadUDPLength, fmt.Sprintf("%d, with %d bytes in the IP packet", length, p.length)
		}
		length = p.length
	}
	d.Length = length - sizeUDP
	d.Payload = b[sizeUDP:min(length, len(b))]
	return isIP
}

// fill is datagram for the payload of fragments put together, which may begin
// with extension headers.
func (p ipPacket) fill(d *Datagram, payload []byte) bool {
	p.payload = payload
	if p.src.Is6() {
		p.fragment = false
		if p.extensions() != isIP || p.fragment {
			return false
		}
	}
	return p.datagram(d) == isIP
}
