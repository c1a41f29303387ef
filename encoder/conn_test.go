package encoder

import (
	"net/netip"
	"strings"
	"testing"
)

// conn4, conn6 and the others are the records that the tests share.
func ep(s string) Endpoint { return EndpointFrom(netip.MustParseAddrPort(s)) }

func conn4() Conn {
	return Conn{
		Client: ep("10.88.0.1:43938"), Virtual: ep("10.88.0.2:80"), Dest: ep("10.99.0.3:8080"),
		Protocol: TCP, State: TCPEstablished, Flags: FlagInactive, Fwmark: 7, Timeout: 900,
	}
}

func conn6() Conn {
	return Conn{
		Client: ep("[2001:db8::1]:43938"), Virtual: ep("[2001:db8::2]:443"), Dest: ep("[fd00::3]:8443"),
		Protocol: UDP, State: UDPNormal, Flags: FwdDRoute, Timeout: 300,
	}
}

func must(t testing.TB, o Options, err error) Options {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func connSeq(t testing.TB) Conn {
	c := conn4()
	c.Flags = FlagSeqMask
	o, err := c.Options.AppendSeq(Seq{1, 2, 3}, Seq{0xfffffffe, 5, 6})
	c.Options = must(t, o, err)
	return c
}

func connSIP(t testing.TB) Conn {
	c := conn4()
	c.Protocol, c.State, c.Flags = UDP, TemplateAssured, FlagTemplate
	o, err := c.Options.AppendPE("sip", []byte("a84b4c76e66710@pc33.example.com"))
	c.Options = must(t, o, err)
	return c
}

func connUnknown(t testing.TB) Conn {
	c := conn6()
	o, err := c.Options.AppendUnknown(0x45, []byte("hello"))
	c.Options = must(t, o, err)
	return c
}

func TestEndpoint(t *testing.T) {
	for _, s := range []string{"10.88.0.1:80", "[2001:db8::1]:0", "[::ffff:1.2.3.4]:65535", "0.0.0.0:0", "[::]:1"} {
		ap := netip.MustParseAddrPort(s)
		e := EndpointFrom(ap)
		if e.AddrPort() != ap || e.String() != s {
			t.Errorf("%s became %v, %q", s, e.AddrPort(), e.String())
		}
	}
	if e := EndpointFrom(netip.AddrPort{}); e.Family != FamilyNone || e.AddrPort().IsValid() || e.String() != "none:0" {
		t.Errorf("no address became %v", e)
	}
	if e := EndpointFrom(netip.MustParseAddrPort("[fe80::1%eth0]:5")); e.String() != "[fe80::1]:5" {
		t.Errorf("zone is kept: %v", e)
	}
}

func TestNamesRoundTrip(t *testing.T) {
	for p := range 256 {
		got, err := ParseProtocol(Protocol(p).String())
		if err != nil || got != Protocol(p) {
			t.Errorf("protocol %d: %v, %v", p, got, err)
		}
		for _, f := range []Flags{0, FlagTemplate} {
			for s := range 20 {
				name := StateName(Protocol(p), f, State(s))
				got, err := ParseState(Protocol(p), f, name)
				if err != nil || got != State(s) {
					t.Errorf("protocol %d flags %s state %d %q: %v, %v", p, f, s, name, got, err)
				}
			}
		}
	}
	for bit := range 32 {
		for method := range Flags(8) {
			f := Flags(1)<<bit&^FlagFwdMask | method | FlagInactive
			got, err := ParseFlags(f.Names())
			if err != nil || got != f {
				t.Errorf("flags %#x %s: %#x, %v", uint32(f), f, uint32(got), err)
			}
		}
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{Flags(0).String(), "0"},
		{(FwdDRoute | FlagInactive | 0x80000000).String(), "DROUTE|INACTIVE|0x80000000"},
		{StateName(TCP, 0, TCPSynAck), "SYNACK"},
		{StateName(TCP, 0, 11), "11"},
		{StateName(SCTP, 0, SCTPEstablished), "ESTABLISHED"},
		{StateName(UDP, 0, 0), "UDP"},
		{StateName(ESP, 0, 0), "0"},
		{StateName(TCP, FlagTemplate, 1), "ASSURED"},
		{StateName(0, FlagTemplate, 0), "NONE"},
		{Protocol(47).String(), "47"},
		{State(3).String(), "3"},
		{IPv6.String(), "ipv6"}, {FamilyNone.String(), "none"}, {Family(9).String(), "family 9"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
	for _, bad := range []error{
		second(ParseProtocol("256")), second(ParseProtocol("icmp")), second(ParseState(TCP, 0, "OPEN")),
		second(ParseState(ESP, 0, "OPEN")), second(ParseState(UDP, FlagTemplate, "65536")),
		second(ParseFlags([]string{"WHAT"})), second(ParseFlags([]string{"TUNNEL", "DROUTE"})),
		second(ParseFlags([]string{"0x1"})), second(ParseFlags([]string{"0x_10000"})),
	} {
		if bad == nil || !strings.Contains(bad.Error(), `"`) && !strings.Contains(bad.Error(), "TUNNEL") {
			t.Errorf("want an error that quotes the input, got %v", bad)
		}
	}
	c := connSIP(t)
	want := `udp 10.88.0.1:43938 > 10.88.0.2:80 > 10.99.0.3:8080 ASSURED 900s TEMPLATE fwmark 7 pe "sip" "a84b4c76e66710@pc33.example.com"`
	if c.String() != want {
		t.Errorf("got  %s\nwant %s", c.String(), want)
	}
}

func second[T any](_ T, err error) error { return err }

func TestBackupFlags(t *testing.T) {
	all := Flags(0xffffffff)
	if got := all.Backup(Version1); got != 0x1fa7 {
		t.Errorf("version 1 keeps %#x", uint32(got))
	}
	if got := all.Backup(Version0); got != 0xffbf {
		t.Errorf("version 0 keeps %#x", uint32(got))
	}
}

func TestReasons(t *testing.T) {
	seen := map[string]bool{}
	for r := range Reason(NumReasons) {
		for _, s := range []string{r.String(), r.Label()} {
			if s == "" || strings.HasPrefix(s, "reason") || seen[s] && r != Accepted {
				t.Errorf("reason %d: name %q", uint8(r), s)
			}
			seen[s] = true
		}
	}
	for r, want := range map[Reason]Scope{Accepted: ScopeNone, OtherSyncID: ScopeMessage, MessageCut: ScopeRest,
		NotReached: ScopeRest, UnknownOption: ScopeRecord, OnePacket: ScopeRecord} {
		if r.Scope() != want {
			t.Errorf("%s costs %v, want %v", r, r.Scope(), want)
		}
	}
	if s := Reason(200).String() + Reason(200).Label(); s != "reason 200reason_200" {
		t.Error(s)
	}
}
