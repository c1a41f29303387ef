package ipvsync

import (
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/encoder/kernellab"
)

// The same random messages to a stock backup and to a Table: the same connections,
// with the same destinations, states and engine data, for as long.
func TestKernelTable(t *testing.T) {
	kernels(t, func(t *testing.T, g *kernellab.Guest) {
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		p := &kernelProgram{
			t: t, g: g, r: rand.New(rand.NewPCG(seed, 0)), table: newTable(t, TableConfig{MaxEntries: 10000}),
			quiet: map[encoder.Endpoint]time.Time{}, replaced: map[string]replacedConn{},
		}
		p.sub = p.table.Subscribe(1 << 16)
		g.Reset(t)
		g.StartBackup(t, 7, kernellab.DaemonOptions{})
		g.Settle(t)
		for range 25 {
			p.round()
		}
		// Until the short ones are over in both.
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
			p.compare()
		}
		st := p.table.Stats()
		if st.Added == 0 || st.Updated == 0 || st.Replaced == 0 || st.Expired == 0 || st.Ignored[IgnoredInactive] == 0 || p.sub.Missed() > 0 {
			t.Errorf("not everything happened: %+v", st)
		}
		p.replaceUntilPutOff()
		if all := p.table.Stats().Replaced; uint64(p.putOffs) > all/10 {
			t.Errorf("the kernel put off %d of %d ends", p.putOffs, all)
		}
		t.Logf("%+v, %d entries compared in %d listings, longest expiry apart %v, %d put off", st, p.compared, p.listings, p.apart, p.putOffs)
	})
}

type kernelProgram struct {
	t     *testing.T
	g     *kernellab.Guest
	r     *rand.Rand
	table *Table
	sub   *Subscription
	quiet map[encoder.Endpoint]time.Time // clients to be left alone until then

	replaced map[string]replacedConn // by line: what the table replaced last

	compared, listings, putOffs int
	apart                       time.Duration
}

// risky clients get connections whose client port is not known, or collide with
// templates. What such a record replaces can be found by the next one for a
// moment, until the kernel's timer has run: so they get one record a round.
func risky(client int) bool { return client%4 == 0 }

// round sends some messages, and compares when the kernel has handled them.
func (p *kernelProgram) round() {
	p.leaveAlone()
	var conns []Conn
	for client := range 40 {
		for range 1 + p.r.IntN(4) {
			c := p.conn(client)
			if time.Now().After(p.quiet[clientOf(&c)]) {
				conns = append(conns, c)
			}
			if risky(client) {
				break
			}
		}
	}
	p.r.Shuffle(len(conns), func(i, j int) { conns[i], conns[j] = conns[j], conns[i] })
	p.send(conns)
	p.g.Settle(p.t)
	p.compare()
}

// conn is a random record of a client, which has one family.
func (p *kernelProgram) conn(client int) Conn {
	c := randomConn(p.r)
	for c.Family() == encoder.IPv6 != (client%2 == 1 || client%8 == 4) {
		c = randomConn(p.r)
	}
	c.Client.Addr[3], c.Client.Addr[2] = byte(client), 7
	c.Timeout = uint32([]int{0, 3, 3, 60, 900, 4000}[p.r.IntN(6)])
	if risky(client) {
		return c
	}
	if c.Template() {
		c.Client.Port = uint16(7 * p.r.IntN(2))
	} else {
		c.Client.Port = uint16(1 + p.r.IntN(2))
	}
	c.Flags &^= encoder.FlagNoCport
	return c
}

// leaveAlone notes the clients of entries that end about now: the kernel and we
// may disagree for a moment whether they are there.
func (p *kernelProgram) leaveAlone() {
	p.readChanges()
	for e := range p.table.All() {
		if e.Expires < 1500*time.Millisecond {
			p.silence(clientOf(&e.Conn), e.Expires+time.Second)
		}
	}
}

// readChanges notes what has ended and what was replaced.
func (p *kernelProgram) readChanges() {
	for range len(p.sub.Changes()) {
		switch c := <-p.sub.Changes(); c.Kind {
		case Expired:
			p.silence(clientOf(&c.Entry.Conn), c.Entry.Expires+time.Second)
		case Replaced:
			p.replaced[kernelLine(&c.Old)] = replacedConn{client: clientOf(&c.Old), at: time.Now()}
		}
	}
}

func clientOf(c *Conn) encoder.Endpoint {
	k := c.Client
	k.Port = 0
	return k
}

// silence leaves a client alone for that long at least.
func (p *kernelProgram) silence(client encoder.Endpoint, d time.Duration) {
	if end := time.Now().Add(d); end.After(p.quiet[client]) {
		p.quiet[client] = end
	}
}

// send sends records in messages to the kernel, and applies what a backup accepts
// of these very messages to the table.
func (p *kernelProgram) send(conns []Conn) {
	p.t.Helper()
	to := &net.UDPAddr{IP: kernellab.SyncGroup.AsSlice(), Port: kernellab.SyncPort}
	err := p.g.NS().Do(func() error {
		sock, err := net.DialUDP("udp", nil, to)
		if err != nil {
			return err
		}
		defer sock.Close()
		for len(conns) > 0 {
			var w encoder.Writer
			if err := w.Init(make([]byte, 1472), encoder.Version1, 7); err != nil {
				return err
			}
			for len(conns) > 0 && w.Append(&conns[0]) == nil {
				conns = conns[1:]
			}
			if w.Count() == 0 {
				return fmt.Errorf("%v does not fit a message", &conns[0])
			}
			m := w.Seal()
			if _, err := sock.Write(m); err != nil {
				return err
			}
			p.apply(m)
		}
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *kernelProgram) apply(m []byte) {
	d := encoder.Decoder{SyncID: 7}
	if reason := d.Open(m); reason != encoder.Accepted {
		p.t.Fatal(reason)
	}
	var conns []Conn
	for {
		var c Conn
		reason, ok := d.Next(&c)
		if !ok {
			break
		}
		if reason == encoder.Accepted {
			conns = append(conns, c)
		}
	}
	p.table.Apply(conns)
}

// compare compares listing and table. The listing is no atomic snapshot: while
// entries end, it can leave others out. So what is wrong must be so five times.
func (p *kernelProgram) compare() {
	p.t.Helper()
	wrong := p.differences()
	for range 4 {
		if len(wrong) == 0 {
			return
		}
		again := p.differences()
		for line := range wrong {
			if again[line] == "" {
				delete(wrong, line)
			}
		}
	}
	for line, s := range wrong {
		p.t.Errorf("%s: %s", line, s)
	}
	if p.t.Failed() {
		p.t.FailNow()
	}
}

// differences is what differs, but for what ends about now.
func (p *kernelProgram) differences() map[string]string {
	p.t.Helper()
	const soon = 2 * time.Second
	p.readChanges()
	before := time.Now()
	listed := p.g.Conns(p.t)
	took := time.Since(before)
	got, want := map[string][]time.Duration{}, map[string][]time.Duration{}
	for e := range p.table.All() {
		s := kernelLine(&e.Conn)
		got[s] = append(got[s], e.Expires)
		want[s] = nil
	}
	for _, c := range listed {
		s := c.String()
		want[s] = append(want[s], time.Duration(c.Expires)*time.Second)
	}
	p.listings++
	wrong := map[string]string{}
	for s, k := range want {
		o := got[s]
		slices.Sort(k)
		slices.Sort(o)
		for len(k) > len(o) && k[0] < soon {
			k = k[1:]
		}
		for len(o) > len(k) && o[0] < soon {
			o = o[1:]
		}
		if p.isPutOff(s, k, o) {
			continue
		}
		if len(k) != len(o) {
			wrong[s] = fmt.Sprintf("the kernel has %v, the table %v", k, o)
			continue
		}
		for i := range k {
			// The listing rounds down, and was made while it took.
			p.compared++
			if d := o[i] - k[i]; d < -time.Second-took || d > 2*time.Second {
				wrong[s] = fmt.Sprintf("expires in %v, in the kernel in %v", o[i], k[i])
			} else {
				p.apart = max(p.apart, d-time.Second, -d-took)
			}
		}
	}
	return wrong
}

// kernelLine is a connection as kernellab.ProcConn prints a line of the listing.
func kernelLine(c *Conn) string {
	l := kernellab.ProcConn{
		Client: c.Client.AddrPort(), Virtual: c.Virtual.AddrPort(), Dest: c.Dest.AddrPort(), State: c.StateName(),
	}
	switch c.Protocol {
	case encoder.TCP:
		l.Proto = "TCP"
	case encoder.UDP:
		l.Proto = "UDP"
	case encoder.SCTP:
		l.Proto = "SCTP"
	case 0:
		l.Proto = "IP"
	default:
		l.Proto = fmt.Sprintf("IP_%d", c.Protocol)
	}
	if l.State == c.State.String() {
		l.State = "ERR!"
	}
	if name, data, ok := c.Options.PE(); ok {
		l.PEName, l.PEData = string(name), string(data)
	}
	return l.String()
}
