package main

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/ipvsync/ipvsync/encoder"
)

// showcase is a capture with one packet of every kind that decode tells apart.
func showcase(t testing.TB) []byte {
	t.Helper()
	plain := testConn("tcp", "10.88.0.1:43938", "10.88.0.2:80", "10.99.0.3:8080")
	plain.State, plain.Flags, plain.Timeout = encoder.TCPEstablished, encoder.FlagInactive, 60
	full := plain
	full.Client.Port++
	full.Flags, full.Fwmark = encoder.FlagInSeq|encoder.FwdTunnel, 9
	full.Options = must(must(full.Options.AppendSeq(encoder.Seq{Init: 1, Delta: 2, PreviousDelta: 3}, encoder.Seq{Init: 4, Delta: 5, PreviousDelta: 6})).
		AppendUnknown(0x45, []byte{1, 2, 3}))
	sip := testConn("udp", "10.88.0.1:0", "10.88.0.2:5060", "10.99.0.3:5060")
	sip.Flags, sip.Timeout = encoder.FlagTemplate, 180
	sip.Options = must(sip.Options.AppendPE("sip", []byte("call-1@\x1bhost")))
	six := testConn("udp", "[2001:db8::1]:43938", "[2001:db8::2]:53", "[2001:db8:1::3]:53")
	six.Timeout = 300
	latin := sip
	latin.Options = must(encoder.Options(nil).AppendPE("s\xefp", []byte("x")))
	badState := testConn("udp", "10.88.0.1:1", "10.88.0.2:2", "10.99.0.3:3")
	badState.State = 4
	gre := testConn("47", "10.88.0.1:1", "10.88.0.2:2", "10.99.0.3:3")

	v1 := testMessage(t, encoder.Version1, 7, plain, full, sip, six)
	seven := testMessage(t, encoder.Version1, 7, plain, latin, badState, gre, plain)
	stop := testMessage(t, encoder.Version1, 7, plain, plain, plain)
	stop[8+36+2] |= 0x20 // a version that does not exist
	trailer := append(testMessage(t, encoder.Version1, 7, plain), "trailer"...)
	trailer[3] += 7
	wrong := append(testMessage(t, encoder.Version1, 7, plain), 0, 0)

	var b bytes.Buffer
	w := pcapgo.NewWriterNanos(&b)
	mustDo(t, w.WriteFileHeader(262144, layers.LinkTypeEthernet))
	at := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)
	write := func(snap int, packet []byte) {
		at = at.Add(time.Second)
		mustDo(t, w.WritePacket(gopacket.CaptureInfo{Timestamp: at, Length: len(packet), CaptureLength: min(snap, len(packet))}, packet[:min(snap, len(packet))]))
	}
	const all = 1 << 20
	write(all, testFrame(t, 8848, v1))
	write(all, testFrame(t, 8848, testMessage(t, encoder.Version0, 7, plain)))
	write(all, testFrame(t, 8848, seven))
	write(all, testFrame(t, 8848, stop))
	write(all, testFrame(t, 8848, trailer))
	write(all, testFrame(t, 8848, wrong))
	write(all, testFrame(t, 8849, testMessage(t, encoder.Version1, 9, plain)))
	write(all, testFrame(t, 53, []byte("not for us")))
	write(120, testFrame(t, 8848, v1))
	arp := testFrame(t, 8848, nil)
	arp[12], arp[13] = 8, 6
	write(all, arp)
	frag := testFrame(t, 8848, v1)
	frag[20] |= 0x20 // more fragments, which never come
	write(all, frag)
	return b.Bytes()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func mustDo(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testConn(protocol, client, virtual, dest string) encoder.Conn {
	e := func(s string) encoder.Endpoint { return encoder.EndpointFrom(netip.MustParseAddrPort(s)) }
	return encoder.Conn{Protocol: must(encoder.ParseProtocol(protocol)), Client: e(client), Virtual: e(virtual), Dest: e(dest)}
}

func testMessage(t testing.TB, v encoder.Version, syncID uint8, conns ...encoder.Conn) []byte {
	t.Helper()
	var w encoder.Writer
	mustDo(t, w.Init(make([]byte, encoder.DefaultMaxSize), v, syncID))
	for _, c := range conns {
		mustDo(t, w.Append(&c))
	}
	return bytes.Clone(w.Seal())
}

// testFrame is an Ethernet frame with a UDP datagram to port.
func testFrame(t testing.TB, port uint16, payload []byte) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{1, 0, 0x5e, 0, 0, 0x51}, EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{Version: 4, TTL: 1, Protocol: layers.IPProtocolUDP, SrcIP: net.IP{10, 88, 0, 2}, DstIP: net.IP{224, 0, 0, 81}}
	udp := &layers.UDP{SrcPort: 51000, DstPort: layers.UDPPort(port)}
	mustDo(t, udp.SetNetworkLayerForChecksum(ip))
	buf := gopacket.NewSerializeBuffer()
	mustDo(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, udp, gopacket.Payload(payload)))
	return bytes.Clone(buf.Bytes())
}

func testFile(t testing.TB, content []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "sync.pcap")
	mustDo(t, os.WriteFile(name, content, 0o600))
	return name
}
