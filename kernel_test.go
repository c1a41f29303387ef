package ipvsync

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/encoder/kernellab"
	"github.com/ipvsync/ipvsync/xsk"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

func kernels(t *testing.T, test func(*testing.T, *kernellab.Guest)) {
	t.Helper()
	inKernels(t, kernellab.Kernels, test)
}

// allKernels are kernels, and the newest one.
func allKernels(t *testing.T, test func(*testing.T, *kernellab.Guest)) {
	t.Helper()
	inKernels(t, append(slices.Clone(kernellab.Kernels), kernellab.LinuxNewest), test)
}

func inKernels(t *testing.T, kernels []kernellab.Kernel, test func(*testing.T, *kernellab.Guest)) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short leaves the kernel lab out")
	}
	for _, k := range kernels {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			test(t, kernellab.Boot(t, k))
		})
	}
}

func hostEnd(g *kernellab.Guest) xsktest.End {
	return xsktest.End{NS: g.NS(), Name: kernellab.TapName, Addr4: kernellab.HostAddr, Addr6: kernellab.HostAddr6}
}

// everyKind is one connection of every kind that a record can carry, and how
// /proc/net/ip_vs_conn names its protocol.
func everyKind(t *testing.T, v encoder.Version) (conns []Conn, protocols []string) {
	t.Helper()
	add := func(proto string, p encoder.Protocol, s encoder.State, change func(*Conn) error) {
		c := flow(len(conns)+1, 3000+uint32(len(conns)))
		c.Protocol, c.State = p, s
		if change != nil {
			if err := change(&c); err != nil {
				t.Fatal(err)
			}
		}
		conns = append(conns, c)
		protocols = append(protocols, proto)
	}
	for s := range encoder.State(11) {
		add("TCP", encoder.TCP, s, nil)
	}
	for s := range encoder.State(14) {
		add("SCTP", encoder.SCTP, s, nil)
	}
	add("UDP", encoder.UDP, 0, nil)
	add("IP_50", encoder.ESP, 0, nil)
	add("IP_51", encoder.AH, 0, nil)
	for f := range encoder.Flags(5) {
		add("TCP", encoder.TCP, encoder.TCPEstablished, func(c *Conn) error { c.Flags = f; return nil })
	}
	for _, f := range []encoder.Flags{encoder.FlagNoOutput, encoder.FlagInactive} {
		add("TCP", encoder.TCP, encoder.TCPFinWait, func(c *Conn) error { c.Flags = f; return nil })
	}
	for s := range encoder.State(2) {
		add("TCP", encoder.TCP, s, func(c *Conn) error { c.Flags, c.Client.Port = encoder.FlagTemplate, 0; return nil })
	}
	// A template of a service by firewall mark has the mark for an address.
	add("IP", 0, encoder.TemplateAssured, func(c *Conn) error {
		c.Flags, c.Client.Port, c.Virtual.Port, c.Fwmark = encoder.FlagTemplate, 0, 0, 9
		c.Virtual.Addr = [16]byte{3: 9}
		return nil
	})
	add("TCP", encoder.TCP, encoder.TCPEstablished, func(c *Conn) (err error) {
		c.Flags = encoder.FlagSeqMask
		c.Options, err = c.Options.AppendSeq(encoder.Seq{Init: 1, Delta: 2, PreviousDelta: 3}, encoder.Seq{Init: 4, Delta: 5})
		return err
	})
	if v == encoder.Version0 {
		return conns, protocols
	}
	for n := range 4 { // every padding
		add("UDP", encoder.UDP, encoder.TemplateAssured, func(c *Conn) (err error) {
			c.Flags = encoder.FlagTemplate
			c.Options, err = c.Options.AppendPE("sip", []byte("a84b4c76e66710@pc33"[:8+n]))
			return err
		})
	}
	add("TCP", encoder.TCP, encoder.TCPEstablished, func(c *Conn) (err error) {
		c.Options, err = c.Options.AppendUnknown(0x45, []byte("from the future"))
		return err
	})
	for _, p := range []encoder.Protocol{encoder.TCP, encoder.UDP} {
		add(map[encoder.Protocol]string{encoder.TCP: "TCP", encoder.UDP: "UDP"}[p], p, 0, func(c *Conn) error {
			*c = flow6(len(conns)+1, c.Timeout)
			c.Protocol, c.State = p, 0
			return nil
		})
	}
	return conns, protocols
}

// What a Sender sends shows up in the table of a stock backup, exactly as sent.
func TestKernelBackupListsWhatWeSend(t *testing.T) {
	allKernels(t, func(t *testing.T, g *kernellab.Guest) {
		for _, tc := range []struct {
			name   string
			v      encoder.Version
			daemon kernellab.DaemonOptions
			link   Link
		}{
			{"version 1, AF_XDP", 1, kernellab.DaemonOptions{}, Link{Mode: xsk.ModeCopy}},
			{"version 1, UDP", 1, kernellab.DaemonOptions{}, Link{Mode: xsk.ModeUDPGSO}},
			{"version 0", 0, kernellab.DaemonOptions{}, Link{Mode: xsk.ModeCopy}},
			{"ipv6 group, other port, short messages", 1,
				kernellab.DaemonOptions{Group: kernellab.SyncGroup6, Port: 9000}, Link{Group: kernellab.SyncGroup6, Port: 9000, MaxSize: 200, Mode: xsk.ModeCopy}},
		} {
			t.Run(tc.name, func(t *testing.T) {
				g.Reset(t)
				g.StartBackup(t, 7, tc.daemon)
				// By this line xsk.OpenRx knows that the port is shared.
				port := max(tc.daemon.Port, DefaultPort)
				if l := g.Run(t, "cat /proc/thread-self/net/udp /proc/thread-self/net/udp6"); !regexp.MustCompile(fmt.Sprintf(`(?m)^ *\d+: [0-9A-F]+:%04X `, port)).MatchString(l) {
					t.Errorf("the kernel does not list its own socket of port %d:\n%s", port, l)
				}
				s := send(t, hostEnd(g), SenderConfig{Link: tc.link, SyncID: 7, Version0: tc.v == encoder.Version0})
				conns, protocols := everyKind(t, tc.v)
				for i := range conns {
					if err := s.Publish(&conns[i]); err != nil {
						t.Fatalf("%v: %v", &conns[i], err)
					}
				}
				if err := s.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
				g.Settle(t)
				listed := map[netip.AddrPort]kernellab.ProcConn{}
				for _, p := range g.ConnsSync(t) {
					listed[p.Client] = p
				}
				engines := map[netip.AddrPort]kernellab.ProcConn{}
				for _, p := range g.Conns(t) {
					engines[p.Client] = p
				}
				for i := range conns {
					c := &conns[i]
					p, ok := listed[c.Client.AddrPort()]
					if !ok {
						// Version 0 has no timeouts: short ones may be over.
						if tc.v == 0 && short(c) {
							continue
						}
						t.Errorf("not listed: %v", c)
						continue
					}
					delete(listed, c.Client.AddrPort())
					state := c.StateName()
					if !c.Template() && (c.Protocol == encoder.ESP || c.Protocol == encoder.AH) {
						state = "ERR!" // the kernel has no names for their states
					}
					name, data, _ := c.Options.PE()
					e := engines[c.Client.AddrPort()]
					if p.Proto != protocols[i] || p.Virtual != c.Virtual.AddrPort() || p.Dest != c.Dest.AddrPort() ||
						p.State != state || p.Origin != "SYNC" || e.PEName != string(name) || e.PEData != string(data) {
						t.Errorf("sent   %v\nlisted %v", c, p)
					}
					if tc.v == 1 && (p.Expires > uint64(c.Timeout) || p.Expires+60 < uint64(c.Timeout)) {
						t.Errorf("sent   %v\nexpires in %d s", c, p.Expires)
					}
				}
				for _, p := range listed {
					t.Errorf("listed, but never sent: %v", p)
				}
			})
		}
	})
}

// short says whether the default timeout of c's state is so short that the
// connection may be gone before it is looked for.
func short(c *Conn) bool {
	return c.Protocol == encoder.TCP && (c.State == encoder.TCPNone || c.State == encoder.TCPClose) || c.Protocol == encoder.SCTP
}

// A Receiver gets every record of a stock master's real traffic, and refuses none.
func TestKernelMasterReachesReceiver(t *testing.T) {
	allKernels(t, func(t *testing.T, g *kernellab.Guest) {
		for _, tc := range []struct {
			version int
			mode    xsk.Mode
		}{{0, xsk.ModeUDPGSO}, {0, xsk.ModeCopy}, {1, xsk.ModeUDPGSO}, {1, xsk.ModeCopy}} {
			v := tc.version
			t.Run(fmt.Sprintf("version %d, %v", v, tc.mode), func(t *testing.T) {
				g.Reset(t)
				records := make(chan Conn, 10000)
				m := kernellab.NewMaster(t, g, v, kernellab.DaemonOptions{})
				cfg := ReceiverConfig{Link: Link{Mode: tc.mode, Interface: kernellab.TapName}, SyncID: kernellab.MasterSyncID}
				if tc.mode == xsk.ModeCopy {
					inside := cfg
					if err := inside.setDefaults(); err != nil {
						t.Fatal(err)
					}
					cfg.OpenRx = func() (xsk.Rx, error) {
						rx, _, err := inside.openRx()
						return overheard{rx, m.Hears}, err
					}
				}
				r := receive(t, hostEnd(g), cfg, func(m *Message) {
					for _, c := range m.Conns {
						c.Options = slices.Clone(c.Options)
						records <- c
					}
				})
				steps := slices.DeleteFunc(slices.Clone(kernellab.Steps), func(s kernellab.Step) bool { return v == 0 && !s.Version0 })
				seen := kernellab.Records(m.Play(t, steps...))
				for _, want := range seen {
					c := <-records
					if c.Client.Port != want.ClientPort || c.Virtual.Port != want.VirtualPort || uint8(c.Protocol) != want.Protocol ||
						uint16(c.State) != want.State || uint32(c.Flags) != want.Flags {
						t.Fatalf("got %v, want %+v", &c, want)
					}
				}
				st := r.Stats()
				if st.RefusedTotal()+st.IgnoredTotal()+st.Unread != 0 || st.Transport.SocketDrops != 0 {
					t.Errorf("%+v", st)
				}
				t.Logf("%d records", len(seen))
			})
		}
	})
}

// overheard is an Rx that tells what it receives.
type overheard struct {
	xsk.Rx
	tell func(message []byte)
}

func (r overheard) Receive(wait time.Duration) ([]xsk.Datagram, error) {
	batch, err := r.Rx.Receive(wait)
	for _, d := range batch {
		r.tell(d.Payload)
	}
	return batch, err
}
