package record

import (
	"encoding/binary"
	"encoding/json"
	"testing"

	"github.com/ipvsync/ipvsync/encoder"
)

// FuzzParse: no text makes Parse panic; what it accepts is JSON, means the
// same to encoding/json, and survives Append and Parse.
func FuzzParse(f *testing.F) {
	f.Add([]byte(sampleText))
	f.Add([]byte(minimal))
	f.Add([]byte(`{"client":"[2001:db8::1]:1","virtual":"[::1]:2","dest":"[::]:3","protocol":17,"state":0,"pe_name_base64":"6Q==","pe_data":"QQ==","reason":[{"a":null,"b":-1.5e+3}]}`))
	f.Add([]byte(`{"\u0063lient":"\ud83d\ude00","flags":["0x10"],"flags_raw":null,"options":[{"type":255,"data":"AA=="}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var c encoder.Conn
		if Parse(text, &c) != nil {
			return
		}
		if !json.Valid(text) {
			t.Fatalf("accepted, but no JSON: %s", text)
		}
		slow, err := slowParse(text)
		if err != nil || !same(slow, c) {
			t.Fatalf("%v\ntext %s\ngot  %v\nslow %v", err, text, &c, &slow)
		}
		var again encoder.Conn
		out := Append(nil, &c, "")
		if err := Parse(out, &again); err != nil || !again.Equal(&c) {
			t.Fatalf("%v\ntext  %s\nfirst %v\nagain %v", err, out, &c, &again)
		}
	})
}

// FuzzRoundTrip: every record that a Linux backup accepts comes back from JSON
// with the same meaning, and every other one is at least valid JSON.
func FuzzRoundTrip(f *testing.F) {
	c := sample(f)
	for _, v := range []encoder.Version{encoder.Version0, encoder.Version1} {
		var w encoder.Writer
		if err := w.Init(make([]byte, encoder.DefaultMaxSize), v, 7); err != nil {
			f.Fatal(err)
		}
		if v == encoder.Version0 {
			c.Flags |= encoder.FlagInSeq
		}
		if err := w.Append(&c); err != nil {
			f.Fatal(err)
		}
		f.Add(w.Seal())
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) >= 4 && len(msg) <= 65535 {
			msg = append([]byte(nil), msg...)
			binary.BigEndian.PutUint16(msg[2:], uint16(len(msg))) // past the first gate
		}
		d := encoder.Decoder{Lenient: true}
		d.Open(msg)
		var c, back encoder.Conn
		for {
			reason, ok := d.Next(&c)
			if !ok {
				return
			}
			refusal := ""
			if reason != encoder.Accepted {
				refusal = reason.String()
			}
			text := Append(nil, &c, refusal)
			if !json.Valid(text) {
				t.Fatalf("no JSON: %s", text)
			}
			if err := Parse(text, &back); reason == encoder.Accepted && (err != nil || !same(back, c)) {
				t.Fatalf("%v\ntext %s\ngot  %v\nwant %v", err, text, &back, &c)
			}
		}
	})
}
