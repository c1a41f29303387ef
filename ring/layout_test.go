package ring

import (
	"testing"
	"unsafe"

	"github.com/klauspost/cpuid/v2"
)

// Words of different writers are two lines of this machine apart, and a claim of
// an MPSC is a whole number of lines.
func TestWordsDoNotShareLines(t *testing.T) {
	line := cpuid.CPU.CacheLine
	if line == 0 {
		t.Skip("this processor does not tell its cache line")
	}
	if falseSharing < 2*line && line <= 64 || falseSharing < line || claimUnit%line != 0 && line <= 64 {
		t.Errorf("a line has %d bytes: falseSharing is %d, claimUnit %d", line, falseSharing, claimUnit)
	}
	var s SPSC
	var m MPSC
	apart := func(name string, a, b uintptr) {
		if b-a < falseSharing {
			t.Errorf("%s: %d bytes apart", name, b-a)
		}
	}
	apart("SPSC tail behind the producer's words", unsafe.Offsetof(s.tailSeen), unsafe.Offsetof(s.tail))
	apart("SPSC head behind what both read", unsafe.Offsetof(s.mask), unsafe.Offsetof(s.head))
	apart("SPSC end", unsafe.Offsetof(s.in), unsafe.Sizeof(s))
	apart("MPSC tail behind the producers' words", unsafe.Offsetof(m.tailSeen), unsafe.Offsetof(m.tail))
	apart("MPSC claimed behind what all read", unsafe.Offsetof(m.shift), unsafe.Offsetof(m.claimed))
	apart("MPSC end", unsafe.Offsetof(m.ready), unsafe.Sizeof(m))
}
