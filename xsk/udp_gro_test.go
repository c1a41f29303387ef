package xsk

import (
	"net/netip"
	"strings"
	"testing"
)

// TestSplit splits frames with batches of every size: always the same messages,
// in order, each with its own sender.
func TestSplit(t *testing.T) {
	type frame struct {
		data      string
		segment   int
		truncated bool
	}
	frames := []frame{
		{"alone", 0, false},
		{"", 0, false},
		{"aabbccd", 2, false},
		{"eeff", 2, false},
		{"one", 3, false},         // a train of one is none
		{"three", 9, false},       // so is one shorter than its segments
		{"toolongrest", 7, false}, // the first is longer than MaxPayload
		{"gghhi", 2, true},        // the last one was cut
		{"jjkk", 2, true},         // as long as the others, but not as long as it was
		{"cut", 0, true},
		{"end", 0, false},
	}
	want := strings.Fields("alone - aa bb cc d ee ff one three rest gg hh jj end")
	src := []int{ // frame of each
		0, 1, 2, 2, 2, 2, 3, 3, 4, 5, 6, 7, 7, 8, 10,
	}
	for batch := 1; batch < 20; batch++ {
		r := &UDPRx{cfg: UDPConfig{MaxPayload: 6, Batch: batch}, batch: make([]Datagram, 0, batch)}
		r.info.GRO = true
		r.frames = newUDPRxFrames(len(frames), 64, 64, true)
		for i, f := range frames {
			arrive(r.frames, i, f.data, f.segment, f.truncated)
		}
		r.used = len(frames)
		var got int
		for {
			r.release()
			r.split()
			if len(r.batch) == 0 {
				break
			}
			for _, d := range r.batch {
				w := strings.Trim(want[got], "-")
				from := netip.AddrPortFrom(netip.IPv6Unspecified(), 0x0101*uint16(src[got]+1))
				if string(d.Payload) != w || d.Src != from || cap(d.Payload) != len(d.Payload) {
					t.Fatalf("batch %d: message %d is %q from %s, want %q from %s", batch, got, d.Payload, d.Src, w, from)
				}
				got++
			}
		}
		if got != len(want) || r.n.Messages != uint64(got) || r.n.Truncated != 4 || r.n.Coalesced != 10 {
			t.Fatalf("batch %d: %d messages of %d, %+v", batch, got, len(want), r.n)
		}
	}
}

// TestAdapt: full trains are asked for a few at a time, single messages as many
// as there are buffers.
func TestAdapt(t *testing.T) {
	r := &UDPRx{frames: newUDPRxFrames(64, trainBuffer, trainStride, true)}
	r.info.GRO = true
	for _, c := range []struct{ n, each, want int }{
		{64, 1448, 64}, {1, 36, 64}, {1, 0, 64}, {4, 65160, 4}, {1, 65535, 4}, {64, 65535, 4}, {4, 1448, 64}, {10, 16384, 15},
	} {
		for i := range c.n {
			r.frames.msgs[i].len = uint32(c.each)
		}
		if r.adapt(c.n); r.ask != c.want {
			t.Errorf("after %d of %d bytes %d are asked for, want %d", c.n, c.each, r.ask, c.want)
		}
	}
	r.frames = newUDPRxFrames(2, trainBuffer, trainStride, true)
	if r.adapt(1); r.ask != 2 {
		t.Errorf("%d of 2 buffers are asked for", r.ask)
	}
}
