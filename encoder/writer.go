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
	buf     []byte // the whole buffer; its length is the limit
	size    int    // bytes so far, header included
	count   int
	align   int // alignment of records, less one: 3, or in version 0, which has none, 0
	least   int // bytes of the shortest record
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
	// One by one: as a whole it takes three times as long.
	w.buf, w.count, w.version, w.syncID = buf, 0, v, syncID
	w.size, w.align, w.least = headerSizeV1, alignment-1, fixedSizeV4
	if v == Version0 {
		w.size, w.align, w.least = headerSizeV0, 0, simpleSizeV0
	}
	return nil
}

// place finds the place of a record of size bytes: where it begins, and whether
// it fits. The kernel pads before a record, never after the last.
func (w *Writer) place(size int) (at int, ok bool) {
	at = (w.size + w.align) &^ w.align
	return at, at+size <= len(w.buf) && w.count < MaxRecords
}

// advance makes the size bytes at at the next record.
func (w *Writer) advance(at, size int) {
	if at != w.size {
		clear(w.buf[w.size:at])
	}
	w.size = at + size
	w.count++
}

// Append encodes c as the next record. ErrFull says that it does not fit
// behind the others; a *FieldError that it cannot be encoded, or fits no
// message of this limit. In either case the message is as before.
func (w *Writer) Append(c *Conn) error {
	at, end := w.size, w.size+PlainIPv4Size
	if w.version != Version1 || at%alignment != 0 || end > len(w.buf) || w.count == MaxRecords || !c.PlainIPv4() {
		return w.appendAny(c)
	}
	b := (*[PlainIPv4Size]byte)(w.buf[at:end:end])
	putFixed((*[24]byte)(b[:]), c, plainFrame4)
	putAddrs4((*[12]byte)(b[24:]), c)
	w.size = end
	w.count++
	return nil
}

// appendAny is Append without the short cut.
func (w *Writer) appendAny(c *Conn) error {
	size := RecordSize(w.version, c)
	at, ok := w.place(size)
	if !ok {
		if w.count == 0 {
			return fieldError("record", ErrTooLong, "%d bytes do not fit into a message of %d", size, len(w.buf))
		}
		return ErrFull
	}
	if _, err := appendAny(w.buf[at:at], w.version, c); err != nil {
		return err
	}
	w.advance(at, size)
	return nil
}

// AppendRaw copies rec, one record as AppendRecord made it for the same
// version, and says whether it fitted. rec is not checked and not retained.
func (w *Writer) AppendRaw(rec []byte) bool {
	at, ok := w.place(len(rec))
	if !ok {
		return false
	}
	copy(w.buf[at:], rec)
	w.advance(at, len(rec))
	return true
}

// AppendPlainIPv4 is AppendRaw for a record of exactly PlainIPv4Size bytes where
// no padding is needed, small enough to be inlined; false leaves it to AppendRaw.
func (w *Writer) AppendPlainIPv4(rec []byte) bool {
	at := w.size
	if at&w.align != 0 || len(w.buf)-at < PlainIPv4Size || w.count == MaxRecords {
		return false
	}
	*(*[PlainIPv4Size]byte)(w.buf[at:]) = *(*[PlainIPv4Size]byte)(rec)
	w.size = at + PlainIPv4Size
	w.count++
	return true
}

// AppendPlainIPv4s is AppendRaw for records of exactly PlainIPv4Size bytes, back
// to back: it copies as many whole ones as fit, and returns how many.
func (w *Writer) AppendPlainIPv4s(recs []byte) int {
	at := (w.size + w.align) &^ w.align
	n := min(min(len(recs), len(w.buf)-at)/PlainIPv4Size, MaxRecords-w.count)
	if n <= 0 {
		return 0
	}
	if at != w.size {
		clear(w.buf[w.size:at])
	}
	copy(w.buf[at:], recs[:n*PlainIPv4Size])
	w.size = at + n*PlainIPv4Size
	w.count += n
	return n
}

// Full says that no record fits any more.
func (w *Writer) Full() bool {
	_, ok := w.place(w.least)
	return !ok
}

// Count is the number of records so far.
func (w *Writer) Count() int { return w.count }

// Size is the number of bytes so far, header included.
func (w *Writer) Size() int { return w.size }

// Seal writes the header and returns the message, a slice of the buffer that
// Init was given. A Writer that was not begun gives nil.
func (w *Writer) Seal() []byte {
	if w.buf == nil {
		return nil
	}
	m := w.buf[:w.size:len(w.buf)]
	w.buf = nil
	if w.version == Version0 {
		m[0] = byte(w.count)
		m[1] = w.syncID
		binary.BigEndian.PutUint16(m[2:], uint16(len(m)))
		return m
	}
	// 0, SyncID, size 16, count, version, 0, 0
	binary.BigEndian.PutUint64(m, uint64(w.syncID)<<48|uint64(len(m))<<32|uint64(w.count)<<24|protoVersion<<16)
	return m
}
