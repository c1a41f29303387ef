package netns

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// SetLink sets an interface of ns up or down. Up returns when the interface is
// operational, which for one end of a veth pair takes the other end up too.
func SetLink(ns *NS, name string, up bool) error {
	return ns.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return wrap("find "+name, err)
		}
		if !up {
			return wrap("set "+name+" down", netlink.LinkSetDown(link))
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return wrap("set "+name+" up", err)
		}
		return waitUp(End{Name: name})
	})
}

// SetAddress gives an interface of ns one IPv4 address, in place of those that
// it has.
func SetAddress(ns *NS, name string, addr netip.Prefix) error {
	return ns.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return wrap("find "+name, err)
		}
		old, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err != nil {
			return wrap("list the addresses of "+name, err)
		}
		for i := range old {
			if err := netlink.AddrDel(link, &old[i]); err != nil {
				return wrap("remove an address of "+name, err)
			}
		}
		return wrap(fmt.Sprintf("add %s to %s", addr, name), netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(addr)}))
	})
}
