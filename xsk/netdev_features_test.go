package xsk

import "testing"

func TestXDPFeatures(t *testing.T) {
	for f, want := range map[XDPFeatures]string{
		0:                 "none",
		xdpActBasic:       "basic",
		xdpActXSKZeroCopy: "xsk-zerocopy",
		1<<7 - 1:          "basic redirect ndo-xmit xsk-zerocopy hw-offload rx-sg ndo-xmit-sg",
		1<<1 | 1<<63:      "redirect bit 63",
	} {
		if got := f.String(); got != want {
			t.Errorf("%#x is %q, want %q", uint64(f), got, want)
		}
	}
}
