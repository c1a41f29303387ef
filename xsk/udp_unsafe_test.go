package xsk

import (
	"testing"
	"unsafe"

	"github.com/ipvsync/ipvsync/xsk/xsktest"
	"golang.org/x/sys/unix"
)

// setGRO makes the veth of e receive by NAPI, with GRO, as a NIC does:
// ETHTOOL_SGRO with struct ethtool_value of include/uapi/linux/ethtool.h, which
// lives as long as the call that is given its address.
func setGRO(tb testing.TB, e xsktest.End) {
	tb.Helper()
	in(tb, e, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		value := struct{ cmd, data uint32 }{unix.ETHTOOL_SGRO, 1}
		ifr := struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}{data: unsafe.Pointer(&value)}
		copy(ifr.name[:], e.Name)
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); e != 0 {
			return e
		}
		return nil
	})
}

// arrive puts data into frame i as recvmmsg would; segment is 0 for a datagram
// that is no train.
func arrive(f *udpRxFrames, i int, data string, segment int, truncated bool) {
	m := &f.msgs[i]
	copy(unsafe.Slice(f.iovs[i].Base, f.size), data)
	m.len = uint32(len(data))
	m.hdr.SetControllen(0)
	if segment > 0 {
		c := (*unix.Cmsghdr)(unsafe.Pointer(&f.ctls[i]))
		c.Level, c.Type = unix.SOL_UDP, unix.UDP_GRO
		c.SetLen(unix.CmsgLen(4))
		*(*int32)(unsafe.Add(unsafe.Pointer(c), controlData)) = int32(segment)
		m.hdr.SetControllen(groSpace)
	}
	if truncated {
		m.hdr.Flags |= unix.MSG_TRUNC
	}
	f.names[i] = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: 0x0101 * uint16(i+1)}
	m.hdr.Namelen = nameLen
}
