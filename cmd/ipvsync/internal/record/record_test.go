package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ipvsync/ipvsync/encoder"
)

const sampleText = `{"accepted":true,"reason":"","family":"ipv4","protocol":"tcp","state":"ESTABLISHED",` +
	`"client":"10.88.0.1:43938","virtual":"10.88.0.2:80","dest":"10.99.0.3:8080","flags":["INACTIVE"],"flags_raw":256,` +
	`"fwmark":0,"timeout":60,"seq":{"in":{"init":1,"delta":2,"previous_delta":3},"out":{"init":4,"delta":5,"previous_delta":6}},` +
	`"pe_name":"sip","pe_data":"Y2FsbC0xQGhvc3Q=","options":[{"type":69,"data":"AQID"}]}`

// The names and their order are a contract with every script out there.
func TestContract(t *testing.T) {
	c := sample(t)
	if got := string(Append(nil, &c, "")); got != sampleText {
		t.Errorf("got  %s\nwant %s", got, sampleText)
	}
	var back encoder.Conn
	if err := Parse([]byte(sampleText), &back); err != nil || !back.Equal(&c) {
		t.Errorf("%v: got %v, want %v", err, &back, &c)
	}
}

func TestAppend(t *testing.T) {
	base := encoder.Conn{Client: endpoint("10.0.0.1:1"), Virtual: endpoint("10.0.0.2:2"), Dest: endpoint("10.0.0.3:3"), Protocol: encoder.TCP}
	six := encoder.Conn{Client: endpoint("[2001:db8::1]:1"), Virtual: endpoint("[::ffff:10.0.0.1]:2"), Dest: endpoint("[::]:3"), Protocol: encoder.UDP}
	for _, tt := range []struct {
		name    string
		c       encoder.Conn
		change  func(*encoder.Conn)
		refusal string
		want    string
	}{
		{"no flags", base, func(c *encoder.Conn) {}, "", `"flags":[],"flags_raw":0,"fwmark":0,"timeout":0}`},
		{"accepted", base, func(c *encoder.Conn) {}, "", `{"accepted":true,"reason":"",`},
		{"refused", base, func(c *encoder.Conn) {}, "invalid state", `{"accepted":false,"reason":"invalid state",`},
		{"state without name", base, func(c *encoder.Conn) { c.State = 77 }, "", `"state":"77"`},
		{"protocol without name", base, func(c *encoder.Conn) { c.Protocol = 47 }, "", `"protocol":"47","state":"0"`},
		{"template", base, func(c *encoder.Conn) { c.Flags, c.State = encoder.FlagTemplate, 1 }, "", `"state":"ASSURED"`},
		{"flags without name", base, func(c *encoder.Conn) { c.Flags = 0x80000003 }, "", `"flags":["DROUTE","0x80000000"],"flags_raw":2147483651`},
		{"ipv6", six, func(c *encoder.Conn) {}, "", `"family":"ipv6","protocol":"udp","state":"UDP","client":"[2001:db8::1]:1","virtual":"[::ffff:10.0.0.1]:2","dest":"[::]:3"`},
		{"no address", base, func(c *encoder.Conn) { c.Client.Family = 0 }, "x", `"client":"none:1"`},
		{"name in Latin-1", base, func(c *encoder.Conn) { c.Options = encoder.Options{3, 2, 0xe9, 's'} }, "", `"timeout":0,"pe_name_base64":"6XM="}`},
		{"name with quotes", base, func(c *encoder.Conn) { c.Options = encoder.Options{3, 3, '"', '\n', 0} }, "", `"pe_name":"\"\n\u0000"}`},
		{"data without name", base, func(c *encoder.Conn) { c.Options = encoder.Options{2, 1, 'x'} }, "x", `"timeout":0,"pe_data":"eA=="}`},
		{"two unknown options", base, func(c *encoder.Conn) { c.Options = encoder.Options{0x45, 1, 1, 0xc6, 1, 2} }, "", `"options":[{"type":69,"data":"AQ=="},{"type":198,"data":"Ag=="}]}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.change(&tt.c)
			got := string(Append(nil, &tt.c, tt.refusal))
			if !strings.Contains(got, tt.want) || !json.Valid([]byte(got)) {
				t.Errorf("got %s\nwant it to hold %s", got, tt.want)
			}
		})
	}
}

// Append gives what encoding/json gives, and Parse gives the record back.
func TestTwinAndRoundTrip(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	var buf []byte
	var back encoder.Conn
	var p parser
	for n := range 20_000 {
		c := randomConn(rng)
		refusal := []string{"", "invalid state", "a \"quote\", \u2028 \x00 and \xff"}[n%3]
		buf = Append(buf[:0], &c, refusal)
		var want bytes.Buffer
		slow := json.NewEncoder(&want)
		slow.SetEscapeHTML(false)
		if err := slow.Encode(twinOf(&c, refusal)); err != nil {
			t.Fatal(err)
		}
		if string(buf)+"\n" != want.String() {
			t.Fatalf("seed %d:\ngot  %s\nwant %s", seed, buf, want.String())
		}
		if err := p.parse(buf, &back); err != nil || !same(back, c) {
			t.Fatalf("seed %d: %v\ntext %s\ngot  %v\nwant %v", seed, err, buf, &back, &c)
		}
	}
}

func TestParseDefaults(t *testing.T) {
	ends := `"client":"10.0.0.1:1","virtual":"10.0.0.2:2","dest":"10.0.0.3:3"`
	for _, tt := range []struct {
		text  string
		state encoder.State
		flags encoder.Flags
	}{
		{`{"protocol":"tcp",` + ends + `}`, encoder.TCPEstablished, 0},
		{`{"protocol":"TCP",` + ends + `,"state":null,"flags":null,"flags_raw":null,"pe_name":null,"seq":null,"options":null}`, encoder.TCPEstablished, 0},
		{`{"protocol":132,` + ends + `}`, encoder.SCTPEstablished, 0},
		{`{"protocol":"udp",` + ends + `}`, encoder.UDPNormal, 0},
		{`{"protocol":"esp",` + ends + `}`, encoder.ESPNormal, 0},
		{`{"protocol":"51",` + ends + `}`, encoder.AHNormal, 0},
		{`{"protocol":"tcp",` + ends + `,"flags":["TEMPLATE"]}`, encoder.TemplateNone, encoder.FlagTemplate},
		{`{"state":"assured","protocol":"tcp",` + ends + `,"flags":["TEMPLATE"]}`, encoder.TemplateAssured, encoder.FlagTemplate},
		{`{"state":"FIN_WAIT","protocol":"tcp",` + ends + `}`, encoder.TCPFinWait, 0},
		{`{"state":"4","protocol":"tcp",` + ends + `}`, encoder.TCPFinWait, 0},
		{`{"state":4,"protocol":6,` + ends + `}`, encoder.TCPFinWait, 0},
		{`{"protocol":"tcp",` + ends + `,"flags_raw":3,"flags":["INACTIVE"]}`, encoder.TCPEstablished, encoder.FwdDRoute},
		{`{"protocol":"tcp",` + ends + `,"flags":["INACTIVE","TUNNEL","0x4000"]}`, encoder.TCPEstablished, encoder.FlagInactive | encoder.FwdTunnel | 0x4000},
		{` { "protocol" : "t\u0063p" , ` + ends + ` , "accepted" : [1,{"a":-1.5e3}] , "reason" : {} , "family" : false } ` + "\r", encoder.TCPEstablished, 0},
	} {
		var c encoder.Conn
		if err := Parse([]byte(tt.text), &c); err != nil {
			t.Errorf("%s: %v", tt.text, err)
		} else if c.State != tt.state || c.Flags != tt.flags || c.Client != endpoint("10.0.0.1:1") || c.Dest != endpoint("10.0.0.3:3") {
			t.Errorf("%s: %v", tt.text, &c)
		}
	}
}

func TestParseErrors(t *testing.T) {
	const ends = `"client":"10.0.0.1:1","virtual":"10.0.0.2:2","dest":"10.0.0.3:3"`
	const good = `"protocol":"tcp",` + ends
	long := strings.Repeat("QUFB", 100)
	big := strings.Repeat(`{"type":69,"data":"`+strings.Repeat("QUFB", 85)+`"},`, 17)
	for _, tt := range []struct {
		name, text string
		is         error
		says       string
	}{
		{"empty object", `{}`, ErrMissing, "client: missing"},
		{"no virtual", `{"client":"10.0.0.1:1"}`, ErrMissing, "virtual: missing"},
		{"no dest", `{"client":"10.0.0.1:1","virtual":"10.0.0.1:1","dest":null}`, ErrMissing, "dest: missing"},
		{"no protocol", `{` + ends + `}`, ErrMissing, "protocol: missing"},
		{"typo", `{` + good + `,"sate":"NONE"}`, ErrUnknownKey, `"sate": unknown key`},
		{"case", `{` + good + `,"State":"NONE"}`, ErrUnknownKey, `"State": unknown key`},
		{"message", `{"packet":1}`, ErrUnknownKey, `jq -c '.records[]'`},
		{"typo in seq", `{` + good + `,"seq":{"inn":{}}}`, ErrUnknownKey, `seq.inn: unknown key`},
		{"typo deep in seq", `{` + good + `,"seq":{"in":{"initt":1}}}`, ErrUnknownKey, `seq.in.initt: unknown key`},
		{"typo in options", `{` + good + `,"options":[{"typ":1}]}`, ErrUnknownKey, `options[0].typ: unknown key`},
		{"twice", `{` + good + `,"timeout":1,"timeout":2}`, ErrTwice, "timeout: given twice"},
		{"twice in seq", `{` + good + `,"seq":{"out":{},"out":{}}}`, ErrTwice, "seq.out: given twice"},
		{"seq out of range", `{` + good + `,"seq":{"out":{"delta":4294967296}}}`, nil, "seq.out.delta: 4294967296"},
		{"bad state", `{` + good + `,"state":"ESTABLISHD"}`, nil, `state "ESTABLISHD": tcp has NONE, ESTABLISHED`},
		{"state out of range", `{` + good + `,"state":65536}`, nil, `state "65536"`},
		{"bad protocol", `{"protocol":"icmp6",` + ends + `}`, nil, `protocol "icmp6": want tcp`},
		{"protocol out of range", `{"protocol":256,` + ends + `}`, nil, `protocol "256"`},
		{"bad client", `{"client":"10.0.0.1"}`, nil, `client: "10.0.0.1": want address and port`},
		{"zone", `{"dest":"[fe80::1%eth0]:1"}`, nil, `dest: "[fe80::1%eth0]:1": the wire has no room for a zone`},
		{"mixed", `{"protocol":"tcp","client":"10.0.0.1:1","virtual":"[::1]:1","dest":"10.0.0.1:1"}`, encoder.ErrMixedFamilies, "virtual: "},
		{"bad flag", `{` + good + `,"flags":["INACTIV"]}`, nil, `flags: unknown flag "INACTIV"`},
		{"bad flag behind raw", `{` + good + `,"flags_raw":0,"flags":["INACTIV"]}`, nil, `flags: unknown flag "INACTIV"`},
		{"flags no list", `{` + good + `,"flags":"INACTIVE"}`, ErrSyntax, `flags: not a JSON object: column`},
		{"negative", `{` + good + `,"timeout":-1}`, nil, "timeout: -1: want an integer from 0 to 4294967295"},
		{"fraction", `{` + good + `,"timeout":1.5}`, nil, "timeout: 1.5: want an integer"},
		{"quoted number", `{` + good + `,"timeout":"60"}`, nil, "timeout: "},
		{"pe_data alone", `{` + good + `,"pe_data":"QQ=="}`, encoder.ErrNoPartner, "pe_data: "},
		{"pe_data too long", `{` + good + `,"pe_name":"sip","pe_data":"` + long + `"}`, encoder.ErrTooLong, "pe_data: "},
		{"pe_data no base64", `{` + good + `,"pe_name":"sip","pe_data":"*"}`, nil, "pe_data: illegal base64"},
		{"pe_name too long", `{` + good + `,"pe_name":"12345678901234567"}`, encoder.ErrTooLong, "pe_name: "},
		{"pe_name empty", `{` + good + `,"pe_name":""}`, encoder.ErrEmpty, "pe_name: "},
		{"pe_name not UTF-8", `{` + good + `,"pe_name":"` + "\xff" + `"}`, errNotUTF8, "pe_name: not valid UTF-8; pe_name_base64"},
		{"pe_name half a character", `{` + good + `,"pe_name":"\ud800"}`, errNotUTF8, "pe_name: not valid UTF-8"},
		{"pe_name in two ways", `{` + good + `,"pe_name":"sip","pe_name_base64":"c2lw"}`, ErrTwice, "pe_name: given twice, as pe_name_base64 too"},
		{"mandatory option", `{` + good + `,"options":[{"type":9,"data":"QQ=="}]}`, encoder.ErrMandatory, "options: "},
		{"known option", `{` + good + `,"options":[{"type":65,"data":"QQ=="}]}`, encoder.ErrMalformed, "options: "},
		{"option without type", `{` + good + `,"options":[{"data":"QQ=="}]}`, ErrMissing, "options[0].type: missing"},
		{"option without data", `{` + good + `,"options":[{"type":69}]}`, encoder.ErrEmpty, "options: "},
		{"too many options", `{` + good + `,"options":[` + strings.TrimSuffix(big, ",") + `]}`, encoder.ErrTooLong, "record: "},
		{"not an object", `[]`, ErrSyntax, "column 1: want '{', found '['"},
		{"no JSON", `10.0.0.1:1`, ErrSyntax, "column 1"},
		{"pretty-printed", `{`, ErrSyntax, "jq -c"},
		{"cut", `{"client":"10.0`, ErrSyntax, "it ends where the end of a string should be"},
		{"trailing comma", `{"timeout":1,}`, ErrSyntax, "a key in quotes"},
		{"two on a line", `{` + good + `}{}`, ErrSyntax, "nothing after the record"},
		{"leading zero", `{` + good + `,"timeout":010}`, ErrSyntax, "column"},
		{"control character", "{\"cli\nent\":1}", ErrSyntax, "no control character"},
		{"bad escape", `{"\x":1}`, ErrSyntax, "an escape that JSON has"},
		{"bad unicode", `{"\u12x4":1}`, ErrSyntax, "four hexadecimal digits"},
		{"deep", `{"reason":` + strings.Repeat("[", 1000), ErrSyntax, "nested too deeply"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c encoder.Conn
			err := Parse([]byte(tt.text), &c)
			if err == nil {
				t.Fatalf("accepted: %v", &c)
			}
			if tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %q, want it to say %q", err, tt.says)
			}
			var field *encoder.FieldError
			if fromEncoder := errors.As(err, &field); fromEncoder != (strings.HasPrefix(tt.says, "record") || errorOfEncoder(tt.is)) {
				t.Errorf("%v: a *encoder.FieldError: %v", err, fromEncoder)
			}
		})
	}
}

func errorOfEncoder(err error) bool {
	switch err {
	case encoder.ErrMixedFamilies, encoder.ErrTooLong, encoder.ErrEmpty, encoder.ErrNoPartner, encoder.ErrMalformed, encoder.ErrMandatory:
		return true
	}
	return false
}

func TestAppendStringTwin(t *testing.T) {
	for _, s := range []string{"", "plain", "\"\\/", "\x00\x1f\x7f\b\f\n\r\t", "é€😀", "\xff\xc3", "a\xe2\x80", "\u2028\u2029\u202a", "\ufffd"} {
		var want bytes.Buffer
		slow := json.NewEncoder(&want)
		slow.SetEscapeHTML(false)
		if err := slow.Encode(s); err != nil {
			t.Fatal(err)
		}
		if got := string(AppendString(nil, s)) + "\n"; got != want.String() {
			t.Errorf("%q: got %s, want %s", s, got, want.String())
		}
		if got := string(AppendString(nil, []byte(s))) + "\n"; got != want.String() {
			t.Errorf("%q as bytes: got %s, want %s", s, got, want.String())
		}
	}
}
