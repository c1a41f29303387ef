//go:build ringdebug

package ring

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
)

// guard panics when a second goroutine reserves while the first one has records
// that it has not published. A ring may change hands between Publish and the
// next Reserve.
type guard struct{ owner atomic.Uint64 }

func (g *guard) enter() {
	me := goroutine()
	if !g.owner.CompareAndSwap(0, me) && g.owner.Load() != me {
		panic(fmt.Sprintf("ring: goroutine %d reserves while goroutine %d has not published: an SPSC has one producer", me, g.owner.Load()))
	}
}

func (g *guard) leave() {
	if me := goroutine(); !g.owner.CompareAndSwap(me, 0) && g.owner.Load() != 0 {
		panic(fmt.Sprintf("ring: goroutine %d publishes what goroutine %d reserved: an SPSC has one producer", me, g.owner.Load()))
	}
}

// traces holds the beginnings of stack traces, so that a guarded ring allocates no
// more than another.
var traces = sync.Pool{New: func() any { return new([64]byte) }}

// goroutine is the number of the calling goroutine, out of its stack trace: the
// runtime tells it in no other way.
func goroutine() (n uint64) {
	buf := traces.Get().(*[64]byte)
	defer traces.Put(buf)
	digits := bytes.TrimPrefix(buf[:runtime.Stack(buf[:], false)], []byte("goroutine "))
	for len(digits) > 0 && digits[0] >= '0' && digits[0] <= '9' {
		n = n*10 + uint64(digits[0]-'0')
		digits = digits[1:]
	}
	if n == 0 {
		panic("ring: stack trace without a goroutine's number")
	}
	return n
}
