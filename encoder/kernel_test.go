package encoder

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"testing"

	"github.com/ipvsync/ipvsync/encoder/kernellab"
)

// The tests in this file ask a stock Linux kernel. Its verdict on a message is
// seen in /proc/net/ip_vs_conn: a record that it accepts is listed there. Every
// record sent has a client address of its own, so that each can be told apart.

const kernelSyncID = 7

func kernels(t *testing.T, test func(*testing.T, *kernellab.Guest)) {
	if testing.Short() {
		t.Skip("-short leaves the kernel lab out")
	}
	for _, k := range []kernellab.Kernel{kernellab.Linux61, kernellab.Linux612, kernellab.LinuxNewest} {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			test(t, kernellab.Boot(t, k))
		})
	}
}

// exchange sends messages to the guest's backup daemon and compares what it
// lists with what Decoder accepts.
type exchange struct {
	guest *kernellab.Guest
	conn  net.Conn
	sent  [][]byte
}

func newExchange(t *testing.T, g *kernellab.Guest) *exchange {
	t.Helper()
	g.Reset(t)
	g.StartBackup(t, kernelSyncID, kernellab.DaemonOptions{})
	x := &exchange{guest: g}
	err := g.NS().Do(func() (err error) {
		x.conn, err = net.Dial("udp", net.JoinHostPort(kernellab.SyncGroup.String(), fmt.Sprint(kernellab.SyncPort)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.conn.Close() })
	return x
}

func (x *exchange) send(t *testing.T, msg []byte) {
	t.Helper()
	if _, err := x.conn.Write(msg); err != nil {
		t.Fatal(err)
	}
	x.sent = append(x.sent, slices.Clone(msg))
	if len(x.sent)%64 == 0 { // the daemon's socket holds a few hundred
		x.guest.Settle(t)
	}
}

// expected is what Decoder says of a connection that some message mentions.
type expected struct {
	message int
	conn    kernellab.ProcConn // with the verdict's state
	accept  bool
	// vague marks what the listing cannot settle: a timeout so short that the
	// connection may be gone, a key that was sent twice.
	vague bool
}

func procConn(c *Conn) kernellab.ProcConn {
	p := kernellab.ProcConn{
		Client: c.Client.AddrPort(), Virtual: c.Virtual.AddrPort(), Dest: c.Dest.AddrPort(), State: c.StateName(),
	}
	switch c.Protocol {
	case TCP:
		p.Proto = "TCP"
	case UDP:
		p.Proto = "UDP"
	case SCTP:
		p.Proto = "SCTP"
	case 0:
		p.Proto = "IP"
	case 1:
		p.Proto = "ICMP"
	default:
		p.Proto = fmt.Sprintf("IP_%d", c.Protocol)
	}
	if (c.Protocol == ESP || c.Protocol == AH) && !c.Template() {
		p.State = "ERR!"
	}
	if c.Template() {
		if name, data, ok := c.Options.PE(); ok && data != nil {
			p.PEName, p.PEData = string(name), string(data)
		}
	}
	return p
}

// compare fails the test for every record on which kernel and Decoder differ,
// and returns how many were compared.
func (x *exchange) compare(t *testing.T) (accepted, refused int) {
	t.Helper()
	x.guest.Settle(t)
	want := map[string]*expected{}
	var order []string
	for i, msg := range x.sent {
		d := Decoder{SyncID: kernelSyncID, Lenient: true}
		for _, r := range walk(&d, msg) {
			if r.conn.Client.Family == FamilyNone {
				continue
			}
			p := procConn(&r.conn)
			k := p.Client.String()
			if e := want[k]; e != nil {
				e.vague = true
				continue
			}
			// Below a minute a connection may be gone before it is looked for.
			vague := r.conn.Timeout < 60
			if d.Header().Version == Version0 { // the default of the state counts
				vague = !r.conn.Template() && (r.conn.Protocol == SCTP || r.conn.Protocol == TCP && (r.conn.State == TCPNone || r.conn.State == TCPClose))
			}
			want[k] = &expected{message: i, conn: p, accept: r.reason == Accepted, vague: vague}
			order = append(order, k)
		}
	}
	got := map[string]kernellab.ProcConn{}
	for _, p := range x.guest.Conns(t) {
		got[p.Client.String()] = p
	}
	for _, k := range order {
		e := want[k]
		p, listed := got[k]
		delete(got, k)
		switch {
		case e.vague:
		case e.accept && !listed:
			t.Errorf("the kernel refuses, Decoder accepts: %v\nin %x", e.conn, x.sent[e.message])
		case !e.accept && listed:
			t.Errorf("the kernel accepts, Decoder refuses: %v\nin %x", p, x.sent[e.message])
		case e.accept:
			accepted++
			p.Expires = 0
			if p != e.conn {
				t.Errorf("the kernel lists  %v\nDecoder decodes %v\nfrom %x", p, e.conn, x.sent[e.message])
			}
		default:
			refused++
		}
	}
	for _, p := range got {
		t.Errorf("the kernel lists what Decoder saw in no message: %v", p)
	}
	return accepted, refused
}

// number gives record n of a run a client address of its own.
func number(rec []byte, v Version, n int) []byte {
	rec = slices.Clone(rec)
	at := 24
	if v == Version0 {
		at = 8
	}
	// An IPv6 client's address begins with these four bytes, an IPv4 client's is them.
	binary.BigEndian.PutUint32(rec[at:], 0x14000000+uint32(n))
	return rec
}

func TestKernelVerdicts(t *testing.T) {
	kernels(t, func(t *testing.T, g *kernellab.Guest) {
		x := newExchange(t, g)
		good := record(t, 1, conn4())
		n := 0
		next := func(rec []byte, v Version) []byte { n++; return number(rec, v, n) }
		for _, tc := range verdictCases(t) {
			x.send(t, message(1, kernelSyncID, next(good, 1), next(tc.rec, 1), next(good, 1)))
		}
		r0, seq0 := record(t, 0, conn4()), record(t, 0, connSeq(t))
		with0 := func(f func(*Conn)) []byte { c := conn4(); f(&c); return record(t, 0, c) }
		for _, mid := range [][]byte{
			r0, seq0,
			with0(func(c *Conn) { c.Protocol = 47 }),
			with0(func(c *Conn) { c.State = 11 }),
			with0(func(c *Conn) { c.Protocol, c.State = SCTP, 13 }),
			with0(func(c *Conn) { c.Protocol, c.State = SCTP, 14 }),
			with0(func(c *Conn) { c.Protocol, c.State = ESP, 0 }),
			with0(func(c *Conn) { c.Flags, c.State = FlagTemplate, 0 }),
			with0(func(c *Conn) { c.Flags, c.State = FlagTemplate, 1 }),
			with0(func(c *Conn) { c.Flags, c.State = FlagTemplate, 2 }),
			with0(func(c *Conn) { c.Flags, c.State, c.Protocol = FlagTemplate, 0, 200 }),
			with0(func(c *Conn) { c.Flags = FlagOnePacket }),
			with0(func(c *Conn) { c.Flags = FwdTunnel | FlagInactive | FlagNoOutput }),
		} {
			x.send(t, message(0, kernelSyncID, next(r0, 0), next(mid, 0), next(r0, 0)))
		}
		// Whole messages.
		m := func() []byte { return message(1, kernelSyncID, next(good, 1), next(good, 1)) }
		edit := func(m []byte, f func([]byte)) []byte { f(m); return m }
		for _, msg := range [][]byte{
			m()[:20], append(m(), 0), message(1, 8, next(good, 1)), message(1, 0, next(good, 1)),
			setSize(append(m(), "a trailer"...)), setSize(append(m(), 0, 0, 0)),
			edit(m(), func(m []byte) { m[4] = 9 }), edit(m(), func(m []byte) { m[4] = 1 }),
			edit(m(), func(m []byte) { m[7] = 1 }), edit(m(), func(m []byte) { m[5] = 2 }), edit(m(), func(m []byte) { m[0] = 1 }),
			message(1, kernelSyncID), message(0, kernelSyncID), {0, 7, 0}, {},
			setSize([]byte{0, kernelSyncID, 0, 0, 9, 0x7f, 0, 0}),
			setSize(message(0, kernelSyncID, next(r0, 0), next(r0, 0))[:4+47]),
			setSize(message(0, kernelSyncID, next(r0, 0), next(seq0, 0))[:4+24+47]),
		} {
			x.send(t, msg)
		}
		accepted, refused := x.compare(t)
		t.Logf("%s: %d messages, %d records accepted, %d refused", g.Kernel(), len(x.sent), accepted, refused)
		if accepted < 100 || refused < 40 {
			t.Error("too few records were compared")
		}
	})
}

func TestKernelVerdictsOnRandomMessages(t *testing.T) {
	kernels(t, func(t *testing.T, g *kernellab.Guest) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		rng := rand.New(rand.NewPCG(seed, 0))
		x := newExchange(t, g)
		n := 0
		for range 600 {
			x.send(t, mutated(t, rng, func(rec []byte, v Version) []byte { n++; return number(rec, v, n) }))
		}
		accepted, refused := x.compare(t)
		t.Logf("%s: %d messages, %d records accepted, %d refused", g.Kernel(), len(x.sent), accepted, refused)
		if accepted < 300 || refused < 50 {
			t.Error("too few records were compared")
		}
	})
}

// Every flag with every other one, in both versions.
func TestKernelFlags(t *testing.T) {
	kernels(t, func(t *testing.T, g *kernellab.Guest) {
		x := newExchange(t, g)
		n := 0
		for v, bits := range map[Version]int{Version0: 16, Version1: 32} {
			for i := range bits {
				var recs [][]byte
				for j := range i + 1 {
					c := conn4()
					c.Flags = 1<<i | 1<<j
					if v == Version0 && c.Flags&FlagSeqMask != 0 {
						c.Options = connSeq(t).Options
					}
					n++
					recs = append(recs, number(record(t, v, c), v, n))
				}
				x.send(t, message(v, kernelSyncID, recs...))
			}
		}
		accepted, refused := x.compare(t)
		t.Logf("%s: %d messages, %d records accepted, %d refused", g.Kernel(), len(x.sent), accepted, refused)
	})
}

// Real traffic through a stock master: TCP, UDP, IPv6, persistent, SIP, firewall
// marks, sequence data; live, both versions.
func TestKernelMaster(t *testing.T) {
	kernels(t, func(t *testing.T, g *kernellab.Guest) {
		for _, v := range []Version{Version0, Version1} {
			g.Reset(t)
			m := kernellab.NewMaster(t, g, int(v), kernellab.DaemonOptions{})
			steps := slices.DeleteFunc(slices.Clone(kernellab.Steps), func(s kernellab.Step) bool { return v == Version0 && !s.Version0 })
			n := 0
			kinds := map[string]int{}
			for i, msg := range m.Play(t, steps...) {
				for _, r := range checkKernelMessage(t, fmt.Sprintf("%s, version %d, message %d", g.Kernel(), v, i), msg) {
					n++
					kinds[r.conn.Protocol.String()]++
					kinds[r.conn.Family().String()]++
					_, _, pe := r.conn.Options.PE()
					_, _, seq := r.conn.Options.Seq()
					for kind, is := range map[string]bool{"template": r.conn.Template(), "engine": pe, "seq": seq, "fwmark": r.conn.Fwmark != 0} {
						if is {
							kinds[kind]++
						}
					}
				}
			}
			t.Logf("version %d: %d records: %v", v, n, kinds)
			want := []string{"tcp", "udp", "ipv4", "template", "seq"}
			if v == Version1 {
				want = append(want, "ipv6", "engine", "fwmark")
			}
			for _, kind := range want {
				if kinds[kind] == 0 {
					t.Errorf("version %d: no record of kind %s", v, kind)
				}
			}
		}
	})
}
