package kernellab

import (
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// masterScript sets up the services of a [Master].
//
//go:embed master.sh
var masterScript string

// MasterSyncID is the SyncID of the messages of a [Master].
const MasterSyncID = 7

// Timing of a master.
const (
	// A part-filled message leaves the master after two seconds
	// (IPVS_SYNC_FLUSH_TIME in net/netfilter/ipvs/ip_vs_sync.c).
	stepTimeout   = 20 * time.Second
	clientTimeout = 5 * time.Second

	takeoverPort   = 9999 // where the master also listens as a backup
	takeoverSyncID = 9
)

// Master is a guest that plays a balancer with a master daemon, and the clients
// that make it speak.
type Master struct {
	g       *Guest
	version int
	tap     *Collector
}

// Step is one kind of traffic through a [Master].
type Step struct {
	Name     string // as golden files are called: ipv4-tcp, sip-pe, …
	Commands string // what makes the traffic, for people
	Version0 bool   // a version 0 master can tell it too

	drive func(m *Master) error
	done  func(records []Seen) bool
}

// NewMaster makes the guest a balancer whose master daemon speaks the version
// (0 or 1) of the protocol. Call [Guest.Reset] before making another one of the
// same guest.
func NewMaster(tb testing.TB, g *Guest, version int, o DaemonOptions) *Master {
	tb.Helper()
	g.Run(tb, fmt.Sprintf("VERSION=%d\n%s", version, masterScript))
	m := &Master{g: g, version: version, tap: g.Collect(tb, o)}
	g.StartMaster(tb, MasterSyncID, o)
	g.Run(tb, fmt.Sprintf("ipvsadm --start-daemon backup --syncid %d --mcast-interface %s --mcast-port %d",
		takeoverSyncID, Ethernet, takeoverPort))
	return m
}

// Play makes the traffic of some steps at once, and returns the messages that
// the master sent, in order, up to the one that completes the last step.
func (m *Master) Play(tb testing.TB, steps ...Step) [][]byte {
	tb.Helper()
	m.tap.Clear()
	for _, s := range steps {
		if err := s.drive(m); err != nil {
			tb.Fatalf("drive %s: %v", s.Name, err)
		}
	}
	return m.tap.Until(tb, stepTimeout, func(msgs [][]byte) bool {
		records := Records(msgs)
		for _, s := range steps {
			if !s.done(records) {
				return false
			}
		}
		return true
	})
}

// Hears tells Play of a message that the test took off the wire before any socket
// could get it, by AF_XDP.
func (m *Master) Hears(message []byte) { m.tap.add(message, nil) }

// Steps are the kinds of traffic that a master can be made to tell.
var Steps = []Step{{
	Name:     "ipv4-tcp",
	Version0: true,
	Commands: "three HTTP requests, one after the other, to 10.88.0.2:80, masqueraded to 10.99.0.2:80",
	drive:    func(m *Master) error { return m.request(3, "10.88.0.2:80", 0) },
	done:     ended(3, func(r Seen) bool { return !r.IPv6 && r.VirtualPort == 80 }),
}, {
	Name:     "ipv4-tcp-established",
	Version0: true,
	Commands: "two HTTP requests to 10.88.0.2:90 under the default sync_threshold=\"3 50\", " +
		"with which a master tells ESTABLISHED from the third packet on",
	drive: func(m *Master) error {
		if err := m.threshold("3 50"); err != nil {
			return err
		}
		return errors.Join(m.request(2, "10.88.0.2:90", 0), m.threshold("1 0"))
	},
	done: both(ended(2, func(r Seen) bool { return r.VirtualPort == 90 }),
		count(2, func(r Seen) bool { return r.Protocol == 6 && r.State == 1 && r.VirtualPort == 90 })),
}, {
	Name:     "ipv6-tcp",
	Commands: "three HTTP requests, one after the other, to [fd00:88::2]:80, masqueraded to [fd00:99::2]:80",
	drive:    func(m *Master) error { return m.request(3, "[fd00:88::2]:80", 0) },
	done:     ended(3, func(r Seen) bool { return r.IPv6 && r.VirtualPort == 80 }),
}, {
	Name:     "udp",
	Version0: true,
	Commands: "a UDP packet from each of three ports to 10.88.0.2:53, masqueraded to 10.99.0.2:53",
	drive:    func(m *Master) error { return m.datagrams(20000, 53, "one", "two", "three") },
	done:     count(3, func(r Seen) bool { return r.Protocol == 17 && r.VirtualPort == 53 }),
}, {
	Name:     "udp-full",
	Version0: true,
	Commands: "a UDP packet from each of 100 ports to 10.88.0.2:53: full messages and a part-filled one",
	drive: func(m *Master) error {
		return m.datagrams(21000, 53, strings.Split(strings.Repeat("x", 100), "")...)
	},
	done: count(100, func(r Seen) bool { return r.Protocol == 17 && r.VirtualPort == 53 }),
}, {
	Name:     "persistence-template",
	Version0: true,
	Commands: "two HTTP requests to 10.88.0.2:81, a persistent service (-p 300)",
	drive:    func(m *Master) error { return m.request(2, "10.88.0.2:81", 0) },
	done:     both(template(81), ended(2, func(r Seen) bool { return r.VirtualPort == 81 })),
}, {
	Name:     "fwmark",
	Version0: true,
	Commands: "two HTTP requests to 10.88.0.2:82, which gets firewall mark 7, a persistent service (-f 7 -p 100)",
	drive:    func(m *Master) error { return m.request(2, "10.88.0.2:82", 0) },
	done:     both(template(0), ended(2, func(r Seen) bool { return r.VirtualPort == 82 })),
}, {
	Name: "sip-pe",
	Commands: "SIP INVITEs with Call-IDs of 1, 8, 27 and 18 bytes to 10.88.0.2:5060, " +
		"a persistent one-packet service (-p 60 --pe sip -o)",
	drive: func(m *Master) error {
		return m.datagrams(22000, 5060, invite("z"), invite("call-2@h"),
			invite("a84b4c76e66710@pc33.example"), invite("f81d4fae@198.51.10"))
	},
	done: count(4, func(r Seen) bool { return r.VirtualPort == 5060 && r.Template() }),
}, {
	Name:     "seq",
	Version0: true,
	Commands: "the guest is also a backup (port 9999) and learns a connection with sequence data; its client " +
		"then connects to 10.88.0.2:90, so that the master tells that data in turn",
	drive: func(m *Master) error { return m.takeover(41000, 90) },
	done:  ended(1, func(r Seen) bool { return r.VirtualPort == 90 && r.Flags&0x600 == 0x600 }),
}}

// threshold sets after how many packets of a connection the master tells it.
func (m *Master) threshold(words string) error {
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	out, code, err := m.g.RunErr(ctx, `sysctl -qw net.ipv4.vs.sync_threshold="`+words+`"`)
	if err == nil && code != 0 {
		err = fmt.Errorf("set sync_threshold: %s", out)
	}
	return err
}

// request makes n HTTP requests, each on a connection of its own, from a local
// port or, if that is 0, any.
func (m *Master) request(n int, addr string, port int) error {
	for range n {
		var conn net.Conn
		err := m.g.ns.Do(func() (err error) {
			d := net.Dialer{Timeout: clientTimeout}
			if port != 0 {
				d.LocalAddr = &net.TCPAddr{IP: HostAddr.AsSlice(), Port: port}
			}
			conn, err = d.Dial("tcp", addr)
			return err
		})
		if err != nil {
			return err
		}
		_ = conn.SetDeadline(time.Now().Add(clientTimeout))
		_, err = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
		if err == nil {
			_, err = io.ReadAll(conn)
		}
		conn.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// datagrams sends UDP packets to a port of the guest, each from a port of its
// own, which makes it a connection of its own. Nobody answers.
func (m *Master) datagrams(firstPort int, port uint16, packets ...string) error {
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(GuestAddr, port))
	return m.g.ns.Do(func() error {
		for i, p := range packets {
			// Not connected, so that no ICMP error is reported.
			conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: firstPort + i})
			if err != nil {
				return err
			}
			_, err = conn.WriteToUDP([]byte(p), to)
			conn.Close()
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// invite is a SIP request; the engine looks for its Call-ID.
func invite(callID string) string {
	return strings.Join([]string{
		"INVITE sip:bob@10.88.0.2 SIP/2.0",
		"Via: SIP/2.0/UDP 10.88.0.1:5060;branch=z9hG4bK776asdhds",
		"Max-Forwards: 70",
		"To: Bob <sip:bob@10.88.0.2>",
		"From: Alice <sip:alice@10.88.0.1>;tag=1928301774",
		"Call-ID: " + callID,
		"CSeq: 314159 INVITE",
		"Content-Length: 0", "", "",
	}, "\r\n")
}

// takeover teaches the guest a connection with sequence data, as another master
// would have, and then uses the connection. No helper of the kernel sets such
// data any more (ip_vs_ftp leaves it to conntrack), but it carries on what it
// was told.
func (m *Master) takeover(client, virtual uint16) error {
	r := []byte{0, 6, 0, 36 + 26}                    // IPv4, TCP, size
	r = binary.BigEndian.AppendUint32(r, 0x600)      // masquerading, both directions
	r = binary.BigEndian.AppendUint16(r, 1)          // ESTABLISHED
	r = binary.BigEndian.AppendUint16(r, client)     //
	r = binary.BigEndian.AppendUint16(r, virtual)    //
	r = binary.BigEndian.AppendUint16(r, virtual)    // destination port
	r = binary.BigEndian.AppendUint32(r, 0)          // fwmark
	r = binary.BigEndian.AppendUint32(r, 900)        // timeout
	r = append(r, 10, 88, 0, 1, 10, 88, 0, 2)        // client, virtual
	r = append(r, 10, 99, 0, 2)                      // destination
	r = append(r, 1, 24)                             // option: sequence data
	r = binary.BigEndian.AppendUint32(r, 0x11223344) // in: initial, delta, previous
	r = binary.BigEndian.AppendUint32(r, 0x00000005)
	r = binary.BigEndian.AppendUint32(r, 0xfffffffd)
	r = binary.BigEndian.AppendUint32(r, 0x55667788) // out
	r = binary.BigEndian.AppendUint32(r, 0x00000009)
	r = binary.BigEndian.AppendUint32(r, 0xfffffff0)
	msg := append([]byte{0, takeoverSyncID, 0, byte(8 + len(r)), 1, 1, 0, 0}, r...)
	err := m.g.ns.Do(func() error {
		conn, err := net.DialUDP("udp4", nil, DaemonOptions{Port: takeoverPort}.addr())
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write(msg)
		return err
	})
	if err != nil {
		return err
	}
	if err := m.listed(fmt.Sprintf(" %04X 0A580002 %04X ", client, virtual)); err != nil {
		return err
	}
	return m.request(1, netip.AddrPortFrom(GuestAddr, virtual).String(), int(client))
}
