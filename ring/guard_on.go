//go:build ringdebug

package ring

import (
	"bytes"
	"fmt"
	"runtime"
	"strconv"
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

// goroutine is the number of the calling goroutine, out of its stack trace: the
// runtime tells it in no other way.
func goroutine() uint64 {
	var buf [64]byte
	s := bytes.TrimPrefix(buf[:runtime.Stack(buf[:], false)], []byte("goroutine "))
	n, err := strconv.ParseUint(string(s[:bytes.IndexByte(s, ' ')]), 10, 64)
	if err != nil {
		panic("ring: stack trace without a goroutine's number")
	}
	return n
}
