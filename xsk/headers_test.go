package xsk

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

func TestGroupMAC(t *testing.T) {
	for group, want := range map[string]string{
		"224.0.0.81":      "01:00:5e:00:00:51",
		"239.129.1.2":     "01:00:5e:01:01:02", // 23 bits
		"239.1.1.2":       "01:00:5e:01:01:02",
		"ff02::81":        "33:33:00:00:00:81",
		"ff0e::1234:5678": "33:33:12:34:56:78",
	} {
		mac := groupMAC(netip.MustParseAddr(group))
		if got := net.HardwareAddr(mac[:]).String(); got != want {
			t.Errorf("%s: %s, want %s", group, got, want)
		}
	}
}

func headConfig(v6 bool, vlan int) templateConfig {
	c := templateConfig{
		srcMAC: [6]byte{2, 0, 0, 0, 0, 1}, dstMAC: [6]byte{1, 0, 0x5e, 0, 0, 0x51}, vlan: vlan,
		src: netip.MustParseAddrPort("10.99.0.1:40000"), dst: netip.MustParseAddrPort("224.0.0.81:8848"), ttl: 7, dscp: 46,
	}
	if v6 {
		c.src, c.dst = netip.MustParseAddrPort("[fd99::1]:40000"), netip.MustParseAddrPort("[ff02::81]:8848")
	}
	return c
}

// packet makes a packet with t.
func packet(t *template, payload []byte) []byte {
	b := make([]byte, t.n+len(payload))
	copy(b[t.n:], payload)
	t.seal(b[:t.n], len(payload), sum64(payload, 0))
	return b
}

func filterOf(c templateConfig) *rxFilter {
	return &rxFilter{group: c.dst.Addr(), first: c.dst.Port(), last: c.dst.Port()}
}

// TestTemplate has another implementation read what is written, over all sizes,
// and compute the checksums again.
func TestTemplate(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, vlan := range []int{0, 42} {
			c := headConfig(v6, vlan)
			h := newTemplate(c)
			h.id = 0xfff0 // wraps on the way
			for n := 0; n <= 1500; n++ {
				payload := pattern(n)
				b := packet(&h, payload)
				p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
				if p.ErrorLayer() != nil {
					t.Fatalf("%d bytes: %v", n, p.ErrorLayer().Error())
				}
				udp := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
				if !bytes.Equal(udp.Payload, payload) || udp.SrcPort != 40000 || udp.DstPort != 8848 || int(udp.Length) != 8+n {
					t.Fatalf("%d bytes: %+v", n, udp)
				}
				if err := udp.SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
					t.Fatal(err)
				}
				if err, bad := p.VerifyChecksums(); err != nil || len(bad) > 0 {
					t.Fatalf("%d bytes: checksums: %v %v", n, err, bad)
				}
				if vlan != 0 && p.Layer(layers.LayerTypeDot1Q).(*layers.Dot1Q).VLANIdentifier != 42 {
					t.Fatal("VLAN")
				}
				if v6 {
					ip := p.NetworkLayer().(*layers.IPv6)
					if ip.HopLimit != 7 || ip.TrafficClass != 46<<2 || int(ip.Length) != 8+n || ip.SrcIP.String() != "fd99::1" {
						t.Fatalf("%+v", ip)
					}
				} else {
					ip := p.NetworkLayer().(*layers.IPv4)
					if ip.TTL != 7 || ip.TOS != 46<<2 || int(ip.Length) != 28+n || ip.Id != uint16(0xfff0+n) ||
						ip.Flags != layers.IPv4DontFragment || ip.SrcIP.String() != "10.99.0.1" {
						t.Fatalf("%+v", ip)
					}
				}
				got, src, v := filterOf(c).parse(b)
				if v != verdictOK || !bytes.Equal(got, payload) || src != c.src {
					t.Fatalf("%d bytes: verdict %d, %d bytes from %s", n, v, len(got), src)
				}
			}
		}
	}
}

// TestTemplateChecksumZero: none on request with IPv4, and 0xffff where the sum
// comes out as 0.
func TestTemplateChecksumZero(t *testing.T) {
	c := headConfig(false, 0)
	c.checksum = ChecksumZero
	h := newTemplate(c)
	b := packet(&h, []byte("x"))
	if s := b[h.n-2 : h.n]; s[0] != 0 || s[1] != 0 {
		t.Errorf("checksum %x, want none", s)
	}
	if _, _, v := filterOf(c).parse(b); v != verdictOK {
		t.Errorf("verdict %d for an IPv4 packet without checksum", v)
	}
	for _, v6 := range []bool{false, true} {
		c := headConfig(v6, 0)
		h := newTemplate(c)
		seen := false
		for i := range 1 << 16 {
			b := packet(&h, []byte{byte(i >> 8), byte(i)})
			s := b[h.n-2 : h.n]
			if s[0] == 0 && s[1] == 0 {
				t.Fatalf("payload %#x: the checksum is 0, which says that there is none", i)
			}
			seen = seen || s[0] == 0xff && s[1] == 0xff
		}
		if !seen {
			t.Error("no payload has the checksum 0xffff")
		}
	}
}

// TestParseTruncated: no prefix of a packet is taken for one, and none makes
// the parser stumble.
func TestParseTruncated(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, vlan := range []int{0, 42} {
			c := headConfig(v6, vlan)
			h := newTemplate(c)
			b := packet(&h, pattern(20))
			for n := range b {
				if _, _, v := filterOf(c).parse(b[:n:n]); v == verdictOK {
					t.Errorf("the first %d of %d bytes were taken", n, len(b))
				}
			}
			// What is behind the packet is padding.
			if p, _, v := filterOf(c).parse(append(bytes.Clone(b), 1, 2, 3)); v != verdictOK || len(p) != 20 {
				t.Errorf("with padding: verdict %d, %d bytes", v, len(p))
			}
		}
	}
}

// TestParseFlips: a flipped bit is found wherever a checksum covers it.
func TestParseFlips(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		c := headConfig(v6, 0)
		h := newTemplate(c)
		b := packet(&h, pattern(33))
		for bit := etherLen * 8; bit < len(b)*8; bit++ {
			b[bit/8] ^= 1 << (bit % 8)
			if _, _, v := filterOf(c).parse(b); v == verdictOK && !(v6 && uncovered6(bit/8)) {
				t.Errorf("IPv6 %v: bit %d of byte %d flipped, and taken", v6, bit%8, bit/8)
			}
			b[bit/8] ^= 1 << (bit % 8)
		}
	}
}

// uncovered6: IPv6 has no checksum of its own, and that of UDP covers neither
// traffic class and flow label nor the hop limit.
func uncovered6(i int) bool { return i < etherLen+4 || i == etherLen+7 }

// TestParseVerdicts: each refusal has its verdict.
func TestParseVerdicts(t *testing.T) {
	fix4 := func(b []byte) { // the IPv4 header checksum
		ip := b[etherLen:]
		hlen := int(ip[0]&15) << 2
		ip[10], ip[11] = 0, 0
		putSum(ip[10:], ^fold16(sum64(ip[:hlen], 0)))
	}
	for _, c := range []struct {
		name string
		v6   bool
		want verdict
		mod  func(b []byte) []byte
	}{
		{"plain", false, verdictOK, nil},
		{"plain 6", true, verdictOK, nil},
		{"ARP", false, verdictForeign, func(b []byte) []byte { b[12], b[13] = 8, 6; return b }},
		{"TCP", false, verdictForeign, func(b []byte) []byte { b[etherLen+9] = 6; fix4(b); return b }},
		{"TCP 6", true, verdictForeign, func(b []byte) []byte { b[etherLen+6] = 6; return b }},
		{"other group", false, verdictForeign, func(b []byte) []byte { b[etherLen+19]++; fix4(b); return b }},
		{"other group 6", true, verdictForeign, func(b []byte) []byte { b[etherLen+39]++; return b }},
		{"other port", false, verdictForeign, func(b []byte) []byte { b[etherLen+23]++; return b }},
		{"other port 6", true, verdictForeign, func(b []byte) []byte { b[etherLen+43]++; return b }},
		{"header checksum", false, verdictIPChecksum, func(b []byte) []byte { b[etherLen+8]++; return b }},
		{"first fragment", false, verdictFragment, func(b []byte) []byte { b[etherLen+6] = 0x20; fix4(b); return b }},
		{"last fragment", false, verdictFragment, func(b []byte) []byte { b[etherLen+7] = 1; fix4(b); return b }},
		{"fragment 6", true, verdictFragment, func(b []byte) []byte { b[etherLen+6] = 44; return b }},
		{"version", false, verdictLength, func(b []byte) []byte { b[etherLen] = 0x55; fix4(b); return b }},
		{"version 6", true, verdictLength, func(b []byte) []byte { b[etherLen] = 0x40; return b }},
		{"header length", false, verdictLength, func(b []byte) []byte { b[etherLen] = 0x44; return b }},
		{"total length", false, verdictLength, func(b []byte) []byte { b[etherLen+2] = 0xff; fix4(b); return b }},
		{"total length of the header", false, verdictLength, func(b []byte) []byte { b[etherLen+2], b[etherLen+3] = 0, 20; fix4(b); return b }},
		{"payload length 6", true, verdictLength, func(b []byte) []byte { b[etherLen+4] = 0xff; return b }},
		{"UDP length", false, verdictLength, func(b []byte) []byte { b[etherLen+24] = 0xff; return b }},
		{"UDP length below 8", false, verdictLength, func(b []byte) []byte { b[etherLen+24], b[etherLen+25] = 0, 7; return b }},
		{"UDP checksum", false, verdictUDPChecksum, func(b []byte) []byte { b[len(b)-1]++; return b }},
		{"UDP checksum 6", true, verdictUDPChecksum, func(b []byte) []byte { b[len(b)-1]++; return b }},
		{"no checksum", false, verdictOK, func(b []byte) []byte { b[etherLen+26], b[etherLen+27] = 0, 0; return b }},
		{"no checksum 6", true, verdictNoChecksum, func(b []byte) []byte { b[etherLen+46], b[etherLen+47] = 0, 0; return b }},
		{"unfinished", false, verdictUnfinished, func(b []byte) []byte {
			putSum(b[etherLen+26:], fold16(sum64(b[etherLen+12:etherLen+20], sum16(protoUDP)+sum16(uint16(len(b)-etherLen-20)))))
			return b
		}},
		{"unfinished 6", true, verdictUnfinished, func(b []byte) []byte {
			putSum(b[etherLen+46:], fold16(sum64(b[etherLen+8:etherLen+40], sum16(protoUDP)+sum16(uint16(len(b)-etherLen-40)))))
			return b
		}},
		{"options", false, verdictOK, func(b []byte) []byte {
			b = append(b[:etherLen+20:etherLen+20], append([]byte{1, 1, 1, 1}, b[etherLen+20:]...)...)
			b[etherLen], b[etherLen+3] = 0x46, b[etherLen+3]+4
			fix4(b)
			return b
		}},
		{"two tags", false, verdictOK, func(b []byte) []byte {
			return append(b[:12:12], append([]byte{0x88, 0xa8, 0, 1, 0x81, 0, 0, 2}, b[12:]...)...)
		}},
		{"three tags", false, verdictForeign, func(b []byte) []byte {
			return append(b[:12:12], append([]byte{0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3}, b[12:]...)...)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			head := headConfig(c.v6, 0)
			h := newTemplate(head)
			b := packet(&h, pattern(40))
			if c.mod != nil {
				b = c.mod(b)
			}
			payload, _, v := filterOf(head).parse(b)
			if v != c.want {
				t.Errorf("verdict %d, want %d", v, c.want)
			}
			if ok := v == verdictOK || v == verdictUnfinished; ok != (len(payload) == 40) {
				t.Errorf("%d bytes with verdict %d", len(payload), v)
			}
		})
	}
	head := headConfig(false, 7)
	h := newTemplate(head)
	f := filterOf(head)
	for vlan, want := range map[int]verdict{0: verdictOK, 7: verdictOK, 8: verdictForeign} {
		f.vlan = vlan
		if _, _, v := f.parse(packet(&h, nil)); v != want {
			t.Errorf("VLAN %d: verdict %d, want %d", vlan, v, want)
		}
	}
}

// FuzzParse: whatever comes, a message that is taken lies within the packet.
func FuzzParse(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		h := newTemplate(headConfig(v6, 3))
		f.Add(packet(&h, pattern(9)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v6 := range []bool{false, true} {
			r := filterOf(headConfig(v6, 0))
			r.anyLocal = true
			payload, src, v := r.parse(b)
			taken := v == verdictOK || v == verdictUnfinished
			if v >= numVerdicts || taken && !src.IsValid() || !taken && payload != nil {
				t.Fatalf("verdict %d, %d bytes from %s", v, len(payload), src)
			}
			if len(payload) > len(b) || cap(payload) > len(b) && len(payload) > 0 {
				t.Fatalf("%d bytes of %d", len(payload), len(b))
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for _, v6 := range []bool{false, true} {
		c := headConfig(v6, 0)
		h := newTemplate(c)
		p := packet(&h, pattern(1448))
		f := filterOf(c)
		b.Run(fmt.Sprintf("IPv6=%v", v6), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, v := f.parse(p); v != verdictOK {
					b.Fatal(v)
				}
			}
		})
	}
}
