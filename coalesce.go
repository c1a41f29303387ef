package ipvsync

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"github.com/ipvsync/ipvsync/encoder"
)

// Bounds of the memory of a window, in bytes.
const (
	minWindow = 4 << 10
	maxWindow = 16 << 20
)

// window is where records wait, in the order in which they came, and where an
// update of a flow replaces an earlier one: the last state wins. It works on
// records as they are on the wire, and has one user.
//
// A record replaces only the latest one of its flow, and only if nothing is lost
// by it: same destination, same options. A flow that closes and is opened anew
// with another destination stays two records, and what comes after goes to the
// second.
type window struct {
	buf   []byte
	used  int
	recs  []span // in order of arrival
	out   int    // those before it have left
	index []int32
	at    field
	// merged counts replacements since takeMerged.
	merged uint64
}

// span is where a record lies in the window.
type span struct{ from, to int32 }

// field is where a version of the protocol has what a window must look at.
type field struct {
	fixed4, fixed6 int // bytes of a record without options
	ports          int // offset of client, virtual and destination port
	addresses      int // offset of client, virtual and destination address
}

var fields = map[encoder.Version]field{
	encoder.Version0: {fixed4: 24, ports: 2, addresses: 8},
	encoder.Version1: {fixed4: 36, fixed6: 72, ports: 10, addresses: 24},
}

func newWindow(size int, v encoder.Version) *window {
	records := size / fields[v].fixed4
	slots := 1
	for slots < 2*records {
		slots *= 2
	}
	return &window{buf: make([]byte, size), recs: make([]span, 0, records), index: make([]int32, slots), at: fields[v]}
}

// put lets rec wait, or replaces an earlier one by it; false if the window is
// full, or is being emptied. rec is copied.
func (w *window) put(rec []byte) bool {
	if w.out > 0 {
		return false
	}
	var keyBuf [48]byte
	key := w.key(&keyBuf, rec)
	slot := int(xxhash.Sum64(key)) & (len(w.index) - 1)
	for ; w.index[slot] != 0; slot = (slot + 1) & (len(w.index) - 1) {
		s := w.recs[w.index[slot]-1]
		old := w.buf[s.from:s.to]
		var oldBuf [48]byte
		if string(w.key(&oldBuf, old)) != string(key) {
			continue
		}
		if w.replaces(old, rec) {
			copy(old, rec)
			w.merged++
			return true
		}
		break // the latest of the flow from now on
	}
	if w.used+len(rec) > len(w.buf) || len(w.recs) == cap(w.recs) {
		return false
	}
	copy(w.buf[w.used:], rec)
	w.recs = append(w.recs, span{int32(w.used), int32(w.used + len(rec))})
	w.used += len(rec)
	w.index[slot] = int32(len(w.recs))
	return true
}

// ipv6 says whether rec is of IPv6, which version 0 has not.
func (w *window) ipv6(rec []byte) bool { return w.at.fixed6 != 0 && rec[0]&1 != 0 }

// key is what tells connections apart (struct ip_vs_conn_param): family,
// protocol, template or not, client and virtual endpoint.
func (w *window) key(buf *[48]byte, rec []byte) []byte {
	var template byte
	if w.at.fixed6 != 0 { // version 1
		template = byte(encoder.Flags(binary.BigEndian.Uint32(rec[4:])) & encoder.FlagTemplate >> 8)
	} else {
		template = byte(encoder.Flags(binary.BigEndian.Uint16(rec[20:])) & encoder.FlagTemplate >> 8)
	}
	addresses := 2 * 4
	if w.ipv6(rec) {
		addresses = 2 * 16
	}
	key := append(buf[:0], byte(addresses), rec[1], template)
	key = append(key, rec[w.at.ports:w.at.ports+4]...)
	return append(key, rec[w.at.addresses:w.at.addresses+addresses]...)
}

// replaces says whether nothing is lost if now, a later record of the same flow,
// takes the place of old.
func (w *window) replaces(old, now []byte) bool {
	if len(old) != len(now) {
		return false
	}
	fixed, addr := w.at.fixed4, 4
	if w.ipv6(now) {
		fixed, addr = w.at.fixed6, 16
	}
	port, dest := w.at.ports+4, w.at.addresses+2*addr
	return string(old[port:port+2]) == string(now[port:port+2]) &&
		string(old[dest:dest+addr]) == string(now[dest:dest+addr]) &&
		string(old[fixed:]) == string(now[fixed:])
}

// first is the first record that has not left, nil if there is none. It is lent
// until next.
func (w *window) first() []byte {
	if w.out == len(w.recs) {
		return nil
	}
	s := w.recs[w.out]
	return w.buf[s.from:s.to]
}

// next lets the first record leave.
func (w *window) next() { w.out++ }

// left is the number of records that have not left.
func (w *window) left() int { return len(w.recs) - w.out }

// reset makes the window empty.
func (w *window) reset() {
	if len(w.recs) == 0 {
		return
	}
	w.used, w.out, w.recs = 0, 0, w.recs[:0]
	clear(w.index)
}

// takeMerged is the number of replacements since the last call.
func (w *window) takeMerged() uint64 {
	n := w.merged
	w.merged = 0
	return n
}
