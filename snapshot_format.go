package ipvsync

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/ipvsync/ipvsync/encoder"
)

// The format of a snapshot, docs/snapshot.md: a header, blocks of entries, an end
// block. All integers are little-endian.
const (
	snapshotMagic   = "ipvsync\x00"
	snapshotVersion = 1

	snapHeaderSize = 32 // magic 8, version 2, size 2, zero 4, wall clock 8, checksum 8
	snapBlockHead  = 8  // bytes of entries 4, entries 4
	snapBlockTail  = 8  // checksum
	snapMaxBlock   = 1 << 20
	snapBlockFill  = 256 << 10 // a block is written when it has as many bytes

	snapFixed   = 32 // of an entry, before its addresses
	snapEntry4  = snapFixed + 12
	snapEntry6  = snapFixed + 48
	snapMost    = snapEntry6 + encoder.MaxRecordSize
	snapIPv6    = 1 << 0 // in the first byte of an entry
	snapKnown   = snapIPv6
	snapEndSize = 8 // entries of the whole snapshot
)

// ErrSnapshot says that a snapshot is damaged, cut off, or not one.
var ErrSnapshot = errors.New("not a usable snapshot")

// SnapshotError says where in a snapshot something is wrong.
type SnapshotError struct {
	Offset int64 // in bytes from its begin: of the block that is damaged, or of the end of what is cut off
	Msg    string
	Err    error // of the reader, if it failed
	// Foreign says that it is no damaged snapshot but something else: another
	// kind of file, or a snapshot of another version. It is somebody's, whole
	// perhaps, and not to be replaced.
	Foreign bool
}

func (e *SnapshotError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("snapshot: byte %d: %s: %v", e.Offset, e.Msg, e.Err)
	}
	return fmt.Sprintf("snapshot: byte %d: %s", e.Offset, e.Msg)
}

// Unwrap gives ErrSnapshot, or the reader's error.
func (e *SnapshotError) Unwrap() error {
	if e.Err != nil {
		return e.Err
	}
	return ErrSnapshot
}

func appendSnapHeader(b []byte, wall time.Time) []byte {
	at := len(b)
	b = append(b, snapshotMagic...)
	b = binary.LittleEndian.AppendUint16(b, snapshotVersion)
	b = binary.LittleEndian.AppendUint16(b, snapHeaderSize)
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(wall.UnixNano()))
	return binary.LittleEndian.AppendUint64(b, xxhash.Sum64(b[at:]))
}

// blockSum is the checksum of a block at an offset: of its head, its entries, and
// of the place that it belongs to, so that none can be missing, moved or doubled.
func blockSum(block []byte, offset int64) uint64 {
	return xxhash.Sum64(block) ^ uint64(offset)*0x9e3779b97f4a7c15
}

// appendSnapEntry appends an entry; left is the end of its life, in nanoseconds
// from the snapshot's moment. It is the obvious twin of snapImage.
func appendSnapEntry(b []byte, c *Conn, left int64) []byte {
	kind := byte(0)
	if c.Client.Family == encoder.IPv6 {
		kind = snapIPv6
	}
	b = append(b, kind, byte(c.Protocol))
	b = binary.LittleEndian.AppendUint16(b, uint16(c.State))
	b = binary.LittleEndian.AppendUint16(b, uint16(c.Flags))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(c.Options)))
	b = binary.LittleEndian.AppendUint16(b, c.Client.Port)
	b = binary.LittleEndian.AppendUint16(b, c.Virtual.Port)
	b = binary.LittleEndian.AppendUint16(b, c.Dest.Port)
	b = append(b, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, c.Fwmark)
	b = binary.LittleEndian.AppendUint32(b, c.Timeout)
	b = binary.LittleEndian.AppendUint64(b, uint64(left))
	n := 4
	if kind == snapIPv6 {
		n = 16
	}
	b = append(b, c.Client.Addr[:n]...)
	b = append(b, c.Virtual.Addr[:n]...)
	b = append(b, c.Dest.Addr[:n]...)
	return append(b, c.Options...)
}

// parseSnapEntry reads an entry from the begin of b and gives its size.
func parseSnapEntry(b []byte, e *Entry) (n int, err error) {
	if len(b) < snapFixed {
		return 0, errors.New("an entry is cut off")
	}
	kind := b[0]
	if kind&^byte(snapKnown) != 0 || b[14] != 0 || b[15] != 0 {
		return 0, fmt.Errorf("an entry of unknown kind %#02x", kind)
	}
	family, size, addr := encoder.IPv4, snapEntry4, 4
	if kind&snapIPv6 != 0 {
		family, size, addr = encoder.IPv6, snapEntry6, 16
	}
	options := int(binary.LittleEndian.Uint16(b[6:]))
	if len(b) < size+options {
		return 0, errors.New("an entry is cut off")
	}
	*e = Entry{}
	c := &e.Conn
	c.Protocol = encoder.Protocol(b[1])
	c.State = encoder.State(binary.LittleEndian.Uint16(b[2:]))
	c.Flags = encoder.Flags(binary.LittleEndian.Uint16(b[4:]))
	c.Client.Port = binary.LittleEndian.Uint16(b[8:])
	c.Virtual.Port = binary.LittleEndian.Uint16(b[10:])
	c.Dest.Port = binary.LittleEndian.Uint16(b[12:])
	c.Fwmark = binary.LittleEndian.Uint32(b[16:])
	c.Timeout = binary.LittleEndian.Uint32(b[20:])
	e.Expires = time.Duration(binary.LittleEndian.Uint64(b[24:]))
	at := snapFixed
	for _, p := range [...]*encoder.Endpoint{&c.Client, &c.Virtual, &c.Dest} {
		p.Family = family
		copy(p.Addr[:addr], b[at:])
		at += addr
	}
	if options > 0 {
		c.Options = b[size : size+options : size+options]
		// Not worth a fast way: few entries have any.
		if _, err := encoder.AppendRecord(nil, encoder.Version1, c); err != nil {
			return 0, fmt.Errorf("an entry that cannot be: %w", err)
		}
	}
	return size + options, nil
}
