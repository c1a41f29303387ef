package kernellab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// rec is a record to be sent. The zero value of a field means the value that
// its comment names.
type rec struct {
	client, dest string // 10.0.0.1 and 10.0.0.2, or 2001:db8::1 and ::2
	cport        int    // 1; -1: 0
	dport        int    // 8080
	proto        int    // TCP; -1: 0
	state        int
	flags        uint32
	timeout      uint32 // 1000; noTimeout: 0
	options      string
	ipv6         bool
}

const noTimeout = 1<<32 - 2

// or returns v, def for 0, and 0 for -1.
func or(v, def int) int {
	switch v {
	case 0:
		return def
	case -1:
		return 0
	}
	return v
}

// addrs appends client, virtual and destination address.
func (r rec) addrs(b []byte, virtual netip.Addr) []byte {
	client, dest := "10.0.0.1", "10.0.0.2"
	if r.ipv6 {
		client, dest = "2001:db8::1", "2001:db8::2"
		a := netip.MustParseAddr("fd00::").As16()
		v4 := virtual.As4()
		copy(a[12:], v4[:])
		virtual = netip.AddrFrom16(a)
	}
	if r.client != "" {
		client = r.client
	}
	if r.dest != "" {
		dest = r.dest
	}
	b = append(b, netip.MustParseAddr(client).AsSlice()...)
	b = append(b, virtual.AsSlice()...)
	return append(b, netip.MustParseAddr(dest).AsSlice()...)
}

func (r rec) v1(virtual netip.Addr) []byte {
	b := []byte{0, byte(or(r.proto, 6)), 0, 0}
	if r.ipv6 {
		b[0] = 1
	}
	be := binary.BigEndian
	b = be.AppendUint32(b, r.flags)
	b = be.AppendUint16(b, uint16(r.state))
	b = be.AppendUint16(b, uint16(or(r.cport, 1)))
	b = be.AppendUint16(b, 80)
	b = be.AppendUint16(b, uint16(or(r.dport, 8080)))
	b = be.AppendUint32(b, 0)
	timeout := r.timeout
	switch timeout {
	case 0:
		timeout = 1000
	case noTimeout:
		timeout = 0
	}
	b = be.AppendUint32(b, timeout)
	b = append(r.addrs(b, virtual), r.options...)
	be.PutUint16(b[2:], uint16(len(b)))
	return b
}

func (r rec) v0(virtual netip.Addr) []byte {
	be := binary.BigEndian
	b := []byte{0, byte(or(r.proto, 6))}
	b = be.AppendUint16(b, uint16(or(r.cport, 1)))
	b = be.AppendUint16(b, 80)
	b = be.AppendUint16(b, uint16(or(r.dport, 8080)))
	b = r.addrs(b, virtual)
	b = be.AppendUint16(b, uint16(r.flags))
	b = be.AppendUint16(b, uint16(r.state))
	return append(b, r.options...)
}

// msg makes a message of SyncID 7.
func msg(version int, virtual netip.Addr, records []rec) []byte {
	b := []byte{0, 7, 0, 0, byte(len(records)), 1, 0, 0}
	if version == 0 {
		b = []byte{byte(len(records)), 7, 0, 0}
	}
	for _, r := range records {
		if version == 0 {
			b = append(b, r.v0(virtual)...)
			continue
		}
		b = append(pad4(b), r.v1(virtual)...)
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

// option makes a record option.
func option(kind byte, data string) string {
	return string([]byte{kind, byte(len(data))}) + data
}

// sip makes the options of a persistence engine.
func sip(data, name string) string { return option(2, data) + option(3, name) }

// A fact is what a stock backup makes of messages. Everything of one fact has a
// virtual address of its own, so that they share a table.
type fact struct {
	name    string
	version int
	msgs    [][]rec
	want    []string // protocol, client>destination, state, engine; sorted
}

// listing renders the connections of a fact.
func listing(conns []ProcConn, virtual netip.Addr) []string {
	var got []string
	for _, c := range conns {
		v := c.Virtual.Addr()
		if v.Is6() {
			a := v.As16()
			v = netip.AddrFrom4([4]byte(a[12:]))
		}
		if v != virtual {
			continue
		}
		s := fmt.Sprintf("%s %s>%s %s", c.Proto, c.Client, c.Dest, c.State)
		if c.PEName != "" {
			s += fmt.Sprintf(" %s=%q", c.PEName, c.PEData)
		}
		got = append(got, s)
	}
	slices.Sort(got)
	return got
}

// testFacts checks, on each kernel, the facts that the rest of the module was
// built upon. When a new kernel fails here, the codec and the table have to
// follow it.
func testFacts(t *testing.T, g *Guest) {
	g.StartBackup(t, 7, DaemonOptions{})
	g.Settle(t) // the daemon listens
	virtual := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 200, 0, byte(i)}) }
	for i, f := range facts {
		for _, records := range f.msgs {
			g.send(t, DaemonOptions{}.addr(), msg(f.version, virtual(i), records))
		}
		if i%20 == 19 {
			g.Settle(t)
		}
	}
	g.Settle(t)
	conns := g.Conns(t)
	for i, f := range facts {
		f.check(t, g, virtual(i), conns)
	}
}

// putOff is for how long an entry that was replaced can still be listed. Its timer
// runs with the next tick; when it then meets the daemon, which has yet to let go
// of the entry, the kernel looks again after a minute (ip_vs_conn_expire).
const putOff = time.Minute

// lasting leaves out what may be waiting for that. No fact is of so short a life.
func lasting(conns []ProcConn) []ProcConn {
	return slices.DeleteFunc(slices.Clone(conns), func(c ProcConn) bool { return c.Expires <= uint64(putOff/time.Second) })
}

// check waits until the guest, which has listed conns, lists what a fact wants, as
// long as nothing else is wrong than entries that are still to end.
func (f fact) check(t *testing.T, g *Guest, virtual netip.Addr, conns []ProcConn) {
	t.Helper()
	for deadline := time.Now().Add(putOff + 30*time.Second); ; conns = g.Conns(t) {
		got := listing(conns, virtual)
		if slices.Equal(got, f.want) {
			return
		}
		if !slices.Equal(listing(lasting(conns), virtual), f.want) || time.Now().After(deadline) {
			t.Errorf("%s:\n got %s\nwant %s", f.name, strings.Join(got, "\n     "), strings.Join(f.want, "\n     "))
			return
		}
	}
}

// testReplaced replaces connections until the end of one is put off, and shows that
// it is listed beside the one that replaced it: a matter of a second or two, by the
// chance that each tick has. With IPVSYNC_LAB_LONG=1 it also waits for the end.
func testReplaced(t *testing.T, g *Guest) {
	const ports, messages = 30, 500
	g.StartBackup(t, 7, DaemonOptions{})
	g.Settle(t)
	virtual := netip.MustParseAddr("10.200.0.1")
	f := fact{name: "connections replaced over and over"}
	var turns [2][]rec
	for p := range ports {
		turns[0] = append(turns[0], rec{state: 1, cport: p + 1})
		turns[1] = append(turns[1], rec{state: 4, cport: p + 1, dest: "10.0.0.9"})
		f.want = append(f.want, fmt.Sprintf("TCP 10.0.0.1:%d>10.0.0.9:8080 FIN_WAIT", p+1))
	}
	slices.Sort(f.want)
	sent := 0
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		for i := range messages {
			g.send(t, DaemonOptions{}.addr(), msg(1, virtual, turns[i%2]))
		}
		sent += messages * ports
		g.Settle(t)
		conns := g.Conns(t)
		late := 0
		for _, c := range conns {
			if c.Expires > 0 && c.Expires <= uint64(putOff/time.Second) { // 0: the timer has yet to run
				late++
			}
		}
		if late == 0 {
			continue
		}
		t.Logf("%d of %d put off", late, sent)
		if got := listing(lasting(conns), virtual); !slices.Equal(got, f.want) {
			t.Errorf("besides %d that are put off:\n got %s\nwant %s", late, strings.Join(got, "\n     "), strings.Join(f.want, "\n     "))
		}
		if os.Getenv("IPVSYNC_LAB_LONG") != "" {
			start := time.Now()
			f.check(t, g, virtual, conns)
			t.Logf("as wanted after %v", time.Since(start).Round(time.Second))
		}
		return
	}
	t.Errorf("of %d replaced, none was put off: does this kernel do so no more?", sent)
}

// testTimeouts checks what a record's timeout of 0 becomes, and the longest ones.
func testTimeouts(t *testing.T, g *Guest) {
	tcp := []uint64{2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120}
	sctp := []uint64{2, 4, 61, 61, 61, 61, 61, 61, 900, 61, 61, 61, 4, 61}
	g.StartBackup(t, 7, DaemonOptions{})
	g.Settle(t)
	virtual := netip.MustParseAddr("10.200.0.1")
	want := map[uint16]uint64{}
	var records []rec
	add := func(r rec, seconds uint64) {
		r.cport = len(want) + 1
		want[uint16(r.cport)] = seconds
		records = append(records, r)
	}
	for state, s := range tcp[1:] { // NONE may be gone before it is listed
		add(rec{state: state + 1, timeout: noTimeout}, s)
	}
	for state, s := range sctp[1:] {
		add(rec{proto: 132, state: state + 1, timeout: noTimeout}, s)
	}
	for _, proto := range []int{50, 51} {
		add(rec{proto: proto, timeout: noTimeout}, 180)
		add(rec{proto: proto, timeout: noTimeout, flags: 0x1000}, 180)
	}
	add(rec{proto: 17, timeout: noTimeout}, 300)
	add(rec{proto: 99, timeout: noTimeout, flags: 0x1000, state: 1}, 180)
	// Nothing is clamped; the listing counts in 32 bits of milliseconds.
	add(rec{state: 1, timeout: 4294967}, 4294967)
	add(rec{state: 1, timeout: 4294967 + 1001}, 1000)
	add(rec{state: 1, timeout: 1<<32 - 1}, 4294966)
	start := time.Now()
	for part := range slices.Chunk(records, 20) {
		g.send(t, DaemonOptions{}.addr(), msg(1, virtual, part))
	}
	g.Settle(t)
	conns := g.Conns(t)
	// Some of the time has passed, and the listing rounds down.
	passed := uint64(time.Since(start)/time.Second) + 2
	for _, c := range conns {
		w := want[c.Client.Port()]
		if c.Expires > w || c.Expires+passed < w {
			t.Errorf("%s expires in %d s, want %d", c, c.Expires, w)
		}
		delete(want, c.Client.Port())
	}
	for port, w := range want {
		if w > passed {
			t.Errorf("not listed: client port %d, which expires in %d s, after %d s", port, w, passed)
		}
	}
}

// testAddressing checks which datagrams and which SyncIDs reach a backup.
func testAddressing(t *testing.T, g *Guest) {
	virtual := netip.MustParseAddr("10.200.0.1")
	to := func(o DaemonOptions, syncID byte, cport int) {
		m := msg(1, virtual, []rec{{cport: cport, state: 1}})
		m[1] = syncID
		g.send(t, o.addr(), m)
	}
	for _, tt := range []struct {
		syncID int
		want   []uint16
	}{{7, []uint16{1}}, {0, []uint16{1, 2, 3}}} {
		g.StartBackup(t, tt.syncID, DaemonOptions{})
		g.Settle(t)
		to(DaemonOptions{}, 7, 1)
		to(DaemonOptions{}, 0, 2)
		to(DaemonOptions{}, 255, 3)
		to(DaemonOptions{Group: GuestAddr}, 7, 4) // unicast: the socket is bound to the group
		to(DaemonOptions{Group: netip.MustParseAddr("224.0.0.82")}, 7, 5)
		to(DaemonOptions{Port: SyncPort + 1}, 7, 6)
		g.Settle(t)
		var got []uint16
		for _, c := range g.Conns(t) {
			got = append(got, c.Client.Port())
		}
		if slices.Sort(got); !slices.Equal(got, tt.want) {
			t.Errorf("SyncID %d: client ports %v, want %v", tt.syncID, got, tt.want)
		}
		g.Reset(t)
	}
}
