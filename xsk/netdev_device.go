package xsk

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Device is what a device can do, and what is attached to it.
type Device struct {
	Interface          string
	Index, MTU         int
	Up                 bool
	Driver             string
	RxQueues, TxQueues int  // in use; 0: the driver does not tell
	XDP, ZeroCopy      bool // native XDP; AF_XDP in zero-copy mode
	FeaturesKnown      bool // whether the kernel tells those two: Linux 6.3
	Features           XDPFeatures
	Program            uint32 // id of the attached XDP program; 0: none
	ProgramGeneric     bool
}

// LookAtDevice tells what there is to know about a device before anything is
// opened on it. It needs no rights.
func LookAtDevice(name string) (d Device, err error) {
	defer func() {
		if err != nil {
			err = &Error{Op: "look at the device", Interface: name, Err: err}
		}
	}()
	ifi, err := findInterface(name)
	up := err == nil
	if errors.Is(err, ErrLinkDown) {
		ifi, err = net.InterfaceByName(name)
	}
	if err != nil {
		return d, err
	}
	facts, err := device(ifi.Index)
	if err != nil {
		return d, err
	}
	d = Device{
		Interface: name, Index: ifi.Index, MTU: ifi.MTU, Up: up,
		RxQueues: facts.RxQueues, TxQueues: facts.TxQueues, FeaturesKnown: facts.FeaturesKnown,
		Features: XDPFeatures(facts.Features),
		XDP:      facts.Features&xdpActBasic != 0, ZeroCopy: facts.Features&xdpActXSKZeroCopy != 0,
	}
	if d.Driver, err = driver(name); err != nil {
		return d, err
	}
	c, err := newNlConn(unix.NETLINK_ROUTE)
	if err != nil {
		return d, err
	}
	defer c.close()
	d.Program, d.ProgramGeneric, err = c.xdpProgram(ifi.Index)
	return d, err
}

// driver asks for the name of a device's driver, empty if it has none.
func driver(name string) (driver string, err error) {
	s := newSocket(false)
	s.step("ask for the driver", func() error {
		info, err := unix.IoctlGetEthtoolDrvinfo(s.fd, name)
		if err == nil {
			driver = unix.ByteSliceToString(info.Driver[:])
		}
		return nil // not every device has one
	})
	fd, err := s.done()
	if err == nil {
		unix.Close(fd)
	}
	return driver, err
}

// generic asks a family of generic netlink, found by name.
func (c *nlConn) generic(family string, cmd uint8, attrs func()) ([]byte, error) {
	h := c.begin(unix.GENL_ID_CTRL, 0, unix.GENL_HDRLEN)
	h[0], h[1] = unix.CTRL_CMD_GETFAMILY, 1
	c.attr(unix.CTRL_ATTR_FAMILY_NAME, append([]byte(family), 0))
	b, err := c.ask()
	if err != nil {
		return nil, err
	}
	var id uint16
	for b := after(b, unix.GENL_HDRLEN); ; {
		typ, v, rest, ok := nextAttr(b)
		if !ok {
			break
		}
		if typ == unix.CTRL_ATTR_FAMILY_ID && len(v) == 2 {
			id = native.Uint16(v)
		}
		b = rest
	}
	if id == 0 {
		return nil, unix.ENOENT
	}
	h = c.begin(id, 0, unix.GENL_HDRLEN)
	h[0], h[1] = cmd, 1
	attrs()
	b, err = c.ask()
	return after(b, unix.GENL_HDRLEN), err
}

// deviceFacts are what a device can do, as far as the kernel tells.
type deviceFacts struct {
	RxQueues, TxQueues int    // in use; 0: not known
	Features           uint64 // NETDEV_XDP_ACT_*
	FeaturesKnown      bool   // Linux 6.3
	XSKFeatures        uint64 // NETDEV_XSK_FLAGS_*, of zero-copy mode
}

// Bits of enum netdev_xdp_act of include/uapi/linux/netdev.h.
const (
	xdpActBasic       = 1 << 0
	xdpActXSKZeroCopy = 1 << 3
)

// device asks for the facts of one device. ETHTOOL_MSG_CHANNELS_GET (Linux 5.6),
// and NETDEV_CMD_DEV_GET of Documentation/netlink/specs/netdev.yaml (6.3).
func device(ifindex int) (d deviceFacts, err error) {
	c, err := newNlConn(unix.NETLINK_GENERIC)
	if err != nil {
		return d, fmt.Errorf("look at the device: %w", err)
	}
	defer c.close()
	return c.deviceFacts(ifindex)
}

func (c *nlConn) deviceFacts(ifindex int) (d deviceFacts, err error) {
	b, err := c.generic("ethtool", unix.ETHTOOL_MSG_CHANNELS_GET, func() {
		start := c.n
		c.attr(unix.ETHTOOL_A_CHANNELS_HEADER|unix.NLA_F_NESTED, nil)
		c.attr32(unix.ETHTOOL_A_HEADER_DEV_INDEX, uint32(ifindex))
		native.PutUint16(c.out[start:], uint16(c.n-start))
	})
	if err == nil {
		for {
			typ, v, rest, ok := nextAttr(b)
			if !ok {
				break
			}
			if len(v) == 4 {
				switch n := int(native.Uint32(v)); typ {
				case unix.ETHTOOL_A_CHANNELS_RX_COUNT:
					d.RxQueues += n
				case unix.ETHTOOL_A_CHANNELS_TX_COUNT:
					d.TxQueues += n
				case unix.ETHTOOL_A_CHANNELS_COMBINED_COUNT:
					d.RxQueues += n
					d.TxQueues += n
				}
			}
			b = rest
		}
	}
	const cmdDevGet, attrIfindex, attrFeatures, attrXSKFeatures = 1, 1, 3, 6
	b, err = c.generic("netdev", cmdDevGet, func() { c.attr32(attrIfindex, uint32(ifindex)) })
	if err != nil {
		return d, nil // an older kernel
	}
	for {
		typ, v, rest, ok := nextAttr(b)
		if !ok {
			return d, nil
		}
		switch {
		case typ == attrFeatures && len(v) == 8:
			d.Features, d.FeaturesKnown = native.Uint64(v), true
		case typ == attrXSKFeatures && len(v) == 8:
			d.XSKFeatures = native.Uint64(v)
		}
		b = rest
	}
}
