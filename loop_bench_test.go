package ipvsync

import (
	"bytes"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// What each side of BenchmarkLoopTransports sends in a turn: messages of 40
// records, as many as a ring holds at once.
const (
	loopMessages = 512
	loopRecords  = 40
	loopSize     = 8 + loopRecords*encoder.PlainIPv4Size
)

// BenchmarkLoopTransports is the transmit loop over a veth pair, out of rings that
// were filled before the clock started, by turns with a loop that sends as many
// finished messages and does nothing else: what the engine adds to the kernel's
// work, without a producer on another processor. One operation is a message of
// either side; x is the ratio of rates. Figures are medians over all turns. Whole
// ways, with opponents and counts of the far end, are in package bench.
func BenchmarkLoopTransports(b *testing.B) {
	xdp := func(sum xsk.UDPChecksum) func(string) (xsk.Tx, error) {
		return func(iface string) (xsk.Tx, error) {
			return xsk.OpenXDPTx(xsk.XDPConfig{Interface: iface, Group: DefaultGroup, Port: DefaultPort,
				Mode: xsk.CopyOnly, MaxPayload: loopSize, Checksum: sum})
		}
	}
	gso := func(iface string) (xsk.Tx, error) {
		return xsk.OpenUDPTx(xsk.UDPConfig{Interface: iface, Group: DefaultGroup, Port: DefaultPort,
			GSO: xsk.OffloadOn, MaxPayload: loopSize, Batch: 88})
	}
	for _, c := range []struct {
		name string
		open func(string) (xsk.Tx, error)
		bare func(*testing.B, xsktest.End) func()
	}{
		{"AF_XDP", xdp(xsk.ChecksumAuto), bareXDP},
		{"AF_XDP, UDP checksum by us", xdp(xsk.ChecksumFull), bareXDP},
		{"AF_XDP, no UDP checksum", xdp(xsk.ChecksumZero), bareXDP},
		{"UDP with GSO", gso, bareGSO},
	} {
		b.Run(c.name, func(b *testing.B) {
			near, _ := xsktest.VethPair(b)
			other, _ := xsktest.VethPair(b)
			work := [2]func(){loopTurn(b, near, c.open), c.bare(b, other)}
			var took [2][]float64
			var ratios []float64
			shard := benchLoopShard
			b.ReportAllocs()
			for i := 0; i < b.N; i += loopMessages {
				for range loopMessages {
					if n, _ := shard.PublishBatch(benchLoopConns); n != loopRecords {
						b.Fatal("refused")
					}
				}
				for k := range work {
					k ^= i / loopMessages & 1
					start := time.Now()
					work[k]()
					took[k] = append(took[k], float64(time.Since(start).Nanoseconds())/loopMessages)
				}
				ratios = append(ratios, took[1][len(ratios)]/took[0][len(ratios)])
			}
			median := func(v []float64) float64 { slices.Sort(v); return v[len(v)/2] }
			b.ReportMetric(median(ratios), "x")
			b.ReportMetric(median(took[0]), "ns/msg")
			b.ReportMetric(median(took[1]), "bare-ns/msg")
			b.ReportMetric(0, "ns/op")
		})
	}
}

var (
	benchLoopShard *Shard
	benchLoopConns = benchConns(loopRecords)
)

// loopTurn empties the ring of benchLoopShard into a transport.
func loopTurn(b *testing.B, near xsktest.End, open func(string) (xsk.Tx, error)) func() {
	benchLoopShard = benchShard(b)
	p := benchLoopShard.port
	p.cfg.FlushInterval = time.Hour
	if err := near.NS.Do(func() (err error) { p.tx, err = open(near.Name); return err }); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.tx.Close() })
	return func() {
		for p.collect() > 0 {
			p.flush()
		}
		for p.sealAll(); p.tx.Pending() > 0; {
			p.flush()
		}
	}
}

// bareXDP sends finished frames on an AF_XDP socket.
func bareXDP(b *testing.B, near xsktest.End) func() {
	var s *xsk.Socket
	var mac net.HardwareAddr
	if err := near.NS.Do(func() error {
		ifi, err := net.InterfaceByName(near.Name)
		if err == nil {
			mac = ifi.HardwareAddr
			s, err = xsk.OpenSocket(xsk.SocketConfig{Interface: near.Name, TxFrames: 2048, Mode: xsk.CopyOnly})
		}
		return err
	}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close(); s.Unmap() })
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 1, Protocol: layers.IPProtocolUDP, SrcIP: near.Addr4.AsSlice(), DstIP: DefaultGroup.AsSlice()}
	udp := &layers.UDP{SrcPort: DefaultPort, DstPort: DefaultPort}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		b.Fatal(err)
	}
	out := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(out, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: mac, DstMAC: net.HardwareAddr{1, 0, 0x5e, 0, 0, 81}, EthernetType: layers.EthernetTypeIPv4},
		ip, udp, gopacket.Payload(make([]byte, loopSize))); err != nil {
		b.Fatal(err)
	}
	q, packet := s.Tx(), out.Bytes()
	for f := uint32(0); ; f++ {
		_, buf, ok := q.Get()
		if !ok {
			for ; f > 0; f-- {
				q.Put(f - 1)
			}
			break
		}
		copy(buf, packet)
	}
	return func() {
		for i := range loopMessages {
			f, _, ok := q.Get()
			if !ok || !q.Queue(f, 0, len(packet)) {
				b.Fatal("no frame, or no room")
			}
			if i%64 == 63 {
				q.Flush(nil)
			}
		}
		for q.Pending() > 0 {
			q.Flush(nil)
		}
	}
}

// bareGSO writes trains of 44 finished messages, with a segment size that is set
// once.
func bareGSO(b *testing.B, near xsktest.End) func() {
	const train = 44
	fd := -1
	if err := near.NS.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, loopSize); err != nil {
			return err
		}
		return unix.Connect(fd, &unix.SockaddrInet4{Addr: DefaultGroup.As4(), Port: DefaultPort})
	}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { unix.Close(fd) })
	// Written, or the kernel might read one page of zeroes over and over.
	buf := bytes.Repeat([]byte{0xa5}, train*loopSize)
	return func() {
		for left := loopMessages; left > 0; left -= train {
			n := min(left, train) * loopSize
			if k, err := unix.Write(fd, buf[:n]); err != nil || k != n {
				b.Fatalf("%d bytes of %d sent, %v", k, n, err)
			}
		}
	}
}
