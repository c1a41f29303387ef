package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

type found struct {
	Datagram
	body string
}

func readAll(t testing.TB, file []byte) (list []found, stats Stats, err error) {
	t.Helper()
	r, err := NewReader(bytes.NewReader(file))
	if err != nil {
		return nil, Stats{}, err
	}
	for {
		var d Datagram
		if err := r.Next(&d); err != nil {
			s := r.Stats
			if s.Packets != s.Whole+s.Fragments+s.NotIP+s.NotUDP+s.Damaged || s.Orphans > s.Fragments {
				t.Fatalf("packets get lost: %+v", s)
			}
			if err == io.EOF {
				err = nil
			}
			return list, s, err
		}
		list = append(list, found{d, string(d.Payload)})
	}
}

func TestLinkTypes(t *testing.T) {
	v4, v6 := packet4(t, "four"), packet6(t, "six")
	udp6 := v6[40:]
	vlan := func(id uint16, next layers.EthernetType) *layers.Dot1Q {
		return &layers.Dot1Q{VLANIdentifier: id, Type: next}
	}
	sll := func(proto uint16) []byte {
		return binary.BigEndian.AppendUint16([]byte{0, 4, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0}, proto)
	}
	sll2 := func(proto uint16) []byte {
		return append(binary.BigEndian.AppendUint16(nil, proto), 0, 0, 0, 0, 0, 2, 0, 1, 4, 6, 2, 0, 0, 0, 0, 1, 0, 0)
	}
	options := ip4()
	options.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
	hop := []byte{0, 0, 5, 2, 0, 0, 1, 0} // router alert
	// Each extension header names the one behind it.
	chain := slices.Concat([]byte{60}, hop[1:], []byte{43, 0, 1, 4, 0, 0, 0, 0}, []byte{51, 0, 4, 0, 0, 0, 0, 0},
		[]byte{44, 4, 0, 0}, make([]byte, 20), []byte{17, 0, 0, 0, 0, 0, 0, 9}, udp6)
	for _, tt := range []struct {
		name   string
		link   layers.LinkType
		packet []byte
		body   string
	}{
		{"ethernet", layers.LinkTypeEthernet, serialize(t, eth(layers.EthernetTypeIPv4), ip4(), udp(), gopacket.Payload("four")), "four"},
		{"ethernet, padded", layers.LinkTypeEthernet, append(serialize(t, eth(layers.EthernetTypeIPv4), ip4(), udp(), gopacket.Payload("four")), "padding"...), "four"},
		{"ethernet, IPv6", layers.LinkTypeEthernet, serialize(t, eth(layers.EthernetTypeIPv6), ip6(), udp(), gopacket.Payload("six")), "six"},
		{"802.1Q", layers.LinkTypeEthernet, serialize(t, eth(layers.EthernetTypeDot1Q), vlan(5, layers.EthernetTypeIPv4), ip4(), udp(), gopacket.Payload("four")), "four"},
		{"QinQ", layers.LinkTypeEthernet, serialize(t, eth(layers.EthernetTypeQinQ), vlan(5, layers.EthernetTypeDot1Q), vlan(6, layers.EthernetTypeIPv6), ip6(), udp(), gopacket.Payload("six")), "six"},
		{"old QinQ", layers.LinkTypeEthernet, serialize(t, eth(0x9100), vlan(5, layers.EthernetTypeDot1Q), vlan(6, layers.EthernetTypeIPv4), ip4(), udp(), gopacket.Payload("four")), "four"},
		{"SLL", layers.LinkTypeLinuxSLL, append(sll(typeIPv4), v4...), "four"},
		{"SLL, IPv6", layers.LinkTypeLinuxSLL, append(sll(typeIPv6), v6...), "six"},
		{"SLL, tagged", layers.LinkTypeLinuxSLL, slices.Concat(sll(typeVLAN), []byte{0, 5, 8, 0}, v4), "four"},
		{"SLL2", layers.LinkTypeLinuxSLL2, append(sll2(typeIPv4), v4...), "four"},
		{"SLL2, IPv6", layers.LinkTypeLinuxSLL2, append(sll2(typeIPv6), v6...), "six"},
		{"raw 101", layers.LinkTypeRaw, v4, "four"},
		{"raw 101, IPv6", layers.LinkTypeRaw, v6, "six"},
		{"raw 12", 12, v4, "four"},
		{"raw 14", 14, v6, "six"},
		{"IPv4", layers.LinkTypeIPv4, v4, "four"},
		{"IPv6", layers.LinkTypeIPv6, v6, "six"},
		{"null", layers.LinkTypeNull, append([]byte{2, 0, 0, 0}, v4...), "four"},
		{"null, big-endian FreeBSD", layers.LinkTypeNull, append([]byte{0, 0, 0, 28}, v6...), "six"},
		{"loop", layers.LinkTypeLoop, append([]byte{0, 0, 0, 2}, v4...), "four"},
		{"IPv4 options", layers.LinkTypeRaw, serialize(t, options, udp(), gopacket.Payload("four")), "four"},
		{"IPv6 hop-by-hop", layers.LinkTypeRaw, rawIP6(0, slices.Concat([]byte{17}, hop[1:], udp6)), "six"},
		{"IPv6, all extensions", layers.LinkTypeRaw, rawIP6(0, chain), "six"},
		{"IPv4 length left to the NIC", layers.LinkTypeRaw, slices.Concat(v4[:2], []byte{0, 0}, v4[4:]), "four"},
		{"bytes behind the UDP length", layers.LinkTypeRaw, rawIP6(17, slices.Concat(udp6, []byte("more"))), "six"},
		{"UDP length 0 over IPv6", layers.LinkTypeRaw, rawIP6(17, slices.Concat(udp6[:4], []byte{0, 0}, udp6[6:])), "six"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, stats, err := readAll(t, pcap(t, tt.link, 0, tt.packet))
			if err != nil || len(got) != 1 || stats.Whole != 1 {
				t.Fatalf("%v, %+v, %d datagrams", err, stats, len(got))
			}
			src, dst := "10.0.0.1:51000", "224.0.0.81:8848"
			if tt.body == "six" {
				src, dst = "[2001:db8::1]:51000", "[ff02::81]:8848"
			}
			d := got[0]
			if d.body != tt.body || d.Src != netip.MustParseAddrPort(src) || d.Dst != netip.MustParseAddrPort(dst) ||
				d.Fault != NoFault || d.Cut() || d.Packet != 1 || !d.Time.Equal(start) {
				t.Errorf("%+v", d)
			}
		})
	}
}

func TestOtherPackets(t *testing.T) {
	tcp := serialize(t, ip4(), udp(), gopacket.Payload("x"))
	tcp[9] = 6
	v4 := packet4(t, "four")
	for _, tt := range []struct {
		name   string
		link   layers.LinkType
		packet []byte
		want   Stats
	}{
		{"ARP", layers.LinkTypeEthernet, serialize(t, eth(layers.EthernetTypeARP), gopacket.Payload("0123456789")), Stats{NotIP: 1}},
		{"802.3", layers.LinkTypeEthernet, append(make([]byte, 12), 0, 3, 0x42, 0x42, 3), Stats{NotIP: 1}},
		{"null, AppleTalk", layers.LinkTypeNull, append([]byte{16, 0, 0, 0}, v4...), Stats{NotIP: 1}},
		{"TCP", layers.LinkTypeRaw, tcp, Stats{NotUDP: 1}},
		{"ICMPv6", layers.LinkTypeRaw, rawIP6(58, make([]byte, 8)), Stats{NotUDP: 1}},
		{"IPv6 extension cut", layers.LinkTypeRaw, rawIP6(0, []byte{17, 9, 0, 0, 0, 0, 0, 0}), Stats{Damaged: 1}},
		{"empty", layers.LinkTypeRaw, nil, Stats{Damaged: 1}},
		{"IP version 5", layers.LinkTypeRaw, []byte{0x55, 0}, Stats{Damaged: 1}},
		{"IP header of 16 bytes", layers.LinkTypeRaw, slices.Concat([]byte{0x44}, v4[1:]), Stats{Damaged: 1}},
		{"IP length under the header's", layers.LinkTypeRaw, slices.Concat(v4[:2], []byte{0, 19}, v4[4:]), Stats{Damaged: 1}},
		{"UDP header cut", layers.LinkTypeRaw, v4[:27], Stats{Damaged: 1}},
		{"ethernet cut", layers.LinkTypeEthernet, make([]byte, 13), Stats{Damaged: 1}},
		{"SLL cut", layers.LinkTypeLinuxSLL, make([]byte, 15), Stats{Damaged: 1}},
		{"SLL2 cut", layers.LinkTypeLinuxSLL2, make([]byte, 19), Stats{Damaged: 1}},
		{"tag cut", layers.LinkTypeEthernet, append(make([]byte, 12), 0x81, 0, 0), Stats{Damaged: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.Packets = 1
			if got, stats, err := readAll(t, pcap(t, tt.link, 0, tt.packet)); err != nil || len(got) != 0 || stats != tt.want {
				t.Errorf("%v, %+v, %v", err, stats, got)
			}
		})
	}
}

func TestFaults(t *testing.T) {
	v4 := packet4(t, "four")
	for _, tt := range []struct {
		name   string
		packet []byte
		fault  Fault
		detail string
	}{
		{"UDP length too long", slices.Concat(v4[:24], []byte{0, 99}, v4[26:]), BadUDPLength, "99, with 12 bytes in the IP packet"},
		{"UDP length too short", slices.Concat(v4[:24], []byte{0, 7}, v4[26:]), BadUDPLength, "7, with 12 bytes in the IP packet"},
		{"IP length too long", slices.Concat(v4[:2], []byte{0, 40}, v4[4:]), PacketOverrun, "20 bytes of payload, the frame has 12"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, _, err := readAll(t, pcap(t, layers.LinkTypeRaw, 0, tt.packet))
			if err != nil || len(got) != 1 {
				t.Fatalf("%v, %d datagrams", err, len(got))
			}
			if d := got[0]; d.Fault != tt.fault || d.Detail != tt.detail || d.body != "four" || d.Cut() {
				t.Errorf("%+v", d)
			}
		})
	}
}

func TestSnaplen(t *testing.T) {
	got, _, err := readAll(t, pcap(t, layers.LinkTypeRaw, 31, packet4(t, "four"), packet4(t, "")))
	if err != nil || len(got) != 2 {
		t.Fatalf("%v, %d datagrams", err, len(got))
	}
	if d := got[0]; d.body != "fou" || d.Length != 4 || !d.Cut() || d.Fault != NoFault {
		t.Errorf("%+v", d)
	}
	if d := got[1]; d.body != "" || d.Length != 0 || d.Cut() {
		t.Errorf("%+v", d)
	}
}

func TestFormats(t *testing.T) {
	v4 := packet4(t, "four")
	micro := start.Truncate(1000)
	for _, tt := range []struct {
		name string
		file []byte
		time int64
	}{
		{"little, micro", other(binary.LittleEndian, false, v4), micro.UnixNano()},
		{"little, nano", other(binary.LittleEndian, true, v4), start.UnixNano()},
		{"big, micro", other(binary.BigEndian, false, v4), micro.UnixNano()},
		{"big, nano", other(binary.BigEndian, true, v4), start.UnixNano()},
		{"pcapng", pcapng(t, layers.LinkTypeRaw, v4), start.UnixNano()},
		{"pcapng, big", bigEndianNG(v4), start.UnixNano()},
		{"pcap, zipped", zip(t, pcap(t, layers.LinkTypeRaw, 0, v4)), start.UnixNano()},
		{"pcapng, zipped", zip(t, pcapng(t, layers.LinkTypeRaw, v4)), start.UnixNano()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, _, err := readAll(t, tt.file)
			if err != nil || len(got) != 1 || got[0].body != "four" || got[0].Time.UnixNano() != tt.time {
				t.Errorf("%v, %v", err, got)
			}
		})
	}
}

func TestNoCapture(t *testing.T) {
	for _, tt := range []struct {
		file []byte
		is   error
		says string
	}{
		{nil, ErrFormat, "it is empty"},
		{[]byte{0xd4, 0xc3}, ErrFormat, "it has 2 bytes"},
		{[]byte("GIF89a"), ErrFormat, "it begins with 47 49 46 38"},
		{pcap(t, layers.LinkTypeRaw, 0)[:20], io.ErrUnexpectedEOF, "pcap header: "},
		{pcapng(t, layers.LinkTypeRaw)[:20], io.ErrUnexpectedEOF, "pcapng header: "},
		{pcap(t, layers.LinkTypeIEEE802_11, 0), nil, "link type 105 is not supported"},
		{[]byte{0x1f, 0x8b, 9, 9}, nil, "gzip: "},
	} {
		_, _, err := readAll(t, tt.file)
		if err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%v, want %s", err, tt.says)
		}
	}
}

// Everything before the damage is there, and every cut is noticed unless it is
// between two packets.
func TestTruncatedFile(t *testing.T) {
	v4 := packet4(t, "four")
	for name, whole := range map[string][]byte{
		"pcap":   pcap(t, layers.LinkTypeRaw, 0, v4, v4),
		"pcapng": pcapng(t, layers.LinkTypeRaw, v4, v4),
	} {
		boundaries := 0
		for n := range len(whole) {
			got, _, err := readAll(t, whole[:n])
			if err == nil {
				boundaries++
				continue
			}
			var damage *DamageError
			if errors.As(err, &damage) {
				if damage.Packet != len(got)+1 || damage.Offset > int64(n) || !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("%s cut at %d: %d datagrams, then %v", name, n, len(got), err)
				}
			} else if len(got) > 0 {
				t.Fatalf("%s cut at %d: %v", name, n, err)
			}
		}
		if boundaries != map[string]int{"pcap": 2, "pcapng": 4}[name] {
			t.Errorf("%s: %d cuts went unnoticed", name, boundaries)
		}
	}
	file := pcap(t, layers.LinkTypeRaw, 0, v4, v4)
	_, _, err := readAll(t, file[:len(file)-1])
	if want := "packet 2, at byte 72: the file ends in the middle of it (unexpected EOF)"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// A capture may come byte by byte, and may fail.
func TestSlowAndFailingInput(t *testing.T) {
	file := pcap(t, layers.LinkTypeRaw, 0, packet4(t, "four"))
	broken := errors.New("cable pulled")
	r, err := NewReader(io.MultiReader(iotest.OneByteReader(bytes.NewReader(file)), iotest.ErrReader(broken)))
	if err != nil {
		t.Fatal(err)
	}
	var d Datagram
	if err := r.Next(&d); err != nil || string(d.Payload) != "four" {
		t.Fatalf("%v %+v", err, d)
	}
	for range 2 { // it stays broken
		if err := r.Next(&d); !errors.Is(err, broken) {
			t.Fatal(err)
		}
	}
}

func FuzzReader(f *testing.F) {
	v4 := packet4(f, "four and more of it")
	f.Add(pcap(f, layers.LinkTypeEthernet, 0, serialize(f, eth(layers.EthernetTypeIPv4), ip4(), udp(), gopacket.Payload("x"))))
	f.Add(pcap(f, layers.LinkTypeRaw, 0, fragments4(f, v4, 8)...))
	f.Add(pcap(f, layers.LinkTypeRaw, 0, fragments6(packet6(f, "0123456789abcdef")[40:], 17, 8)...))
	f.Add(pcapng(f, layers.LinkTypeRaw, v4, packet6(f, "six")))
	f.Add(bigEndianNG(v4))
	f.Fuzz(func(t *testing.T, file []byte) {
		if len(file) > 1 && file[0] == 0x1f && file[1] == 0x8b {
			return // unzipping is compress/gzip's business, and a few bytes may make gigabytes
		}
		list, stats, _ := readAll(t, file)
		for _, d := range list {
			if d.Length < 0 || len(d.body) > d.Length || d.Packet < 1 || d.Packet > stats.Packets {
				t.Fatalf("%+v", d)
			}
		}
	})
}
