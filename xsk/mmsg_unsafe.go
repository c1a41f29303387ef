package xsk

// All unsafe of the UDP transport is in this file. Why it is sound:
//
//   - sendmmsg, recvmmsg and recvmsg read and write a message header and what it
//     points to. The headers here are typed Go structs whose pointers the
//     collector sees and which belong to heap objects that do not move. They are
//     set to buffers that live as long as the transport.
//   - Base and length of a vector are those of one slice expression, so they
//     never reach past the slab.
//   - A control message is written and read inside a segControl, which has room for
//     its header and 8 bytes more, and is aligned like it.
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

// segControl is room for one control message that carries the segment size of a
// train, aligned like struct cmsghdr, which has 12 bytes or 16.
type segControl [3]uint64

// Segment sizes are a u16 on the way out (udp_cmsg_send) and an int on the way
// in (udp_cmsg_recv).
var (
	segmentLen   = unix.CmsgLen(2)
	segmentSpace = unix.CmsgSpace(2)
	groSpace     = unix.CmsgSpace(4)
	controlData  = unix.CmsgLen(0)
)

var _ [0]struct{} = [unsafe.Sizeof(unix.Cmsghdr{}) - 8 - unsafe.Sizeof(uintptr(0))]struct{}{}

// udpTxFrames are a sender's messages, in one slab, and the entries of the next
// sendmmsg, each of which is a stretch of the slab: one message, or a train.
type udpTxFrames struct {
	slab []byte
	msgs []mmsghdr
	iovs []unix.Iovec
	ctls []segControl
}

// newUDPTxFrames makes a slab of size bytes, and n entries.
func newUDPTxFrames(n, size int) *udpTxFrames {
	f := &udpTxFrames{
		slab: make([]byte, size),
		msgs: make([]mmsghdr, n),
		iovs: make([]unix.Iovec, n),
		ctls: make([]segControl, n),
	}
	for i := range f.msgs {
		c := (*unix.Cmsghdr)(unsafe.Pointer(&f.ctls[i]))
		c.Level, c.Type = unix.SOL_UDP, unix.UDP_SEGMENT
		c.SetLen(segmentLen)
		h := &f.msgs[i].hdr
		h.Iov = &f.iovs[i]
		h.SetIovlen(1)
		h.Control = (*byte)(unsafe.Pointer(c))
	}
	return f
}

// entry makes entry i the bytes at off…off+n of the slab; with segment > 0 the
// kernel cuts them into datagrams of that size.
func (f *udpTxFrames) entry(i, off, n, segment int) {
	f.iovs[i].Base = unsafe.SliceData(f.slab[off : off+n])
	f.iovs[i].SetLen(n)
	if segment == 0 {
		f.msgs[i].hdr.SetControllen(0)
		return
	}
	*(*uint16)(unsafe.Add(unsafe.Pointer(&f.ctls[i]), controlData)) = uint16(segment)
	f.msgs[i].hdr.SetControllen(segmentSpace)
}

// segment returns the bytes of an entry that is to be sent, and the segment size
// that comes with it, 0 if none: what the kernel sees.
func (m *mmsghdr) segment() (data []byte, segment int) {
	data = unsafe.Slice(m.hdr.Iov.Base, int(m.hdr.Iov.Len))
	if m.hdr.Controllen > 0 {
		segment = int(*(*uint16)(unsafe.Add(unsafe.Pointer(m.hdr.Control), controlData)))
	}
	return data, segment
}

// udpRxFrames are the buffers of a receiver: headers, vectors, and one slab.
type udpRxFrames struct {
	msgs  []mmsghdr
	iovs  []unix.Iovec
	names []unix.RawSockaddrInet6 // of senders
	ctls  []segControl            // nil without GRO
	slab  []byte
	size  int // bytes of a buffer
}

// newUDPRxFrames makes n buffers of size bytes, which start stride bytes apart.
func newUDPRxFrames(n, size, stride int, gro bool) *udpRxFrames {
	f := &udpRxFrames{
		msgs:  make([]mmsghdr, n),
		iovs:  make([]unix.Iovec, n),
		names: make([]unix.RawSockaddrInet6, n),
		slab:  make([]byte, (n-1)*stride+size),
		size:  size,
	}
	if gro {
		f.ctls = make([]segControl, n)
	}
	for i := range f.msgs {
		f.iovs[i].Base = unsafe.SliceData(f.slab[i*stride:][:size])
		f.iovs[i].SetLen(size)
		h := &f.msgs[i].hdr
		h.Iov = &f.iovs[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&f.names[i]))
		if gro {
			h.Control = (*byte)(unsafe.Pointer(&f.ctls[i]))
		}
	}
	f.rearm(n)
	return f
}

// rearm makes the first n frames ready to receive again: the kernel wrote the
// lengths of name and control message, and the flags.
func (f *udpRxFrames) rearm(n int) {
	for i := range f.msgs[:n] {
		h := &f.msgs[i].hdr
		h.Namelen = nameLen
		h.Flags = 0
		if f.ctls != nil {
			h.SetControllen(groSpace)
		}
	}
}

// bytes returns how many bytes the first n frames have received.
func (f *udpRxFrames) bytes(n int) (sum int) {
	for i := range f.msgs[:n] {
		sum += int(f.msgs[i].len)
	}
	return sum
}

// received returns what is in frame i: the bytes, the size of the datagrams that
// they are (the last may be shorter, and mostly it is just one), the sender, and
// whether bytes were cut off at the end.
func (f *udpRxFrames) received(i int) (data []byte, segment int, src netip.AddrPort, truncated bool) {
	m := &f.msgs[i]
	n := min(int(m.len), f.size)
	data = unsafe.Slice(f.iovs[i].Base, f.size)[:n:n]
	segment = n
	// The only control message asked for, and only with a train:
	// udp_cmsg_recv, of include/net/udp.h.
	if f.ctls != nil && int(m.hdr.Controllen) >= groSpace {
		c := (*unix.Cmsghdr)(unsafe.Pointer(&f.ctls[i]))
		if c.Level == unix.SOL_UDP && c.Type == unix.UDP_GRO {
			size := *(*int32)(unsafe.Add(unsafe.Pointer(c), controlData))
			if size > 0 && int(size) < n {
				segment = int(size)
			}
		}
	}
	return data, segment, f.source(i, m.hdr.Namelen), m.hdr.Flags&unix.MSG_TRUNC != 0
}

// source decodes the name of frame i, of which the kernel wrote n bytes.
func (f *udpRxFrames) source(i int, n uint32) netip.AddrPort {
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

// recvmmsg receives into msgs without blocking and returns how many it filled. It
// does not block, so the scheduler is not told of it (RawSyscall): that would wake a
// thread of the runtime that sleeps while nothing happens, for each lone message.
func recvmmsg(fd int, msgs []mmsghdr) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd),
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
	_, _, e := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(mem)), uintptr(unsafe.Pointer(size)), 0)
	return mem[unix.SK_MEMINFO_DROPS], e
}

// epollReady fills ready with the events of the epoll instance fd, without waiting,
// and returns how many. An error cannot be: fd and ready are what they should be.
func epollReady(fd int, ready []unix.EpollEvent) int {
	n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(ready))), uintptr(len(ready)), 0, 0, 0)
	if e != 0 {
		return 0
	}
	return min(int(n), len(ready))
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
