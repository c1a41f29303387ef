package ipvsync

import (
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
)

// SnapshotStats say what was written.
type SnapshotStats struct {
	Entries uint64
	Bytes   int64
}

// Snapshot writes every entry that is alive to w, in blocks with checksums,
// with what is left of its lifetime; docs/snapshot.md has the format. Updates go
// on meanwhile: each entry is as it was at one moment; none is there twice,
// unless it ended and came again; one that comes or ends while it is written may be
// in it or not. Options are written as they are.
//
// Each block, some 256 KB, is one Write. Errors are those of w, with the
// offset. SnapshotFile writes a file, safely.
func (t *Table) Snapshot(w io.Writer) (SnapshotStats, error) {
	return t.snapshot(w, time.Now())
}

func (t *Table) snapshot(w io.Writer, wall time.Time) (SnapshotStats, error) {
	defer runtime.KeepAlive(t)
	sw := snapWriter{w: w, table: t, base: t.since()}
	sw.write(appendSnapHeader(nil, wall))
	sw.begin()
	for i := range t.shards {
		s := &t.shards[i]
		for f, v6 := range [...]bool{false, true} {
			flag := ref(0)
			if v6 {
				flag = ref6
			}
			// Entries that come later may be new; those are not missed.
			for n := uint32(1); n <= s.arena[f].used.Load(); n++ {
				if s.imageToSnapshot(ref(n)|flag, v6, &sw) && sw.flush(snapBlockFill) != nil {
					return sw.stats, sw.err
				}
			}
		}
	}
	return sw.end()
}

// imageToSnapshot appends one entry, if it is alive.
func (s *tableShard) imageToSnapshot(r ref, v6 bool, sw *snapWriter) bool {
	for range patience {
		if alive, sure := s.tryImageToSnapshot(r, v6, sw); sure {
			return alive
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	alive, _ := s.tryImageToSnapshot(r, v6, sw)
	return alive
}

func (s *tableShard) tryImageToSnapshot(r ref, v6 bool, sw *snapWriter) (alive, sure bool) {
	var m image
	p := s.entry(r)
	if !m.load(p, v6) {
		return false, false
	}
	deadline := int64(m.deadline()) * int64(tableTick)
	if m.kind() == 0 || deadline <= sw.now {
		return false, true
	}
	var options encoder.Options
	if n := m.options(); n != 0 {
		options = s.side.get(n)
		if atomic.LoadUint64(p) != m[wVersion] {
			return false, false
		}
	}
	sw.block = snapImage(sw.block, &m, v6, deadline-sw.base, options)
	sw.entries++
	return true, true
}

// snapImage is appendSnapEntry out of the words of an entry: no Conn in between,
// whole words where the layout allows.
func snapImage(b []byte, m *image, v6 bool, left int64, options encoder.Options) []byte {
	n := len(b)
	if cap(b)-n < snapMost {
		b = append(make([]byte, 0, 2*cap(b)+snapMost), b...)
	}
	b = b[:n+snapEntry4]
	e := (*[snapEntry4]byte)(b[n:])
	// Kind and protocol (8 each), state, flags, options (16 each).
	first := m[wPorts]>>32&0xff<<8 | uint64(m.state())<<16 | uint64(m.flags()&0xffff)<<32 | uint64(len(options))<<48
	if v6 {
		first |= snapIPv6
	}
	binary.LittleEndian.PutUint64(e[0:], first)
	binary.LittleEndian.PutUint64(e[8:], m[wPorts]&0xffffffff|m[wPorts]>>48<<32)
	binary.LittleEndian.PutUint64(e[16:], m[wDest]>>32|m[wTimeout]<<32)
	binary.LittleEndian.PutUint64(e[24:], uint64(left))
	if !v6 { // addresses are in memory as on the wire
		binary.NativeEndian.PutUint64(e[32:], m[wAddrs])
		binary.NativeEndian.PutUint32(e[40:], uint32(m[wDest]))
	} else {
		b = b[:n+snapEntry6]
		for i := wClient6; i < wDest6+2; i++ {
			binary.NativeEndian.PutUint64(b[n+snapFixed+8*(i-wClient6):], m[i])
		}
	}
	return append(b, options...)
}

// snapWriter writes blocks.
type snapWriter struct {
	w       io.Writer
	table   *Table
	base    int64  // the moment of the snapshot in the time of the table
	now     int64  // at the begin of the block
	block   []byte // its head and entries so far
	entries uint32 // in it
	stats   SnapshotStats
	err     error
}

func (sw *snapWriter) begin() {
	if sw.block == nil {
		sw.block = make([]byte, 0, snapBlockFill+2*snapMost)
	}
	sw.block = sw.block[:snapBlockHead]
	sw.entries = 0
	sw.now = sw.table.since() // once a block: asking for the time costs as much as an entry
}

// flush writes the block if it has so many bytes.
func (sw *snapWriter) flush(least int) error {
	if len(sw.block) < least {
		return nil
	}
	sw.stats.Entries += uint64(sw.entries)
	sw.seal()
	sw.begin()
	return sw.err
}

// seal writes the block.
func (sw *snapWriter) seal() {
	binary.LittleEndian.PutUint32(sw.block[0:], uint32(len(sw.block)-snapBlockHead))
	binary.LittleEndian.PutUint32(sw.block[4:], sw.entries)
	sw.write(binary.LittleEndian.AppendUint64(sw.block, blockSum(sw.block, sw.stats.Bytes)))
}

// end writes what is left and the end block: no entries, and the number of all.
func (sw *snapWriter) end() (SnapshotStats, error) {
	if sw.entries > 0 {
		_ = sw.flush(0)
	}
	sw.block = binary.LittleEndian.AppendUint64(sw.block, sw.stats.Entries)
	sw.seal()
	return sw.stats, sw.err
}

func (sw *snapWriter) write(b []byte) {
	if sw.err != nil {
		return
	}
	n, err := sw.w.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		sw.err = fmt.Errorf("snapshot: write at byte %d: %w", sw.stats.Bytes+int64(n), err)
	}
	sw.stats.Bytes += int64(n)
}
