package ipvsync

import (
	"encoding/binary"
	"math/bits"
	"sync/atomic"

	"github.com/ipvsync/ipvsync/encoder"
)

// An entry is 8 words, one cache line, for IPv4, and 16 for IPv6. Every word has
// one writer, whoever holds the shard's mutex. Words 0 to 5 and 8 to 13 are read
// by anybody, under the version in word 0; word 6 by itself; word 7 by the writer
// alone.
//
//	0  version (32), lowest bit: being written; flags (16); state (8)
//	1  deadline in ticks (48), slot of the wheel in which it is linked (16)
//	2  timeout in seconds (32), place of the options (32)
//	3  IPv4: client address (32), virtual address (32)
//	4  client, virtual port (16 each), protocol (8), kind (8), destination port (16)
//	5  IPv4: destination address (32); firewall mark (32)
//	6  next older and next newer entry of the same key (32 each)
//	7  next and previous entry in the wheel's slot (32 each)
//	8  IPv6: client, 10: virtual, 12: destination address
//
// Addresses stand as they do in memory on the wire, the rest as numbers.
const (
	wVersion = iota
	wDeadline
	wTimeout
	wAddrs
	wPorts
	wDest
	wChain
	wWheel
	words4
	wClient6  = 8
	wVirtual6 = 10
	wDest6    = 12
	words6    = 16
)

const (
	entry4 = words4 * 8
	entry6 = words6 * 8

	deadlineBits = 48
	deadlineMask = 1<<deadlineBits - 1
	keyMask      = 1<<40 - 1 // of word 4: ports of client and virtual, protocol
)

// kind of an entry: who finds it. 0 is a free entry.
type kind uint8

const (
	kindConn     kind = 1 + iota // a connection with a client port
	kindNoCport                  // a connection found by any client port: 0 and NO_CPORT
	kindTemplate                 // a template without engine data
	kindEngine                   // a template with engine data, keyed by it
	kindLost                     // a connection that is never found again
)

// ref names an entry of a shard: its number, from 1 on, and the highest bit for
// IPv6. 0 is none.
type ref uint32

const ref6 ref = 1 << 31

// image is the words of an entry, copied.
type image [words6]uint64

func (m *image) flags() encoder.Flags { return encoder.Flags(m[wVersion] >> 32 & 0xffff) }
func (m *image) state() encoder.State { return encoder.State(m[wVersion] >> 48 & 0xff) }
func (m *image) deadline() uint64     { return m[wDeadline] & deadlineMask }
func (m *image) slot() uint64         { return m[wDeadline] >> deadlineBits }
func (m *image) options() uint32      { return uint32(m[wTimeout] >> 32) }
func (m *image) kind() kind           { return kind(m[wPorts] >> 40) }

// setLife fills words 0 to 2 but for the version and the slot, which stay.
func (m *image) setLife(f encoder.Flags, s encoder.State, deadline uint64, timeout, options uint32) {
	m[wVersion] = m[wVersion]&0xffffffff | uint64(f&0xffff)<<32 | uint64(s)<<48
	m[wDeadline] = m[wDeadline]&^deadlineMask | deadline
	m[wTimeout] = uint64(timeout) | uint64(options)<<32
}

func (m *image) setSlot(slot uint64) { m[wDeadline] = m[wDeadline]&deadlineMask | slot<<deadlineBits }

// bump moves the version on; the lowest bit stays clear.
func (m *image) bump() { m[wVersion] = m[wVersion]&^0xffffffff | uint64(uint32(m[wVersion])+2) }

// setIdentity fills the words that stay the same for an entry's life.
func (m *image) setIdentity(k *flowKey, c *Conn, kind kind) {
	m[wPorts] = k.ports | uint64(kind)<<40 | uint64(c.Dest.Port)<<48
	m[wAddrs] = 0
	m[wDest] = uint64(c.Fwmark) << 32
	if k.v6 {
		m[wClient6], m[wClient6+1], m[wVirtual6], m[wVirtual6+1] = k.client[0], k.client[1], k.virtual[0], k.virtual[1]
		m[wDest6], m[wDest6+1] = addr6(&c.Dest)
		return
	}
	m[wAddrs] = k.client[0]
	m[wDest] |= uint64(addr4(&c.Dest))
}

// has says whether the entry is of the key, apart from kind and engine data.
func (m *image) has(k *flowKey) bool {
	if m[wPorts]&keyMask != k.ports {
		return false
	}
	if !k.v6 {
		return m[wAddrs] == k.client[0]
	}
	return m[wClient6] == k.client[0] && m[wClient6+1] == k.client[1] &&
		m[wVirtual6] == k.virtual[0] && m[wVirtual6+1] == k.virtual[1]
}

// goesTo says whether the entry's destination is e.
func (m *image) goesTo(e *encoder.Endpoint, v6 bool) bool {
	if uint16(m[wPorts]>>48) != e.Port {
		return false
	}
	if !v6 {
		return uint32(m[wDest]) == addr4(e)
	}
	hi, lo := addr6(e)
	return m[wDest6] == hi && m[wDest6+1] == lo
}

// conn writes the entry to c, without options.
func (m *image) conn(v6 bool, c *Conn) {
	c.Protocol = encoder.Protocol(m[wPorts] >> 32)
	c.State, c.Flags = m.state(), m.flags()
	c.Fwmark, c.Timeout = uint32(m[wDest]>>32), uint32(m[wTimeout])
	c.Client.Port, c.Virtual.Port, c.Dest.Port = uint16(m[wPorts]), uint16(m[wPorts]>>16), uint16(m[wPorts]>>48)
	if !v6 {
		setAddr4(&c.Client, uint32(m[wAddrs]))
		setAddr4(&c.Virtual, uint32(m[wAddrs]>>32))
		setAddr4(&c.Dest, uint32(m[wDest]))
		return
	}
	setAddr6(&c.Client, m[wClient6], m[wClient6+1])
	setAddr6(&c.Virtual, m[wVirtual6], m[wVirtual6+1])
	setAddr6(&c.Dest, m[wDest6], m[wDest6+1])
}

func addr4(e *encoder.Endpoint) uint32 { return binary.NativeEndian.Uint32(e.Addr[:4]) }
func addr6(e *encoder.Endpoint) (hi, lo uint64) {
	return binary.NativeEndian.Uint64(e.Addr[:8]), binary.NativeEndian.Uint64(e.Addr[8:])
}

func setAddr4(e *encoder.Endpoint, a uint32) {
	e.Family, e.Addr = encoder.IPv4, [16]byte{}
	binary.NativeEndian.PutUint32(e.Addr[:4], a)
}

func setAddr6(e *encoder.Endpoint, hi, lo uint64) {
	e.Family = encoder.IPv6
	binary.NativeEndian.PutUint64(e.Addr[:8], hi)
	binary.NativeEndian.PutUint64(e.Addr[8:], lo)
}

// load copies the entry at p, if nobody writes it meanwhile. Word 7 is left out.
func (m *image) load(p *uint64, v6 bool) bool {
	version := atomic.LoadUint64(p)
	if version&1 != 0 {
		return false
	}
	m[wVersion] = version
	for i := wDeadline; i <= wChain; i++ {
		m[i] = atomic.LoadUint64(wordAfter(p, i))
	}
	if v6 {
		for i := wClient6; i < wDest6+2; i++ {
			m[i] = atomic.LoadUint64(wordAfter(p, i))
		}
	}
	return atomic.LoadUint64(p) == version
}

// flowKey is what entries are found by, in words.
type flowKey struct {
	ports   uint64    // as in word 4
	client  [2]uint64 // IPv4: client and virtual address in the first word
	virtual [2]uint64
	v6      bool
	hash    uint64
}

// set makes the key of a connection, without its hash.
func (k *flowKey) set(p encoder.Protocol, client, virtual *encoder.Endpoint) {
	k.ports = uint64(client.Port) | uint64(virtual.Port)<<16 | uint64(p)<<32
	if client.Family == encoder.IPv4 {
		k.v6 = false
		k.client[0] = uint64(addr4(client)) | uint64(addr4(virtual))<<32
		return
	}
	k.v6 = true
	k.client[0], k.client[1] = addr6(client)
	k.virtual[0], k.virtual[1] = addr6(virtual)
	if p == 0 {
		// A template of a service by firewall mark: the kernel keeps and
		// compares the first four bytes of the virtual address alone.
		var e encoder.Endpoint
		copy(e.Addr[:4], virtual.Addr[:4])
		k.virtual[0], k.virtual[1] = addr6(&e)
	}
}

// withoutCport is the key with client port 0.
func (k *flowKey) withoutCport(seed *hashSeed) flowKey {
	z := *k
	z.ports &^= 0xffff
	z.sum(seed)
	return z
}

// hashSeed makes a table's hash its own, so that nobody can choose addresses
// that meet in one bucket.
type hashSeed [4]uint64

// sum hashes the key by multiplying to 128 bits and folding, as wyhash does: for
// keys of a fixed few words it takes a third of the time of xxhash, which reads
// bytes of any number (BenchmarkTableHash).
func (k *flowKey) sum(s *hashSeed) {
	h := fold(k.client[0]^s[0], k.ports^s[1])
	if k.v6 {
		h = fold(h^k.client[1]^s[2], k.virtual[0]^s[3])
		h = fold(h^s[0], k.virtual[1]^s[2])
	}
	k.hash = fold(h^s[2], s[3])
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}
