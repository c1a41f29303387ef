package procconn

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/ipvsync/ipvsync/encoder"
)

// Entry is one line.
type Entry struct {
	// Conn is the connection or template. Timeout is what is left of its life in
	// seconds, rounded up. Options hold engine data, until the next Read.
	encoder.Conn
	Origin string // LOCAL or SYNC; empty where the listing has no such column
}

// LineError says which line could not be used, and why. Reading goes on behind
// it.
type LineError struct {
	Line int // from 1
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap gives the cause.
func (e *LineError) Unwrap() error { return e.Err }

// ErrNotListing says that the input does not begin as the listing does.
var ErrNotListing = errors.New("no listing of connections: it should begin with \"Pro FromIP\"")

// Reader reads a listing, as lines arrive. It has one user at a time.
type Reader struct {
	r      *bufio.Reader
	line   int // that was read last
	origin bool

	// The line that comes next, if it was read to see that it does not belong to
	// the engine data of the one before, which the kernel prints as it is.
	ahead   []byte
	isAhead bool
}

// maxLine is more than a line can have: engine data are 255 bytes at the most.
const maxLine = 4 << 10

// NewReader reads from r. An error is r's, or ErrNotListing.
func NewReader(r io.Reader) (*Reader, error) {
	p := &Reader{r: bufio.NewReaderSize(r, 64<<10)}
	head, err := p.next()
	switch {
	case err == io.EOF, err == nil && !bytes.HasPrefix(head, []byte("Pro FromIP")):
		return nil, ErrNotListing
	case err != nil:
		return nil, err
	}
	p.origin = bytes.Contains(head, []byte("Origin"))
	return p, nil
}

// Read reads the next connection into e. A *LineError is the loss of one line:
// call Read again for the next. io.EOF is the end; any other error is the
// input's, and final.
func (p *Reader) Read(e *Entry) error {
	line, err := p.next()
	if err != nil {
		return err
	}
	number := p.line
	var l listed
	if err := l.parse(line, p.origin); err != nil {
		return &LineError{number, err}
	}
	if len(l.peName) > 0 {
		l.peName, l.peData = bytes.Clone(l.peName), bytes.Clone(l.peData)
		if err := p.moreData(&l); err != nil {
			return err
		}
	}
	if err := l.entry(e); err != nil {
		return &LineError{number, err}
	}
	return nil
}

// moreData adds lines to the engine data, up to one that is, or should have been, a
// connection: Read says what is wrong with that.
func (p *Reader) moreData(l *listed) error {
	for {
		line, err := p.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if meant(line) {
			p.ahead, p.isAhead = bytes.Clone(line), true
			return nil
		}
		l.peData = append(append(l.peData, '\n'), line...)
		if len(l.peData) > 255 {
			return nil // entry will refuse it
		}
	}
}

// next is the next line that is not blank, lent until the next call.
func (p *Reader) next() ([]byte, error) {
	if p.isAhead {
		p.isAhead = false
		return p.ahead, nil
	}
	for {
		line, err := p.r.ReadSlice('\n')
		if len(line) == 0 && err != nil {
			return nil, err
		}
		p.line++
		for err == bufio.ErrBufferFull { // no listing has such a line: parse refuses its head
			line = bytes.Clone(line[:min(len(line), maxLine)])
			_, err = p.r.ReadSlice('\n')
		}
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("line %d: %w", p.line, err)
		}
		line = bytes.TrimSuffix(line, []byte("\n"))
		if len(bytes.TrimSpace(line)) > 0 {
			return line, nil
		}
	}
}
