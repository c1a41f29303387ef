package record

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ipvsync/ipvsync/encoder"
)

// MaxLine is the most bytes of one line, without its newline. The largest
// record takes some six thousand.
const MaxLine = 1 << 20

// ErrLineTooLong says that a line has more than MaxLine bytes.
var ErrLineTooLong = fmt.Errorf("line longer than %d bytes", MaxLine)

// LineError says which line could not be used, and why. Reading goes on behind
// it.
type LineError struct {
	Line int // from 1
	Err  error
}

func (e *LineError) Error() string {
	text := e.Err.Error() // may quote what it found, which may be long
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "") + "…"
	}
	return fmt.Sprintf("line %d: %s", e.Line, text)
}

// maxErrorText is the most bytes that an error shows of what is wrong.
const maxErrorText = 300

// Unwrap gives the cause.
func (e *LineError) Unwrap() error { return e.Err }

// Reader reads records, one a line, as they arrive: it never waits for more
// than the line that it returns. Blank lines are skipped but counted. It has
// one user at a time.
type Reader struct {
	r    *bufio.Reader
	p    parser
	long []byte // a line that did not fit into the buffer of r
	line int
}

// NewReader reads from r.
func NewReader(r io.Reader) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, 64<<10)}
}

// Line is the number of the line that was read last.
func (r *Reader) Line() int { return r.line }

// Read reads the next record into c, as Parse does. A *LineError is the loss
// of one line: call Read again for the next. io.EOF is the end; any other
// error is the input's, and final. A last line needs no newline.
func (r *Reader) Read(c *encoder.Conn) error {
	for {
		line, err := r.next()
		if err != nil && err != ErrLineTooLong {
			if err == io.EOF || len(line) == 0 {
				return err
			}
			// The input failed in the middle of a line: half a line is no
			// record, even if it happens to look like one.
			return fmt.Errorf("line %d: %w", r.line, err)
		}
		if err != nil {
			return &LineError{r.line, err}
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		if err := r.p.parse(line, c); err != nil {
			return &LineError{r.line, err}
		}
		return nil
	}
}

// next is the next line, lent until the next call. io.EOF comes alone.
func (r *Reader) next() ([]byte, error) {
	r.long = r.long[:0]
	tooLong, begun := false, false
	for {
		part, err := r.r.ReadSlice('\n')
		if len(part) > 0 && !begun {
			begun = true
			r.line++
		}
		full := errors.Is(err, bufio.ErrBufferFull)
		if err == nil {
			part = part[:len(part)-1]
		}
		tooLong = tooLong || len(r.long)+len(part) > MaxLine
		switch {
		case err == io.EOF && !begun:
			return nil, io.EOF
		case err != nil && err != io.EOF && !full:
			return part, err
		case tooLong && !full:
			r.long = nil // a megabyte is not worth keeping for the next one
			return nil, ErrLineTooLong
		case tooLong:
			continue
		case len(r.long) == 0 && !full:
			return part, nil
		}
		r.long = append(r.long, part...)
		if !full {
			return r.long, nil
		}
	}
}
