package capture

import (
	"encoding/binary"

	"github.com/gopacket/gopacket/layers"
)

// Ethernet types, IEEE 802.
const (
	typeIPv4 = 0x0800
	typeIPv6 = 0x86dd
	typeVLAN = 0x8100 // 802.1Q
	typeQinQ = 0x88a8 // 802.1ad
	typeQOld = 0x9100 // QinQ before it had a number
)

// Link types that gopacket has no name for: LINKTYPE_RAW is 101 in files, but
// DLT_RAW of some systems gets written instead.
const (
	linkRawBSD     = 12
	linkRawOpenBSD = 14
)

// kind is what came of taking a header apart.
type kind uint8

const (
	isIP kind = iota
	notIP
	notUDP
	damaged
)

func supported(link layers.LinkType) bool {
	switch link {
	case layers.LinkTypeEthernet, layers.LinkTypeLinuxSLL, layers.LinkTypeLinuxSLL2, layers.LinkTypeNull, layers.LinkTypeLoop,
		layers.LinkTypeRaw, linkRawBSD, linkRawOpenBSD, layers.LinkTypeIPv4, layers.LinkTypeIPv6:
		return true
	}
	return false
}

// network is the IP packet in a frame.
func network(link layers.LinkType, b []byte) ([]byte, kind) {
	switch link {
	case layers.LinkTypeEthernet:
		if len(b) < 14 {
			return nil, damaged
		}
		return tagged(binary.BigEndian.Uint16(b[12:]), b[14:])
	case layers.LinkTypeLinuxSLL:
		if len(b) < 16 {
			return nil, damaged
		}
		return tagged(binary.BigEndian.Uint16(b[14:]), b[16:])
	case layers.LinkTypeLinuxSLL2:
		if len(b) < 20 {
			return nil, damaged
		}
		return tagged(binary.BigEndian.Uint16(b), b[20:])
	case layers.LinkTypeNull, layers.LinkTypeLoop:
		if len(b) < 4 {
			return nil, damaged
		}
		if !familyOfIP(binary.LittleEndian.Uint32(b)) && !familyOfIP(binary.BigEndian.Uint32(b)) {
			return nil, notIP
		}
		return b[4:], isIP
	case layers.LinkTypeRaw, linkRawBSD, linkRawOpenBSD, layers.LinkTypeIPv4, layers.LinkTypeIPv6:
		return b, isIP
	}
	return nil, notIP
}

// tagged takes VLAN tags off.
func tagged(etherType uint16, b []byte) ([]byte, kind) {
	for etherType == typeVLAN || etherType == typeQinQ || etherType == typeQOld {
		if len(b) < 4 {
			return nil, damaged
		}
		etherType, b = binary.BigEndian.Uint16(b[2:]), b[4:]
	}
	if etherType != typeIPv4 && etherType != typeIPv6 {
		return nil, notIP
	}
	return b, isIP
}

// familyOfIP knows AF_INET and the AF_INET6 of every system that writes such
// files: NetBSD 24, FreeBSD 28, macOS 30, Linux 10.
func familyOfIP(f uint32) bool {
	switch f {
	case 2, 24, 28, 30, 10:
		return true
	}
	return false
}
