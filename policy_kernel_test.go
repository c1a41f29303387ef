package ipvsync

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/encoder/kernellab"
)

// The test in this file sends the same packets through a stock master and
// through Policy, and compares which of them made records.
//
// A record does not say which packet made it, and leaves in a message some time
// later. But records are in order: after each packet, the test sends a mark, a
// packet that opens a connection in state CLOSE, which a master tells at once under
// any settings. What stands between two marks was made by the packet between them.
//
// Packets are made by hand, those of the server too, so that each state can be
// reached; the real server is a device that swallows everything.

const balancerScript = `set -e
sysctl -qw net.ipv4.vs.sloppy_tcp=1 net.ipv4.vs.conn_reuse_mode=0
ip -batch - <<B
link add rs0 type dummy
link set rs0 up
addr add 10.99.0.1/24 dev rs0
B
service() {
	ipvsadm -A $1 10.88.0.2:$2 -s rr $3
	ipvsadm -a $1 10.88.0.2:$2 -r 10.99.0.2:$2 -m
}
service -t 9
service -u 53
service -u 54 "-p 300"
service -u 55 "-p 300 -o"
service -u 56 "-p 3"
service -t 80
service -t 81 "-p 300"
service --sctp-service 90
service --sctp-service 91 "-p 300"
`

// Services of balancerScript, by port.
const (
	markPort           = 9
	udpPort            = 53
	udpPersistent      = 54
	udpOnePacket       = 55
	udpShortPersistent = 56
	tcpPort            = 80
	tcpPersistent      = 81
	sctpPort           = 90
	sctpPersistent     = 91
)

var realServer = netip.MustParseAddr("10.99.0.2")

// balancer is a stock master, and what Policy says of the packets through it.
type balancer struct {
	t       *testing.T
	g       *kernellab.Guest
	tap     *kernellab.Collector
	fd      int // raw socket
	start   time.Time
	version int
	policy  Policy
	set     string // settings in effect
	udp     uint32 // seconds of a UDP connection's timeout
	flows   int
	late    map[netip.Addr]bool // clients whose packets came at a time that decides nothing

	decoder  encoder.Decoder
	msgs     int      // of tap, read so far
	marks    int      // sent
	compared int      // marks, up to which told and want are compared
	told     [][]told // by the master before each mark that came, and after the last
	want     [][]told // the same of Policy
	notes    []string // what happened before each mark
	packets  int      // of clients, marks included
}

// told is what is compared of a record. A template's state is not: whether the
// kernel takes it for assured is no matter of Policy.
type told struct {
	client   netip.AddrPort
	virtual  uint16
	template bool
	state    encoder.State
	timeout  uint32
}

// policyFlow is a connection through the balancer, or a template.
type policyFlow struct {
	name    string
	conn    Conn
	state   PolicyState
	packets uint32
	last    time.Duration // packet
	tpl     *policyFlow
}

func (r told) String() string {
	s := fmt.Sprintf("%s>%d", r.client, r.virtual)
	if r.template {
		return s + " template"
	}
	return fmt.Sprintf("%s state %d %ds", s, r.state, r.timeout)
}

func newBalancer(t *testing.T, g *kernellab.Guest) *balancer {
	b := &balancer{t: t, g: g, start: time.Now(), fd: -1, late: map[netip.Addr]bool{}, told: [][]told{nil}, want: [][]told{nil}, udp: 300}
	b.decoder.SyncID = kernellab.MasterSyncID
	g.Run(t, balancerScript)
	b.tap = g.Collect(t, kernellab.DaemonOptions{})
	g.StartMaster(t, kernellab.MasterSyncID, kernellab.DaemonOptions{})
	err := g.NS().Do(func() (err error) {
		b.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	})
	if err != nil {
		t.Fatalf("open raw socket: %v", err)
	}
	t.Cleanup(func() { unix.Close(b.fd) })
	b.settings(Policy{}, 1, 300)
	b.compare("first exchange") // so that the way is known
	return b
}

// settings puts a policy into effect, in the kernel and here.
func (b *balancer) settings(p Policy, version int, udpTimeout uint32) {
	b.t.Helper()
	b.policy, b.version, b.udp = p, version, udpTimeout
	threshold, period := p.counts()
	mode := 0
	if p.PersistMode {
		mode = 1
	}
	set := fmt.Sprintf("cd /proc/sys/net/ipv4/vs && echo %d %d >sync_threshold && echo %d >sync_refresh_period && "+
		"echo %d >sync_retries && echo %d >sync_persist_mode && echo %d >sync_version && ipvsadm --set 0 0 %d",
		threshold, period, p.RefreshPeriod/time.Second, p.Retries, mode, version, udpTimeout)
	if set != b.set {
		b.g.Run(b.t, set)
		b.set = set
	}
}

func (b *balancer) flow(service uint16, name string) *policyFlow {
	b.flows++
	f := &policyFlow{name: name}
	client := netip.AddrFrom4([4]byte{10, 77, byte(b.flows >> 8), byte(b.flows)})
	f.conn = Conn{
		Client:  encoder.EndpointFrom(netip.AddrPortFrom(client, 4000)),
		Virtual: encoder.EndpointFrom(netip.AddrPortFrom(kernellab.GuestAddr, service)),
		Dest:    encoder.EndpointFrom(netip.AddrPortFrom(realServer, service)),
	}
	persist := uint32(0)
	switch service {
	case udpPersistent, udpOnePacket, tcpPersistent, sctpPersistent:
		persist = 300
	case udpShortPersistent:
		persist = 3
	}
	switch service {
	case tcpPort, tcpPersistent:
		f.conn.Protocol = encoder.TCP
	case sctpPort, sctpPersistent:
		f.conn.Protocol = encoder.SCTP
	default:
		f.conn.Protocol = encoder.UDP
	}
	if service == udpOnePacket {
		f.conn.Flags = encoder.FlagOnePacket
	}
	if persist > 0 {
		f.tpl = &policyFlow{name: name + ", template", conn: f.conn}
		f.tpl.conn.Client.Port = 0
		f.tpl.conn.Flags = encoder.FlagTemplate
		f.tpl.conn.Timeout = persist
	}
	return f
}

// another is a second connection of f's client, under the same template.
func (b *balancer) another(f *policyFlow) *policyFlow {
	o := *f
	o.conn.Client.Port++
	o.conn.State, o.state, o.packets = 0, PolicyState{}, 0
	return &o
}

// step is a packet of a connection, and the state in which it leaves that.
type step struct {
	server bool
	kind   byte // TCP's flags, SCTP's chunk
	next   encoder.State
}

// do sends a packet, asks Policy about it, and sends a mark.
func (b *balancer) do(f *policyFlow, s step) {
	b.t.Helper()
	f.conn.State = s.next
	switch f.conn.Protocol {
	case encoder.TCP:
		f.conn.Timeout = tcpTimeouts[s.next]
	case encoder.SCTP:
		f.conn.Timeout = 61
		if s.next == encoder.SCTPEstablished {
			f.conn.Timeout = 900
		}
	default:
		f.conn.Timeout = b.udp
	}
	b.send(&f.conn, s.server, s.kind)
	now := time.Since(b.start)
	if !s.server {
		if b.shaky(&b.policy, f, now) || f.packets > 0 && now-f.last > time.Duration(f.conn.Timeout)*time.Second-transit {
			b.late[f.conn.Client.AddrPort().Addr()] = true
			b.t.Logf("%s, packet %d: came too late or too near to a boundary, on a busy machine; left out from here on", f.name, f.packets+1)
		}
		f.last = now
		f.packets++
		told := b.ask(f, f.packets, now, f.tpl != nil)
		if f.tpl != nil && (told || b.version == 1) {
			b.ask(f.tpl, b.policy.ControllerPackets(&f.tpl.conn, &f.tpl.packets), now, false)
		}
	}
	b.mark(fmt.Sprintf("%s, packet %d, state %s, %+v, version %d", f.name, f.packets, f.conn.StateName(), b.policy, b.version))
}

// transit is the longest that a packet should take into the guest, on a busy
// machine.
const transit = 300 * time.Millisecond

// shaky says whether the decision about f's next packet is so near to a boundary
// that the packet's way into the guest may change it.
func (b *balancer) shaky(p *Policy, f *policyFlow, now time.Duration) bool {
	return !steady(p, f.state, &f.conn, f.packets+1, now, f.tpl != nil, transit) ||
		f.tpl != nil && !steady(p, f.tpl.state, &f.tpl.conn, f.tpl.packets+1, now, false, transit)
}

// ask consults Policy and notes what it tells.
func (b *balancer) ask(f *policyFlow, packets uint32, now time.Duration, controlled bool) bool {
	send, _ := b.policy.Needed(&f.state, &f.conn, packets, now, controlled)
	if send {
		b.want[len(b.want)-1] = append(b.want[len(b.want)-1], b.of(&f.conn))
	}
	return send
}

func (b *balancer) of(c *Conn) told {
	r := told{c.Client.AddrPort(), c.Virtual.Port, c.Template(), c.State, c.Timeout}
	if r.template {
		r.state = 0
	}
	if b.version == 0 {
		r.timeout = 0
	}
	return r
}

// mark closes what was made so far. At times it waits for the master, so that
// no queue runs over on the way.
func (b *balancer) mark(note string) {
	b.t.Helper()
	b.notes = append(b.notes, note)
	b.want = append(b.want, nil)
	b.sendMark()
	if b.marks%20 == 0 {
		b.await(b.marks - 100) // more than a message holds
	}
}

func (b *balancer) sendMark() {
	b.t.Helper()
	b.marks++
	c := Conn{Protocol: encoder.TCP}
	c.Client = encoder.EndpointFrom(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 78, byte(b.marks >> 8), byte(b.marks)}), 1))
	c.Virtual = encoder.EndpointFrom(netip.AddrPortFrom(kernellab.GuestAddr, markPort))
	b.send(&c, false, tcpFIN)
}

// await returns when the messages up to a mark are read.
func (b *balancer) await(mark int) {
	b.t.Helper()
	b.tap.Until(b.t, 20*time.Second, func(msgs [][]byte) bool {
		for _, msg := range msgs[b.msgs:] {
			b.read(msg)
		}
		b.msgs = len(msgs)
		return len(b.told) > mark
	})
}

func (b *balancer) read(msg []byte) {
	b.t.Helper()
	if r := b.decoder.Open(msg); r != encoder.Accepted {
		b.t.Fatalf("message %x: %v", msg, r)
	}
	for {
		var c Conn
		reason, ok := b.decoder.Next(&c)
		switch {
		case !ok:
			return
		case reason != encoder.Accepted && reason != encoder.OnePacket:
			b.t.Fatalf("record %v: %v", &c, reason)
		case c.Virtual.Port == markPort && c.Protocol == encoder.TCP:
			if got, want := int(binary.BigEndian.Uint16(c.Client.Addr[2:])), len(b.told)&0xffff; got != want {
				b.t.Fatalf("mark %d came, want %d: packets were lost", got, want)
			}
			b.told = append(b.told, nil)
		default:
			r := told{c.Client.AddrPort(), c.Virtual.Port, c.Template(), c.State, c.Timeout}
			if r.template {
				r.state = 0
			}
			b.told[len(b.told)-1] = append(b.told[len(b.told)-1], r)
		}
	}
}

// compare checks what came since the last call.
func (b *balancer) compare(what string) {
	b.t.Helper()
	from, to := b.compared, b.marks
	for range 1500 / 24 { // the rest of a message, of either version
		b.want, b.notes = append(b.want, nil), append(b.notes, "")
		b.sendMark()
	}
	b.await(to)
	b.compared = b.marks
	differences, records := 0, 0
	late := func(r told) bool { return b.late[r.client.Addr()] }
	for i := from; i < to; i++ {
		b.told[i], b.want[i] = slices.DeleteFunc(b.told[i], late), slices.DeleteFunc(b.want[i], late)
		records += len(b.told[i])
		if !slices.Equal(b.told[i], b.want[i]) {
			if differences++; differences <= 10 {
				b.t.Errorf("%s: %s: kernel told %v, Policy %v", what, b.notes[i], b.told[i], b.want[i])
			}
		}
	}
	b.t.Logf("%s: %d packets, %d records, %d differences", what, to-from, records, differences)
	if to > from && records == 0 {
		b.t.Errorf("%s: nothing was told", what)
	}
}

// TCP's flags.
const (
	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpACK = 0x10
)

// send sends a packet of a connection, from its client or its server.
func (b *balancer) send(c *Conn, server bool, kind byte) {
	b.t.Helper()
	from, to := c.Client.AddrPort(), c.Virtual.AddrPort()
	if server {
		from, to = c.Dest.AddrPort(), c.Client.AddrPort()
	} else {
		b.packets++
	}
	p := make([]byte, 20, 60) // IPv4; the socket fills in length and checksum
	p[0], p[8], p[9] = 0x45, 64, byte(c.Protocol)
	copy(p[12:], from.Addr().AsSlice())
	copy(p[16:], to.Addr().AsSlice())
	p = binary.BigEndian.AppendUint16(p, from.Port())
	p = binary.BigEndian.AppendUint16(p, to.Port())
	switch c.Protocol {
	case encoder.TCP:
		p = append(p, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, kind, 0xff, 0xff, 0, 0, 0, 0)
	case encoder.SCTP:
		p = append(p, 0, 0, 0, 1, 0, 0, 0, 0, kind, 0, 0, 4)
	case encoder.UDP:
		p = append(p, 0, 9, 0, 0, 'x')
	}
	// The socket sends to the guest, whatever the header says.
	if err := unix.Sendto(b.fd, p, 0, &unix.SockaddrInet4{Addr: kernellab.GuestAddr.As4()}); err != nil {
		b.t.Fatalf("send packet: %v", err)
	}
}

var (
	tcpTimeouts = map[encoder.State]uint32{
		encoder.TCPEstablished: 900, encoder.TCPSynSent: 120, encoder.TCPSynRecv: 60, encoder.TCPFinWait: 120,
		encoder.TCPTimeWait: 120, encoder.TCPClose: 10, encoder.TCPCloseWait: 60,
	}

	// tcpMoves is what packets make of a masqueraded connection in each state of
	// tcpColumns: table tcp_states of ip_vs_proto_tcp.c, without the states that
	// these packets cannot reach.
	tcpColumns = []encoder.State{encoder.TCPNone, encoder.TCPSynRecv, encoder.TCPEstablished, encoder.TCPFinWait,
		encoder.TCPTimeWait, encoder.TCPClose, encoder.TCPCloseWait}
	tcpMoves = []struct {
		server bool
		flags  byte
		next   []encoder.State
	}{
		{false, tcpSYN, tcpStates("SYN_RECV SYN_RECV ESTABLISHED SYN_RECV SYN_RECV SYN_RECV SYN_RECV")},
		{false, tcpACK, tcpStates("ESTABLISHED ESTABLISHED ESTABLISHED FIN_WAIT TIME_WAIT CLOSE CLOSE_WAIT")},
		{false, tcpACK, tcpStates("ESTABLISHED ESTABLISHED ESTABLISHED FIN_WAIT TIME_WAIT CLOSE CLOSE_WAIT")},
		{false, tcpACK, tcpStates("ESTABLISHED ESTABLISHED ESTABLISHED FIN_WAIT TIME_WAIT CLOSE CLOSE_WAIT")},
		{false, tcpFIN | tcpACK, tcpStates("CLOSE TIME_WAIT CLOSE_WAIT TIME_WAIT TIME_WAIT CLOSE CLOSE_WAIT")},
		{false, tcpRST, tcpStates("NONE SYN_RECV CLOSE CLOSE CLOSE CLOSE CLOSE")},
		{true, tcpACK, tcpStates("NONE ESTABLISHED ESTABLISHED FIN_WAIT TIME_WAIT CLOSE CLOSE_WAIT")},
		{true, tcpFIN | tcpACK, tcpStates("NONE TIME_WAIT FIN_WAIT FIN_WAIT TIME_WAIT CLOSE TIME_WAIT")},
		{true, tcpRST, tcpStates("NONE CLOSE CLOSE CLOSE TIME_WAIT CLOSE CLOSE")},
	}
)

func tcpStates(names string) []encoder.State {
	var states []encoder.State
	for _, n := range strings.Fields(names) {
		s, err := encoder.ParseState(encoder.TCP, 0, n)
		if err != nil {
			panic(err)
		}
		states = append(states, s)
	}
	return states
}

// randomTCP is a next packet of f. A connection begins with a packet of the
// client that is no RST.
func randomTCP(rng *rand.Rand, f *policyFlow) step {
	column := slices.Index(tcpColumns, f.conn.State)
	for {
		m := tcpMoves[rng.IntN(len(tcpMoves))]
		if f.packets == 0 && (m.server || m.flags == tcpRST) {
			continue
		}
		return step{m.server, m.flags, m.next[column]}
	}
}

func tcpLife() []step {
	steps := []step{
		{false, tcpSYN, encoder.TCPSynRecv}, {true, tcpSYN | tcpACK, encoder.TCPSynRecv},
		{false, tcpACK, encoder.TCPEstablished},
	}
	for range 60 {
		steps = append(steps, step{false, tcpACK, encoder.TCPEstablished}, step{true, tcpACK, encoder.TCPEstablished})
	}
	return append(steps,
		step{true, tcpFIN | tcpACK, encoder.TCPFinWait}, step{false, tcpACK, encoder.TCPFinWait}, step{false, tcpACK, encoder.TCPFinWait},
		step{false, tcpFIN | tcpACK, encoder.TCPTimeWait}, step{false, tcpACK, encoder.TCPTimeWait},
		step{false, tcpSYN, encoder.TCPSynRecv}, step{false, tcpACK, encoder.TCPEstablished},
		step{false, tcpFIN | tcpACK, encoder.TCPCloseWait}, step{false, tcpACK, encoder.TCPCloseWait},
		step{false, tcpRST, encoder.TCPClose}, step{false, tcpRST, encoder.TCPClose})
}

// Chunks of SCTP.
const (
	sctpData             = 0
	sctpInit             = 1
	sctpInitAck          = 2
	sctpAbort            = 6
	sctpShutdown         = 7
	sctpShutdownAck      = 8
	sctpCookieEcho       = 10
	sctpCookieAck        = 11
	sctpShutdownComplete = 14
)

// sctpLives are associations that between them go through each state that is told.
func sctpLives() map[string][]step {
	begin := []step{
		{false, sctpInit, encoder.SCTPInit1}, {true, sctpInitAck, encoder.SCTPCookieSent},
		{false, sctpCookieEcho, encoder.SCTPCookieReplied}, {true, sctpCookieAck, encoder.SCTPEstablished},
	}
	for range 60 {
		begin = append(begin, step{false, sctpData, encoder.SCTPEstablished})
	}
	with := func(steps ...step) []step { return append(slices.Clone(begin), steps...) }
	return map[string][]step{
		"sctp, server shuts down": with(step{true, sctpShutdown, encoder.SCTPShutdownSent}, step{false, sctpData, encoder.SCTPShutdownSent},
			step{false, sctpData, encoder.SCTPShutdownSent}, step{false, sctpShutdownAck, encoder.SCTPClosed}, step{false, sctpData, encoder.SCTPClosed}),
		"sctp, client shuts down": with(step{false, sctpShutdown, encoder.SCTPShutdownReceived}, step{false, sctpData, encoder.SCTPShutdownReceived},
			step{true, sctpShutdownAck, encoder.SCTPShutdownAckSent}, step{false, sctpData, encoder.SCTPShutdownAckSent},
			step{false, sctpShutdownComplete, encoder.SCTPClosed}),
		"sctp, abort": with(step{false, sctpAbort, encoder.SCTPClosed}, step{false, sctpAbort, encoder.SCTPClosed}),
	}
}

// settingsUnderTest hang on no clock: their refresh periods are so long that the
// test is over before anything is due again, retries included.
var settingsUnderTest = []Policy{
	{},
	{Threshold: 1},
	{Threshold: -1},
	{Period: 5},
	{Period: 1},
	{Threshold: 10, Period: 20},
	{Threshold: 1, RefreshPeriod: 3600 * time.Second},
	{Threshold: -1, RefreshPeriod: 3600 * time.Second},
	{RefreshPeriod: 3600 * time.Second, Retries: 2},
	{Period: 5, PersistMode: true},
	{PersistMode: true, RefreshPeriod: 3600 * time.Second},
}

// A stock master and Policy tell the same packets.
func TestKernelPolicy(t *testing.T) {
	kernels(t, func(t *testing.T, g *kernellab.Guest) {
		seed := rand.Uint64()
		t.Logf("Linux %s, seed %d", g.Release(), seed)
		rng := rand.New(rand.NewPCG(seed, 0))
		b := newBalancer(t, g)
		for i, p := range settingsUnderTest {
			for _, version := range []int{1, 0} {
				if version == 0 && i%3 != 0 { // differs in templates only
					continue
				}
				b.settings(p, version, 300)
				b.settled(rng, fmt.Sprintf("%+v, version %d", p, version))
			}
		}
		b.expiry()
		b.timeline()
		b.checkCounters()
	})
}

// settled is traffic under one setting.
func (b *balancer) settled(rng *rand.Rand, what string) {
	b.t.Helper()
	type life struct {
		f     *policyFlow
		steps []step // nil: random TCP
		left  int
	}
	var lives []life
	add := func(service uint16, name string, steps []step) *policyFlow {
		f := b.flow(service, name)
		lives = append(lives, life{f, steps, len(steps)})
		return f
	}
	add(udpPort, "udp", make([]step, 110))
	for _, service := range []uint16{udpPersistent, udpOnePacket} {
		f := add(service, fmt.Sprintf("udp, persistent, port %d", service), make([]step, 60))
		lives = append(lives, life{b.another(f), make([]step, 20), 20})
	}
	add(tcpPort, "tcp", tcpLife())
	add(tcpPersistent, "tcp, persistent", tcpLife())
	for name, steps := range sctpLives() {
		add(sctpPort, name, steps)
	}
	add(sctpPersistent, "sctp, persistent", sctpLives()["sctp, abort"])
	for i := range 3 {
		lives = append(lives, life{b.flow(tcpPort, fmt.Sprint("tcp, random ", i)), nil, 40},
			life{b.flow(tcpPersistent, fmt.Sprint("tcp, random, persistent ", i)), nil, 40})
	}
	for len(lives) > 0 { // interleaved
		i := rng.IntN(len(lives))
		l := &lives[i]
		if l.steps == nil {
			b.do(l.f, randomTCP(rng, l.f))
		} else {
			b.do(l.f, l.steps[len(l.steps)-l.left])
		}
		if l.left--; l.left == 0 {
			lives = slices.Delete(lives, i, i+1)
		}
	}
	b.compare(what)
}

// expiry lets the timer of a template run out while it has a connection.
func (b *balancer) expiry() {
	b.t.Helper()
	for _, p := range []Policy{{Threshold: 1}, {Threshold: 4, Period: 10}} {
		b.settings(p, 1, 300)
		f := b.flow(udpShortPersistent, "udp, short persistence")
		b.do(f, step{})
		b.do(f, step{})
		time.Sleep(4500 * time.Millisecond)
		f.tpl.conn.Timeout = 60
		b.ask(f.tpl, p.ThresholdPackets(), time.Since(b.start), false)
		b.mark("expiry")
		b.do(f, step{})
		b.compare(fmt.Sprintf("expiry of a template, %+v", p))
	}
}

// timeline sends packets of UDP connections before and after the boundaries of
// their settings, and none near to one: what would be waits until it is past.
func (b *balancer) timeline() {
	b.t.Helper()
	const s = time.Second
	type course struct {
		f      *policyFlow
		policy Policy
		udp    uint32
		at     []time.Duration // packets to come
	}
	var courses []*course
	begin := time.Since(b.start)
	add := func(service uint16, p Policy, udpTimeout uint32, at string) {
		c := &course{f: b.flow(service, "packets at "+at), policy: p, udp: udpTimeout}
		begin += 150 * time.Millisecond // not all at once: each change of settings takes its time
		for _, word := range strings.Fields(at) {
			seconds, err := strconv.ParseFloat(word, 64)
			if err != nil {
				b.t.Fatal(err)
			}
			c.at = append(c.at, begin+time.Duration(seconds*float64(s)))
		}
		courses = append(courses, c)
	}
	for retries := range 4 { // an eighth of 8 s is 1 s
		p := Policy{Threshold: -1, RefreshPeriod: 8 * s, Retries: retries}
		add(udpPort, p, 300, "0 0.1 1.5 1.6 3 3.1 4.5 4.6 6 6.1 7.5 9 9.1 10.5 12 13.5 13.6")
	}
	p := Policy{RefreshPeriod: 8 * s, Retries: 1}
	add(udpPersistent, p, 300, "0 0.1 1.5 1.6 3 9 10.5 10.6 12")
	add(udpPort, Policy{Period: 2, RefreshPeriod: 8 * s, Retries: 1}, 300, "0 0.1 0.2 1.6 1.7 3 9 12 12.1 12.2 13.5 13.6")
	add(udpPort, Policy{Threshold: 1, RefreshPeriod: 4 * s}, 300, "0 1 2 3 4.5 5 6 9 9.1")
	// Half of a timeout, but at least ten seconds. A connection whose timeout is
	// less is not told at first, except as a retry.
	add(udpPort, Policy{Threshold: 1, RefreshPeriod: 60 * s}, 24, "0 5 11 13 13.5")
	add(udpPort, Policy{Threshold: 1, RefreshPeriod: 20 * s}, 9, "0 0.1 2 4 8 11 13 13.1")
	add(udpPort, Policy{Threshold: 1, RefreshPeriod: 20 * s, Retries: 1}, 9, "0 0.1 2 4 8 11 13")
	all, late := len(courses), len(b.late)
	for len(courses) > 0 {
		for _, c := range courses {
			if now := time.Since(b.start); now < c.at[0] {
				continue
			}
			b.settings(c.policy, 1, c.udp)
			c.f.conn.Timeout = c.udp
			if b.shaky(&c.policy, c.f, time.Since(b.start)) {
				continue
			}
			b.do(c.f, step{})
			c.at = c.at[1:]
		}
		courses = slices.DeleteFunc(courses, func(c *course) bool { return len(c.at) == 0 || b.late[c.f.conn.Client.AddrPort().Addr()] })
		time.Sleep(5 * time.Millisecond)
	}
	if len(b.late)-late == all {
		b.t.Errorf("all %d courses came too late: the machine is too slow", all)
	}
	b.settings(Policy{}, 1, 300)
	b.compare("timeline")
}

// checkCounters makes sure that the kernel counted each packet of a client once.
func (b *balancer) checkCounters() {
	b.t.Helper()
	var text string
	for range 50 { // the last marks may be on their way
		// Two lines of headings, then connections, packets in and out, in hexadecimal.
		text = b.g.Run(b.t, "cat /proc/net/ip_vs_stats")
		if lines := strings.Split(text, "\n"); len(lines) > 2 {
			f := append(strings.Fields(lines[2]), "", "")
			if n, err := strconv.ParseUint(f[1], 16, 64); err == nil && n == uint64(b.packets) {
				return
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.t.Errorf("sent %d packets of clients, the kernel counted:\n%s", b.packets, text)
}
