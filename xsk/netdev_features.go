package xsk

import (
	"fmt"
	"strings"
)

// XDPFeatures is what a driver does of XDP: enum netdev_xdp_act of
// include/uapi/linux/netdev.h, NETDEV_XDP_ACT_*.
type XDPFeatures uint64

var xdpFeatureNames = [...]string{"basic", "redirect", "ndo-xmit", "xsk-zerocopy", "hw-offload", "rx-sg", "ndo-xmit-sg"}

// Names are the kernel's names of the features (Documentation/netlink/specs/netdev.yaml);
// one that is not known here is a number.
func (f XDPFeatures) Names() []string {
	names := []string{}
	for bit := range 64 {
		switch {
		case f&(1<<bit) == 0:
		case bit < len(xdpFeatureNames):
			names = append(names, xdpFeatureNames[bit])
		default:
			names = append(names, fmt.Sprintf("bit %d", bit))
		}
	}
	return names
}

func (f XDPFeatures) String() string {
	if f == 0 {
		return "none"
	}
	return strings.Join(f.Names(), " ")
}
