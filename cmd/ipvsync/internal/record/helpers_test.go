package record

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"unicode/utf8"

	"github.com/ipvsync/ipvsync/encoder"
)

func endpoint(s string) encoder.Endpoint { return encoder.EndpointFrom(netip.MustParseAddrPort(s)) }

// sample is the record of the package comment, with every key.
func sample(t testing.TB) encoder.Conn {
	t.Helper()
	c := encoder.Conn{
		Client: endpoint("10.88.0.1:43938"), Virtual: endpoint("10.88.0.2:80"), Dest: endpoint("10.99.0.3:8080"),
		Protocol: encoder.TCP, State: encoder.TCPEstablished, Flags: encoder.FlagInactive, Timeout: 60,
	}
	var err error
	if c.Options, err = c.Options.AppendSeq(encoder.Seq{Init: 1, Delta: 2, PreviousDelta: 3}, encoder.Seq{Init: 4, Delta: 5, PreviousDelta: 6}); err != nil {
		t.Fatal(err)
	}
	if c.Options, err = c.Options.AppendPE("sip", []byte("call-1@host")); err != nil {
		t.Fatal(err)
	}
	if c.Options, err = c.Options.AppendUnknown(0x45, []byte{1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	return c
}

// meaning is what two records must share to be the same to a reader.
type meaning struct {
	Conn       encoder.Conn
	In, Out    encoder.Seq
	Name, Data string
	Others     []string
}

func meaningOf(c encoder.Conn) (m meaning) {
	m.In, m.Out, _ = c.Options.Seq()
	name, data, _ := c.Options.PE()
	m.Name, m.Data = string(name), string(data)
	for t, data := range c.Options.All() {
		if !t.Known() {
			m.Others = append(m.Others, fmt.Sprintf("%d:%x", t, data))
		}
	}
	c.Options = nil
	m.Conn = c
	return m
}

func same(a, b encoder.Conn) bool { return reflect.DeepEqual(meaningOf(a), meaningOf(b)) }

// The slow twin of Append, in the order of the keys.
type twin struct {
	Accepted bool         `json:"accepted"`
	Reason   string       `json:"reason"`
	Family   string       `json:"family"`
	Protocol string       `json:"protocol"`
	State    string       `json:"state"`
	Client   string       `json:"client"`
	Virtual  string       `json:"virtual"`
	Dest     string       `json:"dest"`
	Flags    []string     `json:"flags"`
	FlagsRaw uint32       `json:"flags_raw"`
	Fwmark   uint32       `json:"fwmark"`
	Timeout  uint32       `json:"timeout"`
	Seq      *twinSeqs    `json:"seq,omitempty"`
	PEName   *string      `json:"pe_name,omitempty"`
	PEName64 []byte       `json:"pe_name_base64,omitempty"`
	PEData   []byte       `json:"pe_data,omitempty"`
	Options  []twinOption `json:"options,omitempty"`
}

type twinSeqs struct {
	In  twinSeq `json:"in"`
	Out twinSeq `json:"out"`
}

type twinSeq struct {
	Init          uint32 `json:"init"`
	Delta         uint32 `json:"delta"`
	PreviousDelta uint32 `json:"previous_delta"`
}

type twinOption struct {
	Type uint8  `json:"type"`
	Data []byte `json:"data"`
}

func twinOf(c *encoder.Conn, refusal string) twin {
	w := twin{
		Accepted: refusal == "", Reason: refusal, Family: c.Family().String(),
		Protocol: c.Protocol.String(), State: c.StateName(),
		Client: c.Client.String(), Virtual: c.Virtual.String(), Dest: c.Dest.String(),
		Flags: append([]string{}, c.Flags.Names()...), FlagsRaw: uint32(c.Flags), Fwmark: c.Fwmark, Timeout: c.Timeout,
	}
	if in, out, ok := c.Options.Seq(); ok {
		w.Seq = &twinSeqs{twinSeq(in), twinSeq(out)}
	}
	name, data, _ := c.Options.PE()
	if s := string(name); name != nil && utf8.ValidString(s) {
		w.PEName = &s
	} else {
		w.PEName64 = name
	}
	w.PEData = data
	for t, data := range c.Options.All() {
		if !t.Known() {
			w.Options = append(w.Options, twinOption{uint8(t), data})
		}
	}
	return w
}

// slowParse is the twin of Parse for texts that Parse accepts.
func slowParse(text []byte) (c encoder.Conn, err error) {
	var w struct {
		Protocol, State any
		Client, Virtual string
		Dest            string
		Flags           []string
		FlagsRaw        *uint32 `json:"flags_raw"`
		Fwmark, Timeout uint32
		Seq             *twinSeqs
		PEName          *string `json:"pe_name"`
		PEName64        []byte  `json:"pe_name_base64"`
		PEData          *string `json:"pe_data"`
		Options         []twinOption
	}
	if err := json.Unmarshal(text, &w); err != nil {
		return c, err
	}
	must := func(e error) {
		if err == nil {
			err = e
		}
	}
	text = nil
	var e error
	c.Protocol, e = encoder.ParseProtocol(fmt.Sprint(w.Protocol))
	must(e)
	c.Flags, e = encoder.ParseFlags(w.Flags)
	must(e)
	if w.FlagsRaw != nil {
		c.Flags = encoder.Flags(*w.FlagsRaw)
	}
	if w.State == nil {
		c.State = defaultState(&c)
	} else {
		c.State, e = encoder.ParseState(c.Protocol, c.Flags, fmt.Sprint(w.State))
		must(e)
	}
	for _, x := range []struct {
		to   *encoder.Endpoint
		from string
	}{{&c.Client, w.Client}, {&c.Virtual, w.Virtual}, {&c.Dest, w.Dest}} {
		ap, e := netip.ParseAddrPort(x.from)
		must(e)
		*x.to = encoder.EndpointFrom(ap)
	}
	c.Fwmark, c.Timeout = w.Fwmark, w.Timeout
	if w.Seq != nil {
		c.Options, e = c.Options.AppendSeq(encoder.Seq(w.Seq.In), encoder.Seq(w.Seq.Out))
		must(e)
	}
	name := string(w.PEName64)
	if w.PEName != nil {
		name = *w.PEName
	}
	if name != "" {
		var data []byte
		if w.PEData != nil {
			data, e = base64.StdEncoding.DecodeString(*w.PEData)
			must(e)
		}
		c.Options, e = c.Options.AppendPE(name, data)
		must(e)
	}
	for _, o := range w.Options {
		c.Options, e = c.Options.AppendUnknown(encoder.OptionType(o.Type), o.Data)
		must(e)
	}
	return c, err
}

// randomConn is any record that version 1 can carry.
func randomConn(rng *rand.Rand) (c encoder.Conn) {
	v6 := rng.IntN(2) == 0
	for _, e := range []*encoder.Endpoint{&c.Client, &c.Virtual, &c.Dest} {
		*e = encoder.Endpoint{Family: encoder.IPv4, Port: uint16(rng.Uint32())}
		n := 4
		if v6 {
			e.Family, n = encoder.IPv6, 16
		}
		for i := range n {
			if rng.IntN(3) > 0 {
				e.Addr[i] = byte(rng.Uint32())
			}
		}
	}
	protocols := []encoder.Protocol{encoder.TCP, encoder.UDP, encoder.SCTP, encoder.ESP, encoder.AH, encoder.Protocol(rng.Uint32())}
	c.Protocol = protocols[rng.IntN(len(protocols))]
	c.State = encoder.State(rng.IntN(16))
	if rng.IntN(10) == 0 {
		c.State = encoder.State(rng.Uint32())
	}
	c.Flags = encoder.Flags(rng.Uint32() & rng.Uint32() & rng.Uint32())
	c.Fwmark, c.Timeout = rng.Uint32(), rng.Uint32()
	random := func(limit int) []byte {
		b := make([]byte, 1+rng.IntN(limit))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	if rng.IntN(2) == 0 {
		s := func() encoder.Seq {
			return encoder.Seq{Init: rng.Uint32(), Delta: rng.Uint32(), PreviousDelta: rng.Uint32()}
		}
		c.Options, _ = c.Options.AppendSeq(s(), s())
	}
	switch rng.IntN(4) {
	case 0:
		c.Options, _ = c.Options.AppendPE("sip", random(255))
	case 1:
		c.Options, _ = c.Options.AppendPE(string(random(16)), random(255))
	case 2:
		c.Options, _ = c.Options.AppendPE(string(random(16)), nil)
	}
	for rng.IntN(3) == 0 && len(c.Options) < 3500 {
		c.Options, _ = c.Options.AppendUnknown(encoder.OptionType(rng.Uint32()&0xff|0x44), random(255))
	}
	return c
}
