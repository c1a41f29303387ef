package netns

import "github.com/vishvananda/netlink"

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
