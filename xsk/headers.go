package xsk

// The headers in front of a message, and what is checked of those of others.
//
//	Ethernet 14 │ VLAN 0 or 4 │ IPv4 20 or IPv6 40 │ UDP 8 │ message
//
// RFC 791, 8200, 768; IEEE 802.1Q. A sender lays a template down and patches
// what differs from packet to packet: lengths, IPv4 identification, checksums.

import (
	"encoding/binary"
	"net/netip"
)

const (
	etherLen = 14
	vlanLen  = 4
	ipv4Len  = 20
	ipv6Len  = 40
	udpLen   = 8

	etherTypeIPv4 = 0x0800
	etherTypeIPv6 = 0x86dd
	etherTypeVLAN = 0x8100
	etherTypeQinQ = 0x88a8

	protoUDP = 17

	maxHeaders = etherLen + vlanLen + ipv6Len + udpLen
)

// UDPChecksum tells how senders fill in the UDP checksum.
type UDPChecksum int

const (
	ChecksumAuto    UDPChecksum = iota // ChecksumOffload where it can be had, else ChecksumFull
	ChecksumFull                       // over header and message, by the sender
	ChecksumOffload                    // by the device, or the kernel on its behalf: TX metadata, Linux 6.11
	ChecksumZero                       // none: allowed with IPv4 only, and refused by some networks
)

// groupMAC returns the Ethernet address of a multicast group: RFC 1112, section
// 6.4, and RFC 2464, section 7.
func groupMAC(group netip.Addr) (mac [6]byte) {
	if group.Is4() {
		b := group.As4()
		return [6]byte{0x01, 0x00, 0x5e, b[1] & 0x7f, b[2], b[3]}
	}
	b := group.As16()
	return [6]byte{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// template is the headers of one destination.
type template struct {
	hdr  [maxHeaders]byte
	n    int // bytes of hdr that are used
	ip   int // where the IP header starts
	v6   bool
	zero bool // no UDP checksum
	meta bool // the device finishes the UDP checksum: metadata lies in front of the packet

	// Folded, so that they have room at the top.
	ipSum  uint64 // sum of the IPv4 header without length, identification and checksum
	udpSum uint64 // sum of the pseudo header and, but with meta, the UDP header without length and checksum
	id     uint16 // IPv4 identification of the next packet
}

// templateConfig is what headers are made of.
type templateConfig struct {
	srcMAC, dstMAC [6]byte
	vlan           int // 0: no tag
	src, dst       netip.AddrPort
	ttl, dscp      int
	checksum       UDPChecksum
}

func newTemplate(c templateConfig) template {
	t := template{v6: c.dst.Addr().Is6()}
	be := binary.BigEndian
	b := t.hdr[:0]
	b = append(b, c.dstMAC[:]...)
	b = append(b, c.srcMAC[:]...)
	if c.vlan != 0 {
		b = be.AppendUint16(b, etherTypeVLAN)
		b = be.AppendUint16(b, uint16(c.vlan))
	}
	if t.v6 {
		b = be.AppendUint16(b, etherTypeIPv6)
		t.ip = len(b)
		b = be.AppendUint32(b, 6<<28|uint32(c.dscp)<<22) // flow label 0
		b = append(b, 0, 0, protoUDP, byte(c.ttl))
		src, dst := c.src.Addr().As16(), c.dst.Addr().As16()
		b = append(append(b, src[:]...), dst[:]...)
		t.udpSum = uint64(fold16(sum64(t.hdr[t.ip+8:t.ip+ipv6Len], sum16(protoUDP))))
	} else {
		b = be.AppendUint16(b, etherTypeIPv4)
		t.ip = len(b)
		b = append(b, 0x45, byte(c.dscp<<2), 0, 0, 0, 0, 0x40, 0, byte(c.ttl), protoUDP, 0, 0) // 0x40: don't fragment
		src, dst := c.src.Addr().As4(), c.dst.Addr().As4()
		b = append(append(b, src[:]...), dst[:]...)
		t.ipSum = uint64(fold16(sum64(t.hdr[t.ip:t.ip+ipv4Len], 0)))
		t.udpSum = uint64(fold16(sum64(t.hdr[t.ip+12:t.ip+ipv4Len], sum16(protoUDP))))
		t.zero = c.checksum == ChecksumZero
	}
	t.meta = c.checksum == ChecksumOffload
	b = be.AppendUint16(b, c.src.Port())
	b = be.AppendUint16(b, c.dst.Port())
	b = append(b, 0, 0, 0, 0)
	t.n = len(b)
	if !t.meta {
		t.udpSum += sum16(c.src.Port()) + sum16(c.dst.Port())
	}
	return t
}

// seal writes the headers for a message of n bytes, whose sum is payload, to b,
// which is t.n bytes long.
func (t *template) seal(b []byte, n int, payload uint64) {
	be := binary.BigEndian
	copy(b, t.hdr[:t.n])
	ip, udp := b[t.ip:], b[t.n-udpLen:]
	udpSize := uint16(udpLen + n)
	if t.v6 {
		be.PutUint16(ip[4:], udpSize)
	} else {
		size := uint16(ipv4Len + udpLen + n)
		be.PutUint16(ip[2:], size)
		be.PutUint16(ip[4:], t.id)
		putSum(ip[10:], ^fold16(t.ipSum+sum16(size)+sum16(t.id)))
		t.id++
	}
	be.PutUint16(udp[4:], udpSize)
	if t.zero {
		return
	}
	if t.meta { // what is there is added to the rest: CHECKSUM_PARTIAL
		putSum(udp[6:], fold16(t.udpSum+sum16(udpSize)))
		return
	}
	// The length counts twice: in the pseudo header, and in the UDP header.
	sum := ^fold16(addSums(t.udpSum+2*sum16(udpSize), payload))
	if sum == 0 {
		sum = 0xffff // 0 says that there is none: RFC 768
	}
	putSum(udp[6:], sum)
}

// addSums adds two partial sums of which the first has room at the top.
func addSums(small, any uint64) uint64 { return any>>32 + any&0xffffffff + small }

// verdict is what is found out about a received packet.
type verdict uint8

const (
	verdictOK          verdict = iota
	verdictForeign             // not UDP to our address and port
	verdictLength              // lengths contradict each other or the packet
	verdictIPChecksum          // IPv4 header checksum
	verdictFragment            // part of a datagram
	verdictUDPChecksum         // UDP checksum
	verdictNoChecksum          // no UDP checksum with IPv6: RFC 8200, section 8.1
	verdictUnfinished          // fine, but the checksum was left to the hardware that it never met
	numVerdicts                //
)

// rxFilter is what a receiver takes.
type rxFilter struct {
	group       netip.Addr
	local       []netip.Addr
	anyLocal    bool
	first, last uint16
	vlan        int
}

// wants reports whether dst is one of ours.
func (f *rxFilter) wants(dst netip.Addr) bool {
	if dst == f.group {
		return true
	}
	if f.anyLocal && !dst.IsMulticast() {
		return true
	}
	for _, a := range f.local {
		if a == dst {
			return true
		}
	}
	return false
}

// parse checks a packet as the kernel would (ip_rcv_core, ip6_rcv_core,
// __udp4_lib_rcv) and returns the message in it. Lengths are bounded by the
// headers from below and by the packet from above.
//
// A packet of a local sender over a virtual device has the sum of the pseudo
// header in place of its checksum, for hardware to finish that is not there
// (CHECKSUM_PARTIAL, which XDP does not see). Such a packet has never been on a
// wire; it is taken, as verdictUnfinished.
func (f *rxFilter) parse(b []byte) (payload []byte, src netip.AddrPort, v verdict) {
	be := binary.BigEndian
	if len(b) < etherLen {
		return nil, src, verdictLength
	}
	proto := be.Uint16(b[12:])
	b = b[etherLen:]
	for i := 0; i < 2 && (proto == etherTypeVLAN || proto == etherTypeQinQ); i++ {
		if len(b) < vlanLen {
			return nil, src, verdictLength
		}
		if id := be.Uint16(b) & 0xfff; i == 0 && f.vlan != 0 && int(id) != f.vlan {
			return nil, src, verdictForeign
		}
		proto = be.Uint16(b[2:])
		b = b[vlanLen:]
	}
	var from, to netip.Addr
	var udp []byte
	var sum uint64
	switch proto {
	case etherTypeIPv4:
		if len(b) < ipv4Len {
			return nil, src, verdictLength
		}
		hlen, total := int(b[0]&15)<<2, int(be.Uint16(b[2:]))
		if b[0]>>4 != 4 || hlen < ipv4Len || total < hlen || total > len(b) {
			return nil, src, verdictLength
		}
		if fold16(sum64(b[:hlen], 0)) != 0xffff {
			return nil, src, verdictIPChecksum
		}
		if b[9] != protoUDP {
			return nil, src, verdictForeign
		}
		to = netip.AddrFrom4([4]byte(b[16:20]))
		if !f.wants(to) {
			return nil, src, verdictForeign
		}
		if be.Uint16(b[6:])&0x3fff != 0 {
			return nil, src, verdictFragment
		}
		from = netip.AddrFrom4([4]byte(b[12:16]))
		sum = sum64(b[12:20], sum16(protoUDP))
		udp = b[hlen:total]
	case etherTypeIPv6:
		if len(b) < ipv6Len {
			return nil, src, verdictLength
		}
		size := int(be.Uint16(b[4:]))
		if b[0]>>4 != 6 || size > len(b)-ipv6Len {
			return nil, src, verdictLength
		}
		to = netip.AddrFrom16([16]byte(b[24:40]))
		if !f.wants(to) {
			return nil, src, verdictForeign
		}
		const fragmentHeader = 44
		if b[6] == fragmentHeader {
			return nil, src, verdictFragment
		}
		if b[6] != protoUDP {
			return nil, src, verdictForeign
		}
		from = netip.AddrFrom16([16]byte(b[8:24]))
		sum = sum64(b[8:40], sum16(protoUDP))
		udp = b[ipv6Len : ipv6Len+size]
	default:
		return nil, src, verdictForeign
	}
	if len(udp) < udpLen {
		return nil, src, verdictLength
	}
	if port := be.Uint16(udp[2:]); port < f.first || port > f.last {
		return nil, src, verdictForeign
	}
	n := int(be.Uint16(udp[4:]))
	if n < udpLen || n > len(udp) {
		return nil, src, verdictLength
	}
	udp = udp[:n:n]
	src = netip.AddrPortFrom(from, be.Uint16(udp))
	if check := native.Uint16(udp[6:]); check == 0 {
		if proto == etherTypeIPv6 {
			return nil, src, verdictNoChecksum
		}
	} else {
		pseudo := addSums(sum16(uint16(n)), sum)
		if fold16(sum64(udp, pseudo)) != 0xffff {
			if check != fold16(pseudo) {
				return nil, src, verdictUDPChecksum
			}
			v = verdictUnfinished
		}
	}
	return udp[udpLen:], src, v
}
