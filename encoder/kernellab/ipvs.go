package kernellab

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// Defaults of the kernel's synchronisation daemon.
var (
	SyncGroup  = netip.MustParseAddr("224.0.0.81")
	SyncGroup6 = netip.MustParseAddr("ff02::81")
)

// SyncPort is the daemon's default UDP port.
const SyncPort = 8848

// DaemonOptions are the less common settings of a daemon. The zero value is the
// kernel's default on [Ethernet].
type DaemonOptions struct {
	Group  netip.Addr // zero: SyncGroup
	Port   int        // 0: SyncPort
	MaxLen int        // bytes of a message; 0: from the interface's MTU
	TTL    int        // 0: 1
}

// args renders the options for ipvsadm.
func (o DaemonOptions) args() string {
	args := "--mcast-interface " + Ethernet
	if o.Group.IsValid() {
		args += " --mcast-group " + o.Group.String()
	}
	if o.Port != 0 {
		args += fmt.Sprint(" --mcast-port ", o.Port)
	}
	if o.MaxLen != 0 {
		args += fmt.Sprint(" --sync-maxlen ", o.MaxLen)
	}
	if o.TTL != 0 {
		args += fmt.Sprint(" --mcast-ttl ", o.TTL)
	}
	return args
}

// addr is where messages for such a daemon go, from the host's side.
func (o DaemonOptions) addr() *net.UDPAddr {
	group, port := SyncGroup, SyncPort
	if o.Group.IsValid() {
		group = o.Group
	}
	if o.Port != 0 {
		port = o.Port
	}
	a := &net.UDPAddr{IP: group.AsSlice(), Port: port}
	if group.Is6() {
		a.Zone = TapName
	}
	return a
}

// backup remembers how the backup daemon listens.
type backup struct {
	syncID  int
	options DaemonOptions
}

// StartBackup starts the kernel's backup daemon. A syncID of 0 accepts the
// messages of every SyncID.
func (g *Guest) StartBackup(tb testing.TB, syncID int, o DaemonOptions) {
	tb.Helper()
	g.Run(tb, fmt.Sprintf("ipvsadm --start-daemon backup --syncid %d %s", syncID, o.args()))
	g.mu.Lock()
	defer g.mu.Unlock()
	g.backup = backup{syncID, o}
}

// StartMaster starts the kernel's master daemon.
func (g *Guest) StartMaster(tb testing.TB, syncID int, o DaemonOptions) {
	tb.Helper()
	g.Run(tb, fmt.Sprintf("ipvsadm --start-daemon master --syncid %d %s", syncID, o.args()))
}

// StopDaemons stops the master and the backup daemon, whichever run.
func (g *Guest) StopDaemons(tb testing.TB) {
	tb.Helper()
	g.Run(tb, "ipvsadm --stop-daemon master; ipvsadm --stop-daemon backup; true")
}

// Settle returns when the backup daemon of the guest has handled every message
// that was sent to it before, over the same path, from the guest's namespace.
// It sends a message of its own and waits until its record is listed; the
// record, of the client 192.0.2.255, is left out of what [Guest.Conns] returns.
//
// The way to the daemon holds some 700 messages: a test that sends more should
// settle in between, or the kernel drops some. With sync_ports above
// 1 only the first of the daemon's threads is waited for.
func (g *Guest) Settle(tb testing.TB) {
	tb.Helper()
	g.mu.Lock()
	b := g.backup
	g.marks++
	mark := g.marks
	g.mu.Unlock()
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		g.send(tb, b.options.addr(), markMessage(b.syncID, mark))
		// Counted there: a long listing takes longer to fetch than a mark lives.
		look := fmt.Sprintf("grep -ci '^TCP C00002FF %04X ' /proc/net/ip_vs_conn; true", mark)
		// The usual case is one look; a lost mark is sent again.
		for range 10 {
			if strings.TrimSpace(g.Run(tb, look)) == "1" {
				return
			}
		}
	}
	tb.Fatalf("settle: the backup daemon does not list the mark\n%s",
		g.Run(tb, "ipvsadm -l --daemon; cat /proc/net/ip_vs_conn"))
}

var (
	markClient  = netip.MustParseAddr("192.0.2.255")
	markVirtual = netip.MustParseAddr("192.0.2.254")
)

// markMessage is a version 1 message of one TCP record in state ESTABLISHED that
// lives for ten seconds.
func markMessage(syncID int, mark uint16) []byte {
	m := []byte{0, byte(syncID), 0, 44, 1, 1, 0, 0} // header
	m = append(m, 0, 6, 0, 36)                      // type, protocol, size
	m = binary.BigEndian.AppendUint32(m, 0)         // flags: masquerading
	m = binary.BigEndian.AppendUint16(m, 1)         // ESTABLISHED
	for _, port := range []uint16{mark, 1, 1} {
		m = binary.BigEndian.AppendUint16(m, port)
	}
	m = binary.BigEndian.AppendUint32(m, 0)  // fwmark
	m = binary.BigEndian.AppendUint32(m, 10) // timeout
	for _, a := range []netip.Addr{markClient, markVirtual, markVirtual} {
		m = append(m, a.AsSlice()...)
	}
	return m
}

// send sends one datagram from the host's side.
func (g *Guest) send(tb testing.TB, to *net.UDPAddr, payload []byte) {
	tb.Helper()
	err := g.ns.Do(func() error {
		conn, err := net.DialUDP("udp", nil, to)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write(payload)
		return err
	})
	if err != nil {
		tb.Fatalf("send to %s: %v", to, err)
	}
}

// Conns returns the connections that /proc/net/ip_vs_conn lists, in its order,
// which means nothing. The listing is no atomic snapshot.
func (g *Guest) Conns(tb testing.TB) []ProcConn {
	tb.Helper()
	return withoutMarks(g.allConns(tb, "/proc/net/ip_vs_conn"))
}

// ConnsSync is Conns from /proc/net/ip_vs_conn_sync: with Origin, without the
// data of the persistence engine.
func (g *Guest) ConnsSync(tb testing.TB) []ProcConn {
	tb.Helper()
	return withoutMarks(g.allConns(tb, "/proc/net/ip_vs_conn_sync"))
}

func (g *Guest) allConns(tb testing.TB, file string) []ProcConn {
	tb.Helper()
	text := g.Run(tb, "cat "+file)
	conns, err := ParseConns(text)
	if err != nil {
		tb.Fatalf("parse %s: %v\n%s", file, err, text)
	}
	return conns
}

func withoutMarks(conns []ProcConn) []ProcConn {
	var kept []ProcConn
	for _, c := range conns {
		if c.Client.Addr() != markClient {
			kept = append(kept, c)
		}
	}
	return kept
}

// RawConns returns the text of /proc/net/ip_vs_conn.
func (g *Guest) RawConns(tb testing.TB) string {
	tb.Helper()
	return strings.TrimSuffix(g.Run(tb, "cat /proc/net/ip_vs_conn"), "\n")
}
