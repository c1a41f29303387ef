package ipvsync

import (
	"encoding/binary"
	"math/bits"

	"github.com/cespare/xxhash/v2"

	"github.com/ipvsync/ipvsync/encoder"
)

// flowHash is the xxhash of the flow's key: protocol, client and virtual
// endpoint, as in the kernel's table (struct ip_vs_conn_param).
func flowHash(c *Conn) uint64 {
	ports := uint64(c.Client.Port)<<48 | uint64(c.Virtual.Port)<<32 | uint64(c.Protocol)
	if c.Client.Family == encoder.IPv4 {
		return xxhash16(uint64(binary.LittleEndian.Uint32(c.Client.Addr[:]))<<32|uint64(binary.LittleEndian.Uint32(c.Virtual.Addr[:])), ports)
	}
	var key [40]byte
	copy(key[0:16], c.Client.Addr[:])
	copy(key[16:32], c.Virtual.Addr[:])
	binary.LittleEndian.PutUint64(key[32:], ports)
	return xxhash.Sum64(key[:])
}

// xxhash16 is xxhash.Sum64 of two little-endian words, which the library would
// have to be given in memory: a tenth of Sender.Publish.
// https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md, XXH64.
func xxhash16(a, b uint64) uint64 {
	const (
		p1 = 0x9e3779b185ebca87
		p2 = 0xc2b2ae3d27d4eb4f
		p3 = 0x165667b19e3779f9
		p4 = 0x85ebca77c2b2ae63
		p5 = 0x27d4eb2f165667c5
	)
	h := uint64(p5 + 16)
	h ^= bits.RotateLeft64(a*p2, 31) * p1
	h = bits.RotateLeft64(h, 27)*p1 + p4
	h ^= bits.RotateLeft64(b*p2, 31) * p1
	h = bits.RotateLeft64(h, 27)*p1 + p4
	h ^= h >> 33
	h *= p2
	h ^= h >> 29
	h *= p3
	return h ^ h>>32
}
