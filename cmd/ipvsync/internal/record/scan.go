package record

import (
	"errors"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// errNotUTF8 is an error only where the string is kept.
var errNotUTF8 = errors.New("not valid UTF-8")

// maxDepth bounds the recursion over the values of ignored keys.
const maxDepth = 64

// scanner takes one JSON text apart, strictly as RFC 8259 has it. Slices that
// it returns lie in the text or in buf, and stay valid until reset.
type scanner struct {
	b   []byte
	i   int
	buf []byte // strings that had escapes; only grows while one text is read
}

func (s *scanner) reset(b []byte) { s.b, s.i, s.buf = b, 0, s.buf[:0] }

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

// peek is the next byte that is not space, 0 at the end. (A NUL in the text is
// no JSON either, so the two need not be told apart.)
func (s *scanner) peek() byte {
	s.space()
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scanner) take(c byte) bool {
	if s.peek() != c || s.i >= len(s.b) {
		return false
	}
	s.i++
	return true
}

func (s *scanner) want(what string) error {
	if s.i >= len(s.b) {
		return fmt.Errorf("%w: it ends where %s should be; one record is one line (jq -c)", ErrSyntax, what)
	}
	r, _ := utf8.DecodeRune(s.b[s.i:])
	return fmt.Errorf("%w: column %d: want %s, found %q", ErrSyntax, s.i+1, what, r)
}

func (s *scanner) expect(c byte) error {
	if !s.take(c) {
		return s.want(string([]byte{'\'', c, '\''}))
	}
	return nil
}

func (s *scanner) literal(word string) bool {
	s.space()
	if len(s.b)-s.i >= len(word) && string(s.b[s.i:s.i+len(word)]) == word {
		s.i += len(word)
		return true
	}
	return false
}

// object calls field for each key; field must consume the value.
func (s *scanner) object(field func(key []byte) error) error {
	if err := s.expect('{'); err != nil {
		return err
	}
	if s.take('}') {
		return nil
	}
	for {
		if s.peek() != '"' {
			return s.want("a key in quotes")
		}
		key, err := s.str()
		if err != nil {
			return err
		}
		if err := s.expect(':'); err != nil {
			return err
		}
		if err := field(key); err != nil {
			return err
		}
		if !s.take(',') {
			if s.take('}') {
				return nil
			}
			return s.want("',' or '}'")
		}
	}
}

// array calls item for each element; item must consume it.
func (s *scanner) array(item func(i int) error) error {
	if err := s.expect('['); err != nil {
		return err
	}
	if s.take(']') {
		return nil
	}
	for i := 0; ; i++ {
		if err := item(i); err != nil {
			return err
		}
		if !s.take(',') {
			if s.take(']') {
				return nil
			}
			return s.want("',' or ']'")
		}
	}
}

// str takes a string. Invalid UTF-8 and lone surrogates are kept as bytes that
// are not valid UTF-8, for the caller to refuse where it matters.
func (s *scanner) str() ([]byte, error) {
	if !s.take('"') {
		return nil, s.want("a string")
	}
	start := s.i
	for ; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return s.b[start : s.i-1], nil
		case c == '\\':
			return s.escaped(start)
		case c < ' ':
			return nil, s.want("no control character")
		}
	}
	return nil, s.want("the end of a string")
}

// escaped goes on with a string from its first backslash on.
func (s *scanner) escaped(start int) ([]byte, error) {
	at := len(s.buf)
	s.buf = append(s.buf, s.b[start:s.i]...)
	for s.i < len(s.b) {
		c := s.b[s.i]
		switch {
		case c == '"':
			s.i++
			return s.buf[at:len(s.buf):len(s.buf)], nil
		case c < ' ':
			return nil, s.want("no control character")
		case c != '\\':
			s.buf = append(s.buf, c)
			s.i++
			continue
		}
		s.i++
		if s.i >= len(s.b) {
			break
		}
		switch c = s.b[s.i]; c {
		case '"', '\\', '/':
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			s.i++
			if err := s.unicode(); err != nil {
				return nil, err
			}
			continue
		default:
			return nil, s.want("an escape that JSON has")
		}
		s.buf = append(s.buf, c)
		s.i++
	}
	return nil, s.want("the end of a string")
}

// unicode takes the digits after \u, and a second escape that makes a pair.
func (s *scanner) unicode() error {
	r, ok := s.hex4(s.i)
	if !ok {
		return s.want("four hexadecimal digits")
	}
	s.i += 4
	if utf16.IsSurrogate(r) {
		if s.i+1 < len(s.b) && s.b[s.i] == '\\' && s.b[s.i+1] == 'u' {
			if low, ok := s.hex4(s.i + 2); ok {
				if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
					s.i += 6
					s.buf = utf8.AppendRune(s.buf, pair)
					return nil
				}
			}
		}
		s.buf = append(s.buf, 0xff) // half a character: not valid UTF-8, on purpose
		return nil
	}
	s.buf = utf8.AppendRune(s.buf, r)
	return nil
}

func (s *scanner) hex4(i int) (r rune, ok bool) {
	if len(s.b)-i < 4 {
		return 0, false
	}
	for _, c := range s.b[i : i+4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// number takes a number of any form and returns its text.
func (s *scanner) number() ([]byte, error) {
	s.space()
	start := s.i
	digits := func() bool {
		from := s.i
		for s.i < len(s.b) && s.b[s.i]-'0' <= 9 {
			s.i++
		}
		return s.i > from
	}
	at := func(set string) bool {
		for k := range len(set) {
			if s.i < len(s.b) && s.b[s.i] == set[k] {
				s.i++
				return true
			}
		}
		return false
	}
	at("-")
	if !at("0") && !digits() {
		return nil, s.want("a number")
	}
	if at(".") && !digits() {
		return nil, s.want("a digit")
	}
	if at("eE") {
		at("+-")
		if !digits() {
			return nil, s.want("a digit")
		}
	}
	return s.b[start:s.i], nil
}

// uint takes an integer from 0 to limit.
func (s *scanner) uint(limit uint64) (n uint64, err error) {
	text, err := s.number()
	if err != nil {
		return 0, err
	}
	for _, c := range text {
		if c -= '0'; c > 9 {
			return 0, fmt.Errorf("%s: want an integer from 0 to %d", text, limit)
		}
		if n = n*10 + uint64(c); n > limit {
			return 0, fmt.Errorf("%s: want an integer from 0 to %d", text, limit)
		}
	}
	return n, nil
}

// skip takes a value of any kind.
func (s *scanner) skip(depth int) error {
	if depth == 0 {
		return fmt.Errorf("%w: nested too deeply", ErrSyntax)
	}
	switch c := s.peek(); {
	case c == '{':
		return s.object(func([]byte) error { return s.skip(depth - 1) })
	case c == '[':
		return s.array(func(int) error { return s.skip(depth - 1) })
	case c == '"':
		_, err := s.str()
		return err
	case c == '-' || c-'0' <= 9:
		_, err := s.number()
		return err
	case s.literal("true"), s.literal("false"), s.literal("null"):
		return nil
	}
	return s.want("a value")
}
