package record

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/ipvsync/ipvsync/encoder"
)

// What is wrong with a line. What only the wire forbids is an
// *encoder.FieldError instead, which names the key as well.
var (
	ErrSyntax     = errors.New("not a JSON object")
	ErrMissing    = errors.New("missing")
	ErrUnknownKey = errors.New("unknown key")
	ErrTwice      = errors.New("given twice")
)

// KeyError names the key whose value cannot be used.
type KeyError struct {
	Key string // as in the JSON text; "seq.in.init" for a nested one
	Err error
}

// Error does not name the key twice if the cause begins with it.
func (e *KeyError) Error() string {
	msg := e.Err.Error()
	if strings.HasPrefix(msg, e.Key+" ") || strings.HasPrefix(msg, e.Key+":") {
		return msg
	}
	return e.Key + ": " + msg
}

// Unwrap gives the cause.
func (e *KeyError) Unwrap() error { return e.Err }

// Parse reads one JSON object into c and replaces all of it; the capacity of
// c.Options is used again. After an error c holds anything. text is not
// retained. Whatever it accepts can be encoded in version 1.
func Parse(text []byte, c *encoder.Conn) error {
	var p parser
	return p.parse(text, c)
}

// The keys, as bits of what has been seen.
const (
	hasAccepted = 1 << iota
	hasReason
	hasFamily
	hasProtocol
	hasState
	hasClient
	hasVirtual
	hasDest
	hasFlags
	hasFlagsRaw
	hasFwmark
	hasTimeout
	hasSeq
	hasPEName
	hasPEName64
	hasPEData
	hasOptions
	hasExpires
)

func keyBit(key []byte) uint {
	switch string(key) {
	case "accepted":
		return hasAccepted
	case "reason":
		return hasReason
	case "family":
		return hasFamily
	case "expires":
		return hasExpires
	case "protocol":
		return hasProtocol
	case "state":
		return hasState
	case "client":
		return hasClient
	case "virtual":
		return hasVirtual
	case "dest":
		return hasDest
	case "flags":
		return hasFlags
	case "flags_raw":
		return hasFlagsRaw
	case "fwmark":
		return hasFwmark
	case "timeout":
		return hasTimeout
	case "seq":
		return hasSeq
	case "pe_name":
		return hasPEName
	case "pe_name_base64":
		return hasPEName64
	case "pe_data":
		return hasPEData
	case "options":
		return hasOptions
	}
	return 0
}

// parser holds what must wait until the whole object is known: the meaning of
// the state depends on protocol and flags, and the options have an order.
type parser struct {
	s       scanner
	seen    uint // keys that came, null or not
	has     uint // keys that came with a value
	names   []string
	flags   encoder.Flags // of "flags"
	state   []byte
	in, out encoder.Seq
	peName  []byte
	peData  []byte
	others  []option
	wire    []byte // to see whether the record can be encoded
}

type option struct {
	kind uint8
	data []byte
}

func (p *parser) parse(text []byte, c *encoder.Conn) error {
	*p = parser{s: p.s, names: p.names[:0], others: p.others[:0], wire: p.wire[:0]}
	p.s.reset(text)
	*c = encoder.Conn{Options: c.Options[:0]}
	if err := p.s.object(func(key []byte) error { return p.key(key, c) }); err != nil {
		return err
	}
	if p.s.peek(); p.s.i < len(text) {
		return p.s.want("nothing after the record")
	}
	if err := p.finish(c); err != nil {
		return err
	}
	var err error
	p.wire, err = encoder.AppendRecord(p.wire, encoder.Version1, c)
	return err
}

func (p *parser) key(key []byte, c *encoder.Conn) error {
	bit := keyBit(key)
	switch {
	case bit == 0 && (string(key) == "packet" || string(key) == "records"):
		return &KeyError{string(key), fmt.Errorf("%w: this is a message, take its records: jq -c '.records[]'", ErrUnknownKey)}
	case bit == 0:
		return &KeyError{strconv.Quote(string(key)), ErrUnknownKey}
	case p.seen&bit != 0:
		return &KeyError{string(key), ErrTwice}
	}
	p.seen |= bit
	if p.s.literal("null") {
		return nil
	}
	p.has |= bit
	if err := p.value(bit, c); err != nil {
		if k := (*KeyError)(nil); errors.As(err, &k) {
			return err
		}
		return &KeyError{string(key), err}
	}
	return nil
}

func (p *parser) value(bit uint, c *encoder.Conn) (err error) {
	switch bit {
	case hasAccepted, hasReason, hasFamily, hasExpires:
		return p.s.skip(maxDepth)
	case hasProtocol:
		text, err := p.word()
		if err != nil {
			return err
		}
		c.Protocol, err = encoder.ParseProtocol(string(text))
		return err
	case hasState:
		p.state, err = p.word()
		return err
	case hasClient:
		return p.endpoint(&c.Client)
	case hasVirtual:
		return p.endpoint(&c.Virtual)
	case hasDest:
		return p.endpoint(&c.Dest)
	case hasFlags:
		err = p.s.array(func(int) error {
			name, err := p.s.str()
			p.names = append(p.names, string(name))
			return err
		})
		if err == nil {
			p.flags, err = encoder.ParseFlags(p.names)
		}
		return err
	case hasFlagsRaw:
		return p.uint32((*uint32)(&c.Flags))
	case hasFwmark:
		return p.uint32(&c.Fwmark)
	case hasTimeout:
		return p.uint32(&c.Timeout)
	case hasSeq:
		return p.seq()
	case hasPEName:
		p.peName, err = p.s.str()
		if err == nil && !utf8.Valid(p.peName) {
			return fmt.Errorf("%w; pe_name_base64 carries any bytes", errNotUTF8)
		}
		return err
	case hasPEName64:
		p.peName, err = p.base64()
		return err
	case hasPEData:
		p.peData, err = p.base64()
		return err
	}
	return p.options()
}

// finish sets what depends on several keys.
func (p *parser) finish(c *encoder.Conn) (err error) {
	for _, must := range [...]struct {
		bit uint
		key string
	}{{hasClient, "client"}, {hasVirtual, "virtual"}, {hasDest, "dest"}, {hasProtocol, "protocol"}} {
		if p.has&must.bit == 0 {
			return &KeyError{must.key, ErrMissing}
		}
	}
	if p.has&hasFlagsRaw == 0 {
		c.Flags = p.flags
	}
	if p.has&hasState == 0 {
		c.State = defaultState(c)
	} else if c.State, err = encoder.ParseState(c.Protocol, c.Flags, string(p.state)); err != nil {
		return &KeyError{"state", err}
	}
	if p.has&hasSeq != 0 {
		if c.Options, err = c.Options.AppendSeq(p.in, p.out); err != nil {
			return err
		}
	}
	if p.has&hasPEName != 0 && p.has&hasPEName64 != 0 {
		return &KeyError{"pe_name", fmt.Errorf("%w, as pe_name_base64 too", ErrTwice)}
	}
	if p.has&(hasPEName|hasPEName64|hasPEData) != 0 {
		if c.Options, err = c.Options.AppendPE(string(p.peName), p.peData); err != nil {
			return err
		}
	}
	for _, o := range p.others {
		if c.Options, err = c.Options.AppendUnknown(encoder.OptionType(o.kind), o.data); err != nil {
			return err
		}
	}
	return nil
}

// defaultState is what a record without a state is taken for.
func defaultState(c *encoder.Conn) encoder.State {
	switch {
	case c.Template():
		return encoder.TemplateNone
	case c.Protocol == encoder.TCP:
		return encoder.TCPEstablished
	case c.Protocol == encoder.SCTP:
		return encoder.SCTPEstablished
	}
	return 0
}

// word takes a name in quotes, or a number.
func (p *parser) word() ([]byte, error) {
	if p.s.peek() == '"' {
		return p.s.str()
	}
	return p.s.number()
}

func (p *parser) uint32(v *uint32) error {
	n, err := p.s.uint(math.MaxUint32)
	*v = uint32(n)
	return err
}

func (p *parser) endpoint(e *encoder.Endpoint) error {
	text, err := p.s.str()
	if err != nil {
		return err
	}
	ap, err := netip.ParseAddrPort(string(text))
	switch {
	case err != nil:
		return fmt.Errorf("%q: want address and port, 10.0.0.1:80 or [2001:db8::1]:80", text)
	case ap.Addr().Zone() != "":
		return fmt.Errorf("%q: the wire has no room for a zone", text)
	}
	*e = encoder.EndpointFrom(ap)
	return nil
}

func (p *parser) base64() ([]byte, error) {
	text, err := p.s.str()
	if err != nil {
		return nil, err
	}
	return base64.StdEncoding.AppendDecode(nil, text)
}

// fields reads a nested object; take reads the value of the key with index i.
func (p *parser) fields(path string, keys []string, take func(i int) error) error {
	var seen uint
	return p.s.object(func(key []byte) error {
		for i, k := range keys {
			if string(key) != k {
				continue
			}
			name := path + "." + k
			if seen&(1<<i) != 0 {
				return &KeyError{name, ErrTwice}
			}
			seen |= 1 << i
			if p.s.literal("null") {
				return nil
			}
			err := take(i)
			if nested := (*KeyError)(nil); err != nil && !errors.As(err, &nested) {
				return &KeyError{name, err}
			}
			return err
		}
		return &KeyError{path + "." + string(key), ErrUnknownKey}
	})
}

func (p *parser) seq() error {
	both := [...]*encoder.Seq{&p.in, &p.out}
	directions := []string{"in", "out"}
	return p.fields("seq", directions, func(i int) error {
		s := both[i]
		return p.fields("seq."+directions[i], []string{"init", "delta", "previous_delta"}, func(k int) error {
			return p.uint32([...]*uint32{&s.Init, &s.Delta, &s.PreviousDelta}[k])
		})
	})
}

func (p *parser) options() error {
	return p.s.array(func(n int) error {
		path := "options[" + strconv.Itoa(n) + "]"
		var o option
		typed := false
		err := p.fields(path, []string{"type", "data"}, func(i int) (err error) {
			if i == 1 {
				o.data, err = p.base64()
				return err
			}
			kind, err := p.s.uint(math.MaxUint8)
			o.kind, typed = uint8(kind), true
			return err
		})
		if err == nil && !typed {
			err = &KeyError{path + ".type", ErrMissing}
		}
		p.others = append(p.others, o)
		return err
	})
}
