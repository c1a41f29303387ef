package xsk

import (
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// txChecksum turns the device's finishing of checksums on or off: ethtool -K IF tx.
// The ioctl takes a struct ethtool_value by pointer, inside a struct ifreq of 40
// bytes; both are alive until it returns.
func txChecksum(tb testing.TB, e xsktest.End, on bool) {
	tb.Helper()
	in(tb, e, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		value := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_STXCSUM}
		if on {
			value.data = 1
		}
		var req struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}
		copy(req.name[:], e.Name)
		req.data = unsafe.Pointer(&value)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
		runtime.KeepAlive(&value)
		if errno != 0 {
			return errno
		}
		return nil
	})
}
