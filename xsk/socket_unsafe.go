package xsk

// All unsafe of AF_XDP sockets is in this file. Why it is sound:
//
//   - A ring is a mapping outside of Go's heap, which the collector neither
//     moves nor scans. ringView holds pointers and slices into it, and they hold
//     no pointers themselves. Socket keeps the mapping as long as its halves are
//     in use, and forgets both at once.
//   - Offsets come from the kernel (XDP_MMAP_OFFSETS) and are checked against
//     the length and for alignment before they are used.
//   - Options are passed as typed structs of x/sys/unix, which mirror those of
//     include/uapi/linux/if_xdp.h and whose sizes are checked below, at compile
//     time. unsafe.Pointer becomes uintptr only in the argument list of the
//     system call.
//   - The kernel keeps the address of the packet memory only as pinned pages:
//     unmapping it while registered is safe.

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

var (
	_ [0]struct{} = [unsafe.Sizeof(unix.XDPDesc{}) - 16]struct{}{}
	_ [0]struct{} = [unsafe.Offsetof(unix.XDPDesc{}.Len) - 8]struct{}{}
	_ [0]struct{} = [unsafe.Sizeof(unix.XDPUmemReg{}) - 32]struct{}{}
	_ [0]struct{} = [unsafe.Sizeof(unix.XDPMmapOffsets{}) - 4*32]struct{}{}
	_ [0]struct{} = [unsafe.Sizeof(unix.XDPStatistics{}) - 6*8]struct{}{}
	_ [0]struct{} = [unsafe.Sizeof(unix.RawSockaddrXDP{}) - 16]struct{}{}
)

func setsockoptRaw(fd, option int, p unsafe.Pointer, n uintptr) error {
	_, _, e := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option), uintptr(p), n, 0)
	if e != 0 {
		return e
	}
	return nil
}

func getsockoptRaw(fd, option int, p unsafe.Pointer, n uintptr) error {
	size := uint32(n)
	_, _, e := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option), uintptr(p),
		uintptr(unsafe.Pointer(&size)), 0)
	switch {
	case e != 0:
		return e
	case uintptr(size) != n:
		return fmt.Errorf("%w: %d bytes of a socket option, want %d: Linux 5.9 is needed", ErrUnsupported, size, n)
	}
	return nil
}

// registerUMEM tells the kernel the packet memory: XDP_UMEM_REG. With metadata it
// is EINVAL up to Linux 6.10.
func registerUMEM(fd int, u *UMEM, metadata bool) error {
	reg := unix.XDPUmemReg{
		Addr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(u.mem)))),
		Len:  uint64(len(u.mem)),
		Size: uint32(u.frameSize),
	}
	if metadata {
		reg.Flags, reg.Tx_metadata_len = unix.XDP_UMEM_TX_METADATA_LEN, txMetadataLen
	}
	return setsockoptRaw(fd, unix.XDP_UMEM_REG, unsafe.Pointer(&reg), unsafe.Sizeof(reg))
}

// ringOffsets asks where in a mapping the parts of each ring are.
func ringOffsets(fd int) (o unix.XDPMmapOffsets, err error) {
	err = getsockoptRaw(fd, unix.XDP_MMAP_OFFSETS, unsafe.Pointer(&o), unsafe.Sizeof(o))
	return o, err
}

// xdpStatistics reads the kernel's counters of the socket. It does not allocate
// once s is on the heap.
func xdpStatistics(fd int, s *unix.XDPStatistics) error {
	return getsockoptRaw(fd, unix.XDP_STATISTICS, unsafe.Pointer(s), unsafe.Sizeof(*s))
}

// xdpOptions reads what the socket got: XDP_OPTIONS_ZEROCOPY.
func xdpOptions(fd int) (flags uint32, err error) {
	err = getsockoptRaw(fd, unix.XDP_OPTIONS, unsafe.Pointer(&flags), unsafe.Sizeof(flags))
	return flags, err
}

// sendKick makes the kernel send what the TX ring holds.
func sendKick(fd int) unix.Errno {
	_, _, e := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return e
}

// receiveKick wakes a driver that waits for the fill ring.
func receiveKick(fd int) unix.Errno {
	_, _, e := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return e
}

// mapRing maps a ring of n entries.
func mapRing[T ringEntry](fd int, page int64, o unix.XDPRingOffset, n int) (v ringView[T], mem []byte, err error) {
	var entry T
	size := o.Desc + uint64(n)*uint64(unsafe.Sizeof(entry))
	if max(o.Producer, o.Consumer, o.Flags)+4 > size || (o.Producer|o.Consumer|o.Flags)%4 != 0 || o.Desc%8 != 0 {
		return v, nil, fmt.Errorf("%w: ring offsets %+v", ErrUnsupported, o)
	}
	mem, err = unix.Mmap(fd, page, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return v, nil, err
	}
	return ringView[T]{
		producer: (*uint32)(unsafe.Pointer(&mem[o.Producer])),
		consumer: (*uint32)(unsafe.Pointer(&mem[o.Consumer])),
		flags:    (*uint32)(unsafe.Pointer(&mem[o.Flags])),
		entries:  unsafe.Slice((*T)(unsafe.Pointer(&mem[o.Desc])), n),
	}, mem, nil
}
