package ipvsync

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
)

// SnapshotReader reads the entries of a snapshot, one after the other. It has
// one user at a time.
type SnapshotReader struct {
	// Time is when the snapshot was taken, by the wall clock of its host.
	Time time.Time

	r       io.Reader
	offset  int64 // of the next block
	block   []byte
	rest    []byte // of the block's entries
	left    uint32 // entries in rest
	entries uint64
	err     error
}

// NewSnapshotReader reads the header. An error is a *SnapshotError.
func NewSnapshotReader(r io.Reader) (*SnapshotReader, error) {
	s := &SnapshotReader{r: r, block: make([]byte, snapHeaderSize)}
	h := s.block
	n, err := io.ReadFull(r, h)
	switch {
	case err != nil && err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF):
		return nil, &SnapshotError{Offset: int64(n), Msg: "read", Err: err}
	case !strings.HasPrefix(snapshotMagic, string(h[:min(n, len(snapshotMagic))])):
		return nil, &SnapshotError{Msg: "this is no snapshot", Foreign: true}
	case err != nil:
		return nil, &SnapshotError{Offset: int64(n), Msg: "cut off before the header"}
	}
	switch {
	case binary.LittleEndian.Uint16(h[8:]) != snapshotVersion:
		// Before the checksum, which another version may have elsewhere.
		return nil, &SnapshotError{Offset: 8, Msg: fmt.Sprintf("version %d; this program knows version %d",
			binary.LittleEndian.Uint16(h[8:]), snapshotVersion), Foreign: true}
	case binary.LittleEndian.Uint64(h[24:]) != xxhash.Sum64(h[:24]):
		return nil, &SnapshotError{Msg: "the header is damaged: its checksum is wrong"}
	case binary.LittleEndian.Uint16(h[10:]) != snapHeaderSize || binary.LittleEndian.Uint32(h[12:]) != 0:
		return nil, &SnapshotError{Offset: 10, Msg: "a header that version 1 does not have"}
	}
	s.Time = time.Unix(0, int64(binary.LittleEndian.Uint64(h[16:])))
	s.offset = snapHeaderSize
	return s, nil
}

// Read reads the next entry into e. Expires is what was left of its life at Time;
// Options are valid until the next Read. io.EOF is the end of a snapshot that is
// whole; any other error is a *SnapshotError, and final. An entry is given out only
// when its block's checksum was found right.
func (s *SnapshotReader) Read(e *Entry) error {
	for s.left == 0 && s.err == nil {
		s.err = s.next()
	}
	if s.err != nil {
		return s.err
	}
	n, err := parseSnapEntry(s.rest, e)
	if err != nil {
		s.err = s.fault("%v", err)
		return s.err
	}
	s.rest = s.rest[n:]
	s.entries++
	if s.left--; s.left == 0 && len(s.rest) > 0 {
		s.err = s.fault("%d bytes behind the entries of a block", len(s.rest))
		return s.err
	}
	return nil
}

// next reads a block.
func (s *SnapshotReader) next() error {
	start := s.offset
	if err := s.fill(s.block[:snapBlockHead], "the end block"); err != nil {
		return err
	}
	size, entries := binary.LittleEndian.Uint32(s.block), binary.LittleEndian.Uint32(s.block[4:])
	if size > snapMaxBlock || entries > size/snapEntry4 {
		s.offset = start
		return s.fault("a block of %d entries in %d bytes cannot be", entries, size)
	}
	total := snapBlockHead + int(size) + snapBlockTail
	if cap(s.block) < total {
		s.block = append(make([]byte, 0, max(total, snapBlockFill+4*snapMost)), s.block[:snapBlockHead]...)
	}
	s.block = s.block[:total]
	s.offset += snapBlockHead
	if err := s.fill(s.block[snapBlockHead:], "the rest of a block"); err != nil {
		return err
	}
	s.offset = start
	body := s.block[:snapBlockHead+size]
	if binary.LittleEndian.Uint64(s.block[len(body):]) != blockSum(body, start) {
		return s.fault("a block of %d bytes is damaged: its checksum is wrong", total)
	}
	s.rest, s.left = body[snapBlockHead:], entries
	if entries == 0 {
		return s.end(start + int64(total))
	}
	s.offset += int64(total)
	return nil
}

// end looks at the end block, which lies before offset.
func (s *SnapshotReader) end(offset int64) error {
	if len(s.rest) != snapEndSize || binary.LittleEndian.Uint64(s.rest) != s.entries {
		return s.fault("the end block does not go with %d entries", s.entries)
	}
	switch n, err := io.ReadFull(s.r, s.block[:1]); {
	case n > 0:
		return &SnapshotError{Offset: offset, Msg: "there is more behind the end"}
	case err != io.EOF:
		return &SnapshotError{Offset: offset, Msg: "read", Err: err}
	}
	return io.EOF
}

// fill reads all of b.
func (s *SnapshotReader) fill(b []byte, what string) error {
	n, err := io.ReadFull(s.r, b)
	switch {
	case err == nil:
		return nil
	case err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF):
		return &SnapshotError{Offset: s.offset + int64(n), Msg: "cut off before " + what}
	}
	return &SnapshotError{Offset: s.offset + int64(n), Msg: "read", Err: err}
}

func (s *SnapshotReader) fault(format string, args ...any) error {
	return &SnapshotError{Offset: s.offset, Msg: fmt.Sprintf(format, args...)}
}

// RestoreStats say what became of the entries of a snapshot. Kept and Loaded are
// told apart by the table's counters: right while nobody else loads.
//
//	Entries = Loaded + Kept + Over + Refused + Full
type RestoreStats struct {
	Entries uint64        // in the snapshot
	Loaded  uint64        // are in the table now
	Kept    uint64        // the table had a newer one of that key
	Over    uint64        // their life ended while the snapshot was away
	Refused uint64        // no backup can hold them
	Full    uint64        // the table has no room
	Time    time.Time     // when the snapshot was taken
	Away    time.Duration // since then, by the wall clock; 0 if that went backwards
	// ClockBack says that the snapshot is of the future: the wall clock was set
	// back, or is another host's. Lifetimes are then as they were at its time.
	ClockBack bool
}

// Restore loads the entries of a snapshot, whose lifetimes went on while it was
// away. It reads all of it before it changes anything: if it is damaged, cut off
// or no snapshot, the error is a *SnapshotError, and the table is as it was. A reader
// that is an io.Seeker is read twice, from where it stands; of another the bytes are
// kept in memory meanwhile.
//
// Entries that the table has already are newer, and stay. What does not fit is
// counted, and no error; see RestoreStats. Connections that no packet and no record
// finds (see Lookup) are not looked for either: restored twice, they are there twice.
func (t *Table) Restore(r io.Reader) (RestoreStats, error) {
	return t.restore(r, time.Now())
}

func (t *Table) restore(r io.Reader, wall time.Time) (RestoreStats, error) {
	begin := t.since() // the same moment as wall: reading takes time
	again, ok := r.(io.ReadSeeker)
	var start int64
	if ok {
		var err error
		if start, err = again.Seek(0, io.SeekCurrent); err != nil {
			ok = false // a pipe, as *os.File
		}
	}
	if !ok {
		var all bytes.Buffer
		if err := VerifySnapshot(io.TeeReader(r, &all)); err != nil {
			return RestoreStats{}, err
		}
		return t.load(&all, wall, begin)
	}
	if err := VerifySnapshot(again); err != nil {
		return RestoreStats{}, err
	}
	if _, err := again.Seek(start, io.SeekStart); err != nil {
		return RestoreStats{}, fmt.Errorf("snapshot: %w", err)
	}
	return t.load(again, wall, begin)
}

// IsSnapshot says whether what begins with head, eight bytes or more, is meant to
// be a snapshot.
func IsSnapshot(head []byte) bool { return bytes.HasPrefix(head, []byte(snapshotMagic)) }

// VerifySnapshot reads a snapshot to its end. An error is a *SnapshotError.
func VerifySnapshot(r io.Reader) error {
	s, err := NewSnapshotReader(r)
	for e := new(Entry); err == nil; {
		err = s.Read(e)
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// load loads the entries of a snapshot. wall and begin, of the table's clock, are
// the same moment.
func (t *Table) load(r io.Reader, wall time.Time, begin int64) (st RestoreStats, err error) {
	s, err := NewSnapshotReader(r)
	if err != nil {
		return st, err
	}
	st.Time = s.Time
	if st.Away = wall.Sub(s.Time); st.Away < 0 {
		st.Away, st.ClockBack = 0, true
	}
	kept := t.Stats().LoadsKept
	defer func() {
		st.Kept = t.Stats().LoadsKept - kept
		st.Loaded = st.Entries - st.Kept - st.Over - st.Refused - st.Full
	}()
	var e Entry
	for {
		if err := s.Read(&e); err == io.EOF {
			return st, nil
		} else if err != nil {
			return st, err
		}
		st.Entries++
		e.Expires -= st.Away + time.Duration(t.since()-begin)
		e.Options = bytes.Clone(e.Options)
		switch err := t.Load(e); {
		case errors.Is(err, ErrClosed):
			st.Refused++
			return st, fmt.Errorf("restore: %w", err)
		case errors.Is(err, ErrTableFull):
			st.Full++
		case err != nil:
			st.Refused++
		case e.Expires <= 0:
			st.Over++
		}
	}
}
