package bench

import (
	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync/xsk"
)

// The bare loops: nothing is done but what a kernel must be asked for.

// batch is how many packets the bare loops, and asavie/xdp, hand over at once.
// 32 is what one system call sends in copy mode, and 128 was no faster.
const batch = 64

// bareSocket opens an AF_XDP socket that sends, with a finished packet in each frame.
func (p *path) bareSocket() func(n int) {
	var s *xsk.Socket
	p.in(p.near, func() (err error) {
		s, err = xsk.OpenSocket(xsk.SocketConfig{Interface: p.near.Name, TxFrames: 2048, Mode: xsk.CopyOnly})
		return err
	})
	p.tb.Cleanup(func() {
		s.Close()
		s.Unmap()
	})
	q, packet := s.Tx(), p.packet(message())
	var frames []uint32
	for f, buf, ok := q.Get(); ok; f, buf, ok = q.Get() {
		copy(buf, packet)
		frames = append(frames, f)
	}
	for _, f := range frames {
		q.Put(f)
	}
	flush := func() {
		if errno := q.Flush(nil); errno != 0 && errno != unix.EAGAIN && errno != unix.EBUSY { // EBUSY: lost, and not counted as arrived
			p.tb.Fatal(errno)
		}
	}
	return func(n int) {
		for n > 0 {
			for range min(batch, n) {
				f, _, ok := q.Get()
				if !ok {
					break
				}
				if !q.Queue(f, 0, len(packet)) {
					p.tb.Fatal("a frame that is free cannot be queued")
				}
				n--
			}
			flush()
		}
		for q.Pending() > 0 {
			flush()
		}
	}
}

// bareXDP is the loop on our own socket that sends the same frames over and over.
func (p *path) bareXDP() side { return side{name: "bare", send: p.bareSocket(), arrived: p.arrived} }

// bareGSO is a loop of write(2) on a UDP socket with a segment size that is set
// once, which is cheaper than one with each call, and 44 messages a call, as
// many as 64 KiB hold.
func (p *path) bareGSO() side {
	fd := -1
	p.in(p.near, func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, messageSize); err != nil {
			return err
		}
		return unix.Connect(fd, &unix.SockaddrInet4{Addr: group.As4(), Port: port})
	})
	p.tb.Cleanup(func() { unix.Close(fd) })
	var buf []byte
	for range train {
		buf = append(buf, message()...)
	}
	return side{name: "bare", send: func(n int) {
		for ; n > 0; n -= train {
			b := buf[:min(n, train)*messageSize]
			if k, err := unix.Write(fd, b); err != nil || k != len(b) {
				p.tb.Fatalf("%d bytes of %d sent, %v", k, len(b), err)
			}
		}
	}, arrived: p.arrived}
}
