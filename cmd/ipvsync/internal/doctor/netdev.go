package doctor

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync/xsk"
)

// lookAtDevice tells what can be seen of a device from outside.
func lookAtDevice(name string) (d Device, err error) {
	facts, err := xsk.LookAtDevice(name)
	if err != nil {
		return d, err
	}
	link, err := netlink.LinkByIndex(facts.Index)
	if err != nil {
		return d, fmt.Errorf("look at %s: %w", name, err)
	}
	at := link.Attrs()
	d = Device{
		Name: name, Index: facts.Index, Driver: facts.Driver, Up: facts.Up, MTU: facts.MTU,
		Carrier: at.RawFlags&unix.IFF_LOWER_UP != 0, MAC: at.HardwareAddr.String(),
		RxQueues: facts.RxQueues, TxQueues: facts.TxQueues, RxAllocated: at.NumRxQueues, TxAllocated: at.NumTxQueues,
		Addresses: []string{}, PortUsers: []string{}, Findings: []Finding{},
	}
	if kind := link.Type(); kind != "device" { // hardware has no kind of its own
		d.Kind = kind
	}
	if facts.FeaturesKnown {
		d.XDPFeatures = facts.Features.Names()
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return d, fmt.Errorf("list the addresses of %s: %w", name, err)
	}
	for _, a := range addrs {
		d.Addresses = append(d.Addresses, a.IPNet.String())
	}
	if facts.Program != 0 {
		d.Program = &Program{ID: facts.Program, Name: programName(facts.Program), Generic: facts.ProgramGeneric}
	}
	if dir := d.sysfs(); dir != "" {
		d.DeferIRQs, d.FlushTimeout = setting(dir+"/napi_defer_hard_irqs"), setting(dir+"/gro_flush_timeout")
	}
	return d, nil
}

// programName asks for the name of an XDP program, which takes CAP_SYS_ADMIN.
func programName(id uint32) string {
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
	if err != nil {
		return ""
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return ""
	}
	return info.Name
}

// sysfs is the directory of the device, or "" where /sys shows another network
// namespace: that of the process which mounted it.
func (d *Device) sysfs() string {
	dir := "/sys/class/net/" + d.Name
	mac, err := os.ReadFile(dir + "/address")
	if err != nil || number(dir+"/ifindex") != d.Index || strings.TrimSpace(string(mac)) != d.MAC {
		return ""
	}
	return dir
}

func setting(path string) *int {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return nil
	}
	return &n
}

// names lists the interfaces, but for loopback, which carries no
// synchronisation.
func names() ([]string, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the interfaces: %w", err)
	}
	var list []string
	for _, ifi := range all {
		if ifi.Flags&net.FlagLoopback == 0 {
			list = append(list, ifi.Name)
		}
	}
	return list, nil
}

// has says whether the driver has a feature; known, whether the kernel tells.
func (d *Device) has(feature string) (has, known bool) {
	for _, f := range d.XDPFeatures {
		has = has || f == feature
	}
	return has, d.XDPFeatures != nil
}
