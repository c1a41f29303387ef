package capture

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"net"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

func serialize(t testing.TB, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	for _, l := range ls {
		if udp, ok := l.(*layers.UDP); ok {
			for _, n := range ls {
				if network, ok := n.(gopacket.NetworkLayer); ok {
					if err := udp.SetNetworkLayerForChecksum(network); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(buf.Bytes())
}

func ip4() *layers.IPv4 {
	return &layers.IPv4{Version: 4, IHL: 5, TTL: 1, Id: 7, Protocol: layers.IPProtocolUDP, SrcIP: net.IP{10, 0, 0, 1}, DstIP: net.IP{224, 0, 0, 81}}
}

func ip6() *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 1, NextHeader: layers.IPProtocolUDP, SrcIP: net.ParseIP("2001:db8::1"), DstIP: net.ParseIP("ff02::81")}
}

func udp() *layers.UDP { return &layers.UDP{SrcPort: 51000, DstPort: 8848} }

func eth(next layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{1, 0, 0x5e, 0, 0, 0x51}, EthernetType: next}
}

func packet4(t testing.TB, payload string) []byte {
	return serialize(t, ip4(), udp(), gopacket.Payload(payload))
}

func packet6(t testing.TB, payload string) []byte {
	return serialize(t, ip6(), udp(), gopacket.Payload(payload))
}

// pcap makes a file; a packet is cut to snap bytes, 0 for none.
func pcap(t testing.TB, link layers.LinkType, snap int, packets ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := pcapgo.NewWriterNanos(&b)
	if err := w.WriteFileHeader(262144, link); err != nil {
		t.Fatal(err)
	}
	for i, p := range packets {
		info := gopacket.CaptureInfo{Timestamp: start.Add(time.Duration(i) * time.Second), Length: len(p)}
		if snap > 0 {
			p = p[:min(snap, len(p))]
		}
		info.CaptureLength = len(p)
		if err := w.WritePacket(info, p); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func pcapng(t testing.TB, link layers.LinkType, packets ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriter(&b, link)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range packets {
		info := gopacket.CaptureInfo{Timestamp: start.Add(time.Duration(i) * time.Second), Length: len(p), CaptureLength: len(p)}
		if err := w.WritePacket(info, p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WriteInterfaceStats(0, pcapgo.NgInterfaceStatistics{PacketsReceived: 1}); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// other writes what gopacket does not: both byte orders, both resolutions.
func other(order binary.AppendByteOrder, nano bool, packet []byte) []byte {
	magic, fraction := uint32(magicMicro), uint32(123456)
	if nano {
		magic, fraction = magicNano, 123456789
	}
	b := order.AppendUint32(nil, magic)
	b = order.AppendUint16(order.AppendUint16(b, 2), 4)
	for _, v := range []uint32{0, 0, 65535, uint32(layers.LinkTypeRaw), uint32(start.Unix()), fraction, uint32(len(packet)), uint32(len(packet))} {
		b = order.AppendUint32(b, v)
	}
	return append(b, packet...)
}

// bigEndianNG is a pcapng file of one interface and one enhanced packet.
func bigEndianNG(packet []byte) []byte {
	order := binary.BigEndian
	block := func(kind uint32, body []byte) []byte {
		for len(body)%4 != 0 {
			body = append(body, 0)
		}
		b := order.AppendUint32(nil, kind)
		b = order.AppendUint32(b, uint32(12+len(body)))
		return order.AppendUint32(append(b, body...), uint32(12+len(body)))
	}
	section := order.AppendUint32(nil, 0x1a2b3c4d)
	section = order.AppendUint32(section, 1<<16)
	section = order.AppendUint64(section, ^uint64(0))
	iface := order.AppendUint32(nil, uint32(layers.LinkTypeRaw)<<16)
	iface = order.AppendUint32(iface, 0)
	iface = append(iface, 0, 9, 0, 1, 9, 0, 0, 0, 0, 0, 0, 0) // if_tsresol 10⁻⁹, end of options
	enhanced := order.AppendUint32(nil, 0)
	enhanced = order.AppendUint64(enhanced, uint64(start.UnixNano()))
	enhanced = order.AppendUint32(order.AppendUint32(enhanced, uint32(len(packet))), uint32(len(packet)))
	enhanced = append(enhanced, packet...)
	b := block(magicNG, section)
	b = append(b, block(1, iface)...)
	b = append(b, block(0x0bad, []byte("unknown"))...)
	return append(b, block(6, enhanced)...)
}

func zip(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// fragments4 cuts an IPv4 packet without options into fragments of size bytes.
func fragments4(t testing.TB, packet []byte, size int) (list [][]byte) {
	t.Helper()
	body := packet[20:]
	for at := 0; at < len(body); at += size {
		end := min(at+size, len(body))
		ip := ip4()
		ip.FragOffset = uint16(at / 8)
		if end < len(body) {
			ip.Flags = layers.IPv4MoreFragments
		}
		list = append(list, serialize(t, ip, gopacket.Payload(body[at:end])))
	}
	return list
}

// fragments6 likewise; first is the header that the fragments hide.
func fragments6(body []byte, first layers.IPProtocol, size int) (list [][]byte) {
	for at := 0; at < len(body); at += size {
		end := min(at+size, len(body))
		head := binary.BigEndian.AppendUint16([]byte{byte(first), 0}, uint16(at))
		if end < len(body) {
			head[3] |= 1
		}
		head = binary.BigEndian.AppendUint32(head, 99)
		list = append(list, rawIP6(layers.IPProtocolIPv6Fragment, append(head, body[at:end]...)))
	}
	return list
}

// rawIP6 puts any bytes behind an IPv6 header.
func rawIP6(next layers.IPProtocol, body []byte) []byte {
	b := []byte{0x60, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(b, byte(next), 1)
	ip := ip6()
	b = append(append(b, ip.SrcIP...), ip.DstIP...)
	return append(b, body...)
}
