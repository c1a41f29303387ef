package xsk

// All unsafe of the UDP transport is in this file. Why it is sound:
//
//   - sendmmsg, recvmmsg and recvmsg read and write a message header and what it
//     points to. The headers here are typed Go structs whose pointers the
//     collector sees and which belong to heap objects that do not move. They are
//     set once, when a transport is opened, to buffers that live as long as it.
//   - Lengths in headers and vectors are never greater than those buffers: they
//     are set from len() of the same slice.
//   - unsafe.Pointer becomes uintptr only in the argument list of the system
//     call, where the compiler keeps the object alive.
//   - Results are trusted only as far as they fit: counts are bounded by the
//     slice that was passed.
//   - mmsghdr mirrors struct mmsghdr of include/linux/socket.h; size and offset
//     are checked below, at compile time.

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr: a message header, and the number of bytes that
// were sent or received.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// struct mmsghdr is padded to the alignment of a pointer.
var (
	_ [0]struct{} = [unsafe.Sizeof(mmsghdr{}) - unsafe.Sizeof(unix.Msghdr{}) - unsafe.Sizeof(uintptr(0))]struct{}{}
	_ [0]struct{} = [unsafe.Offsetof(mmsghdr{}.len) - unsafe.Sizeof(unix.Msghdr{})]struct{}{}
	_ [0]struct{} = [unsafe.Sizeof(unix.RawSockaddrInet6{}) - 28]struct{}{}
	_ [0]struct{} = [unsafe.Offsetof(unix.RawSockaddrInet4{}.Addr) - 4]struct{}{}
	_ [0]struct{} = [unsafe.Offsetof(unix.RawSockaddrInet6{}.Addr) - 8]struct{}{}
	_ [0]struct{} = [unsafe.Sizeof(unix.SockExtendedErr{}) - 16]struct{}{}
)

// nameLen is the room for a sender's address: the longer one, sockaddr_in6.
const nameLen = uint32(unsafe.Sizeof(unix.RawSockaddrInet6{}))

// frames is a fixed set of messages: headers, vectors, and one slab of buffers.
type frames struct {
	msgs  []mmsghdr
	iovs  []unix.Iovec
	names []unix.RawSockaddrInet6 // of senders; nil for a sender's own frames
	slab  []byte
	size  int // bytes of a buffer
}

// newFrames makes n frames of size bytes. Buffers start on cache lines.
func newFrames(n, size int, names bool) *frames {
	stride := (size + 63) &^ 63
	f := &frames{
		msgs: make([]mmsghdr, n),
		iovs: make([]unix.Iovec, n),
		slab: make([]byte, n*stride+1), // + 1: size may be 0, and a vector needs an address
		size: size,
	}
	if names {
		f.names = make([]unix.RawSockaddrInet6, n)
	}
	for i := range f.msgs {
		f.iovs[i].Base = &f.slab[i*stride]
		f.iovs[i].SetLen(size)
		h := &f.msgs[i].hdr
		h.Iov = &f.iovs[i]
		h.SetIovlen(1)
		if names {
			h.Name = (*byte)(unsafe.Pointer(&f.names[i]))
			h.Namelen = nameLen
		}
	}
	return f
}

// buffer returns the whole buffer of frame i.
func (f *frames) buffer(i int) []byte { return unsafe.Slice(f.iovs[i].Base, f.size) }

// message returns the bytes of frame i that are sent.
func (f *frames) message(i int) []byte { return unsafe.Slice(f.iovs[i].Base, int(f.iovs[i].Len)) }

// setLen sets how many bytes of frame i are sent.
func (f *frames) setLen(i, n int) { f.iovs[i].SetLen(n) }

// rearm makes the first n frames ready to receive again: the kernel wrote the
// length of the name and the flags.
func (f *frames) rearm(n int) {
	for i := range f.msgs[:n] {
		f.msgs[i].hdr.Namelen = nameLen
		f.msgs[i].hdr.Flags = 0
	}
}

// received returns the payload of frame i, its sender, and whether it was cut.
func (f *frames) received(i int) (payload []byte, src netip.AddrPort, truncated bool) {
	m := &f.msgs[i]
	n := min(int(m.len), f.size)
	src = f.source(i, m.hdr.Namelen)
	return unsafe.Slice(f.iovs[i].Base, f.size)[:n:n], src, m.hdr.Flags&unix.MSG_TRUNC != 0
}

// source decodes the name of frame i, of which the kernel wrote n bytes.
func (f *frames) source(i int, n uint32) netip.AddrPort {
	sa6 := &f.names[i]
	sa := (*[nameLen]byte)(unsafe.Pointer(sa6))
	port := binary.BigEndian.Uint16(sa[2:]) // in network order in both families
	switch {
	case sa6.Family == unix.AF_INET && n >= unix.SizeofSockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(sa[4:8])), port)
	case sa6.Family == unix.AF_INET6 && n >= unix.SizeofSockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(sa[8:24])).Unmap(), port)
	}
	return netip.AddrPort{}
}

// sendmmsg sends msgs without blocking and returns how many the kernel took. An
// errno comes only with none: the kernel keeps back an error after the first
// message, and the next call meets it again (__sys_sendmmsg).
func sendmmsg(fd int, msgs []mmsghdr) (int, unix.Errno) {
	n, _, e := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(msgs))), uintptr(len(msgs)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	if e != 0 {
		return 0, e
	}
	return min(int(n), len(msgs)), 0
}

// recvmmsg receives into msgs without blocking and returns how many it filled.
func recvmmsg(fd int, msgs []mmsghdr) (int, unix.Errno) {
	n, _, e := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(msgs))), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
	if e != 0 {
		return 0, e
	}
	return min(int(n), len(msgs)), 0
}

// errQueue reads a socket's error queue. The zero value is ready; it must not
// be copied.
type errQueue struct {
	hdr     unix.Msghdr
	control [32]uint64 // uint64: aligned like struct cmsghdr
}

// next takes one notice from the error queue of fd. ok is false when it is
// empty. icmp tells whether the notice came as an ICMP message.
func (q *errQueue) next(fd int) (errno unix.Errno, icmp, ok bool) {
	q.hdr = unix.Msghdr{Control: (*byte)(unsafe.Pointer(&q.control[0]))}
	q.hdr.SetControllen(int(unsafe.Sizeof(q.control)))
	_, _, e := unix.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&q.hdr)),
		unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if e != 0 {
		return 0, false, false
	}
	// No other control message is asked for on these sockets, so the first
	// one is IP_RECVERR or IPV6_RECVERR: ip_recv_error, ipv6_recv_error.
	need := unix.CmsgLen(int(unsafe.Sizeof(unix.SockExtendedErr{})))
	if uint64(q.hdr.Controllen) < uint64(need) {
		return 0, false, true
	}
	ee := (*unix.SockExtendedErr)(unsafe.Add(unsafe.Pointer(&q.control), unix.CmsgLen(0)))
	icmp = ee.Origin == unix.SO_EE_ORIGIN_ICMP || ee.Origin == unix.SO_EE_ORIGIN_ICMP6
	return unix.Errno(ee.Errno), icmp, true
}

// socketDrops reads the socket's count of dropped datagrams, which wraps at
// 2^32: SO_MEMINFO, sk_get_meminfo. Linux 4.12.
func socketDrops(fd int, mem *[unix.SK_MEMINFO_VARS]uint32, size *uint32) (uint32, unix.Errno) {
	*size = uint32(unsafe.Sizeof(*mem))
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(mem)), uintptr(unsafe.Pointer(size)), 0)
	return mem[unix.SK_MEMINFO_DROPS], e
}

// disconnect dissolves the association of a UDP socket: connect with AF_UNSPEC,
// for which x/sys has no type. __udp_disconnect.
func disconnect(fd int) error {
	sa := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, e := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
	if e != 0 {
		return e
	}
	return nil
}
