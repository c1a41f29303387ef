package bench

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"

	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// The work of every benchmark here: messages of 40 plain IPv4 records.
const (
	recordsPerMessage = 40
	recordSize        = 36
	messageSize       = 8 + recordsPerMessage*recordSize
	headersSize       = 14 + 20 + 8 // Ethernet, IPv4, UDP
)

var group = netip.MustParseAddr("224.0.0.81")

const port = 8848

// path is a veth pair between two namespaces.
type path struct {
	tb        testing.TB
	near, far xsktest.End
}

func newPath(tb testing.TB) *path {
	near, far := xsktest.VethPair(tb)
	return &path{tb, near, far}
}

// in runs f in the namespace of e.
func (p *path) in(e xsktest.End, f func() error) {
	p.tb.Helper()
	if err := e.NS.Do(f); err != nil {
		p.tb.Fatal(err)
	}
}

// arrived is how many messages the interface of the far end has received, from
// its bytes: a train of messages counts as one packet there. Nobody listens; the
// kernel drops the packets behind the interface.
func (p *path) arrived() uint64 {
	var n uint64
	p.in(p.far, func() error {
		l, err := netlink.LinkByName(p.far.Name)
		if err == nil {
			st := l.Attrs().Statistics
			n = (st.RxBytes - headersSize*st.RxPackets) / messageSize
		}
		return err
	})
	return n
}

// netdev is the interface of e.
func (p *path) netdev(e xsktest.End) (ifi *net.Interface) {
	p.in(e, func() (err error) {
		ifi, err = net.InterfaceByName(e.Name)
		return err
	})
	return ifi
}

// packet is message as it goes over the path, to the group, without UDP checksum.
func (p *path) packet(message []byte) []byte {
	g := group.As4()
	ip := &layers.IPv4{
		Version: 4, IHL: 5, TTL: 1, Flags: layers.IPv4DontFragment, Protocol: layers.IPProtocolUDP,
		SrcIP: p.near.Addr4.AsSlice(), DstIP: g[:],
	}
	udp := &layers.UDP{SrcPort: port, DstPort: port}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		p.tb.Fatal(err)
	}
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{
			SrcMAC: p.netdev(p.near).HardwareAddr, DstMAC: net.HardwareAddr{1, 0, 0x5e, g[1] & 0x7f, g[2], g[3]},
			EthernetType: layers.EthernetTypeIPv4,
		},
		ip, udp, gopacket.Payload(message))
	if err != nil {
		p.tb.Fatal(err)
	}
	b := buf.Bytes()
	b[headersSize-2], b[headersSize-1] = 0, 0
	if len(b) != headersSize+len(message) {
		p.tb.Fatal(fmt.Errorf("%d bytes in a packet, want %d", len(b), headersSize+len(message)))
	}
	return b
}
