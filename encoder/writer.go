package encoder

import (
	"encoding/binary"
	"fmt"
)

// Writer lays out one message in a buffer of the caller's, from its first byte
// on. Init begins a message, Append and AppendRaw add records, Seal ends it;
// then Init begins the next. A Writer has one user at a time. The zero value
// needs Init first. It keeps the buffer between Init and Seal and allocates
// nothing.
type Writer struct {
	buf     []byte // the message so far; its capacity is the limit
	count   int
	version Version
	syncID  uint8
}

// Init begins a message of version v in buf, which the Writer writes to until
// Seal. The length of buf is the limit of the message, padding included:
// MinMessageSize to MaxMessageSize bytes, else ErrBuffer.
func (w *Writer) Init(buf []byte, v Version, syncID uint8) error {
	if len(buf) < MinMessageSize || len(buf) > MaxMessageSize {
		return fmt.Errorf("%w: %d bytes, want %d to %d", ErrBuffer, len(buf), MinMessageSize, MaxMessageSize)
	}
	if v > Version1 {
		return fmt.Errorf("version %d: %w: there are 0 and 1", v, ErrBuffer)
	}
	header := headerSizeV1
	if v == Version0 {
		header = headerSizeV0
	}
	*w = Writer{buf: buf[:header:len(buf)], version: v, syncID: syncID}
	return nil
}

// pad is how many zero bytes go before the next record: the kernel pads before
// a record, never after the last, and in version 0 not at all.
func (w *Writer) pad() int {
	if w.version == Version0 {
		return 0
	}
	return -len(w.buf) & (alignment - 1)
}

// Append encodes c as the next record. ErrFull says that it does not fit
// behind the others; a *FieldError that it cannot be encoded, or fits no
// message of this limit. In either case the message is as before.
func (w *Writer) Append(c *Conn) error {
	size := RecordSize(w.version, c)
	if !w.fits(size) {
		if w.count == 0 {
			return fieldError("record", ErrTooLong, "%d bytes do not fit into a message of %d", size, cap(w.buf))
		}
		return ErrFull
	}
	b, err := AppendRecord(w.grow(), w.version, c)
	if err != nil {
		return err
	}
	w.buf = b
	w.count++
	return nil
}

// AppendRaw copies rec, one record as AppendRecord made it for the same
// version, and says whether it fitted. rec is not checked and not retained.
func (w *Writer) AppendRaw(rec []byte) bool {
	if !w.fits(len(rec)) {
		return false
	}
	w.buf = append(w.grow(), rec...)
	w.count++
	return true
}

func (w *Writer) fits(size int) bool {
	return len(w.buf)+w.pad()+size <= cap(w.buf) && w.count < MaxRecords
}

// grow is the message with the padding that the next record needs. w.buf
// itself does not grow, so that a failed encoding changes nothing.
func (w *Writer) grow() []byte {
	n := w.pad()
	b := w.buf[:len(w.buf)+n]
	clear(b[len(w.buf):])
	return b
}

// Count is the number of records so far.
func (w *Writer) Count() int { return w.count }

// Size is the number of bytes so far, header included.
func (w *Writer) Size() int { return len(w.buf) }

// Seal writes the header and returns the message, a slice of the buffer that
// Init was given. A Writer that was not begun gives nil.
func (w *Writer) Seal() []byte {
	m := w.buf
	w.buf = nil
	switch {
	case m == nil:
	case w.version == Version0:
		m[0] = byte(w.count)
		m[1] = w.syncID
		binary.BigEndian.PutUint16(m[2:], uint16(len(m)))
	default:
		m[0] = 0
		m[1] = w.syncID
		binary.BigEndian.PutUint16(m[2:], uint16(len(m)))
		m[4] = byte(w.count)
		m[5] = protoVersion
		m[6], m[7] = 0, 0
	}
	return m
}
