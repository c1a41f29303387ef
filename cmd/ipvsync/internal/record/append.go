package record

import (
	"encoding/base64"
	"strconv"
	"unicode/utf8"

	"github.com/ipvsync/ipvsync/encoder"
)

// Append appends c as one JSON object, without a newline, and returns the
// longer slice. refusal is why a Linux backup refuses the record; "" says that
// it accepts it. Nothing is retained. It allocates only if dst has no room, or
// for flags that have no name.
func Append(dst []byte, c *encoder.Conn, refusal string) []byte {
	dst = append(dst, `{"accepted":`...)
	dst = strconv.AppendBool(dst, refusal == "")
	dst = append(dst, `,"reason":`...)
	dst = AppendString(dst, refusal)
	dst = append(dst, `,"family":"`...)
	dst = append(dst, c.Family().String()...)
	dst = append(dst, `","protocol":"`...)
	dst = append(dst, c.Protocol.String()...)
	dst = append(dst, `","state":"`...)
	dst = append(dst, c.StateName()...)
	dst = append(dst, `","client":"`...)
	dst = AppendEndpoint(dst, c.Client)
	dst = append(dst, `","virtual":"`...)
	dst = AppendEndpoint(dst, c.Virtual)
	dst = append(dst, `","dest":"`...)
	dst = AppendEndpoint(dst, c.Dest)
	dst = append(dst, `","flags":[`...)
	dst = appendFlags(dst, c.Flags)
	dst = append(dst, `],"flags_raw":`...)
	dst = strconv.AppendUint(dst, uint64(c.Flags), 10)
	dst = append(dst, `,"fwmark":`...)
	dst = strconv.AppendUint(dst, uint64(c.Fwmark), 10)
	dst = append(dst, `,"timeout":`...)
	dst = strconv.AppendUint(dst, uint64(c.Timeout), 10)
	if len(c.Options) != 0 {
		dst = appendOptions(dst, c.Options)
	}
	return append(dst, '}')
}

func appendFlags(dst []byte, f encoder.Flags) []byte {
	var room [16]string // keeps the list off the heap
	for i, name := range f.AppendNames(room[:0]) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, '"')
		dst = append(dst, name...)
		dst = append(dst, '"')
	}
	return dst
}

func appendOptions(dst []byte, o encoder.Options) []byte {
	if in, out, ok := o.Seq(); ok {
		dst = append(dst, `,"seq":{"in":`...)
		dst = appendSeq(dst, in)
		dst = append(dst, `,"out":`...)
		dst = appendSeq(dst, out)
		dst = append(dst, '}')
	}
	name, data, _ := o.PE()
	switch {
	case name == nil:
	case utf8.Valid(name):
		dst = append(dst, `,"pe_name":`...)
		dst = AppendString(dst, name)
	default:
		dst = append(dst, `,"pe_name_base64":`...)
		dst = AppendBase64(dst, name)
	}
	if data != nil {
		dst = append(dst, `,"pe_data":`...)
		dst = AppendBase64(dst, data)
	}
	any := false
	for t, data := range o.All() {
		if t.Known() {
			continue
		}
		if any {
			dst = append(dst, ',')
		} else {
			dst = append(dst, `,"options":[`...)
			any = true
		}
		dst = append(dst, `{"type":`...)
		dst = strconv.AppendUint(dst, uint64(t), 10)
		dst = append(dst, `,"data":`...)
		dst = AppendBase64(dst, data)
		dst = append(dst, '}')
	}
	if any {
		dst = append(dst, ']')
	}
	return dst
}

func appendSeq(dst []byte, s encoder.Seq) []byte {
	dst = append(dst, `{"init":`...)
	dst = strconv.AppendUint(dst, uint64(s.Init), 10)
	dst = append(dst, `,"delta":`...)
	dst = strconv.AppendUint(dst, uint64(s.Delta), 10)
	dst = append(dst, `,"previous_delta":`...)
	dst = strconv.AppendUint(dst, uint64(s.PreviousDelta), 10)
	return append(dst, '}')
}

// AppendEndpoint appends e without quotes, as e.String() without its garbage.
func AppendEndpoint(dst []byte, e encoder.Endpoint) []byte {
	if e.Family != encoder.IPv4 && e.Family != encoder.IPv6 {
		return append(dst, e.String()...)
	}
	return e.AddrPort().AppendTo(dst)
}

// AppendBase64 appends b as a JSON string of standard base64.
func AppendBase64(dst, b []byte) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, b)
	return append(dst, '"')
}

// AppendString appends s as a JSON string, byte for byte what encoding/json
// makes of it when it does not escape for HTML: invalid UTF-8 becomes U+FFFD.
func AppendString[T string | []byte](dst []byte, s T) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		b := s[i]
		if b < utf8.RuneSelf {
			if b >= ' ' && b != '"' && b != '\\' {
				i++
				continue
			}
			dst = append(dst, s[start:i]...)
			switch b {
			case '"', '\\':
				dst = append(dst, '\\', b)
			case '\b':
				dst = append(dst, '\\', 'b')
			case '\f':
				dst = append(dst, '\\', 'f')
			case '\n':
				dst = append(dst, '\\', 'n')
			case '\r':
				dst = append(dst, '\\', 'r')
			case '\t':
				dst = append(dst, '\\', 't')
			default:
				dst = append(dst, '\\', 'u', '0', '0', hex[b>>4], hex[b&0xf])
			}
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRuneInString(string(s[i:min(len(s), i+utf8.UTFMax)]))
		switch {
		case r == utf8.RuneError && n == 1:
			dst = append(dst, s[start:i]...)
			dst = append(dst, `\ufffd`...)
			start = i + n
		case r == '\u2028' || r == '\u2029': // valid JSON, but not valid JavaScript
			dst = append(dst, s[start:i]...)
			dst = append(dst, '\\', 'u', '2', '0', '2', hex[r&0xf])
			start = i + n
		}
		i += n
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}
