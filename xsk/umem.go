package xsk

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// UMEM is the packet memory of one socket: frames of equal size, those of the
// sending half first, those of the receiving half behind. The halves share no
// frame, so that they may be used by two goroutines.
type UMEM struct {
	mem       []byte
	frameSize int
	tx, rx    int // frames of each half
}

// newUMEM maps the memory. The kernel pins it when it is registered, so all of
// it is made present at once.
func newUMEM(frameSize, tx, rx int) (*UMEM, error) {
	u := &UMEM{frameSize: frameSize, tx: tx, rx: rx}
	mem, err := unix.Mmap(-1, 0, frameSize*(tx+rx),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of packet memory: %w", frameSize*(tx+rx), err)
	}
	u.mem = mem
	return u, nil
}

// Size returns the bytes of all frames, which count against RLIMIT_MEMLOCK.
func (u *UMEM) Size() int { return u.frameSize * (u.tx + u.rx) }

// FrameSize returns the bytes of one frame.
func (u *UMEM) FrameSize() int { return u.frameSize }

// Frames returns the number of frames of each half.
func (u *UMEM) Frames() (tx, rx int) { return u.tx, u.rx }

func (u *UMEM) unmap() {
	if u.mem != nil {
		_ = unix.Munmap(u.mem)
		u.mem = nil
	}
}

// frameState tells who owns a frame. It is what keeps a frame from having two
// owners, whatever the other side of a ring says.
type frameState uint8

const (
	frameFree   frameState = iota // on the stack of the pool
	frameLent                     // with the user of the socket
	frameKernel                   // in a ring, or with the kernel
)

// framePool is the frames of one half: a stack, so that the frame used last,
// which the cache still holds, is used next. One goroutine uses it.
type framePool struct {
	mem   []byte // of this half's frames
	base  uint64 // address of the first one: offset into the UMEM
	shift uint   // log2 of the frame size
	free  []uint32
	state []frameState
}

func newFramePool(mem []byte, base uint64, frameSize, n int) framePool {
	p := framePool{mem: mem, base: base, free: make([]uint32, n), state: make([]frameState, n)}
	for 1<<p.shift < frameSize {
		p.shift++
	}
	for i := range p.free {
		p.free[i] = uint32(n - 1 - i)
	}
	return p
}

// get takes a frame off the stack. ok is false if there is none.
func (p *framePool) get() (f uint32, ok bool) {
	n := len(p.free)
	if n == 0 {
		return 0, false
	}
	f = p.free[n-1]
	p.free = p.free[:n-1]
	p.state[f] = frameLent
	return f, true
}

// put gives a frame back and reports whether its owner was as expected. The
// stack cannot overflow: a frame on it is never put again.
func (p *framePool) put(f uint32, was frameState) bool {
	if int(f) >= len(p.state) || p.state[f] != was || was == frameFree {
		return false
	}
	p.state[f] = frameFree
	p.free = append(p.free, f) // within its capacity
	return true
}

// addr returns the address of the frame's first byte.
func (p *framePool) addr(f uint32) uint64 { return p.base + uint64(f)<<p.shift }

// frame returns the number of the frame that holds addr. ok is false if it is
// not one of this pool.
func (p *framePool) frame(addr uint64) (f uint32, ok bool) {
	n := (addr - p.base) >> p.shift
	if addr < p.base || n >= uint64(len(p.state)) {
		return 0, false
	}
	return uint32(n), true
}

// bytes returns the whole frame.
func (p *framePool) bytes(f uint32) []byte {
	i := int(f) << p.shift
	n := 1 << p.shift
	return p.mem[i : i+n : i+n]
}

// count returns how many frames have this state. For tests and bookkeeping.
func (p *framePool) count(s frameState) (n int) {
	for _, is := range p.state {
		if is == s {
			n++
		}
	}
	return n
}
