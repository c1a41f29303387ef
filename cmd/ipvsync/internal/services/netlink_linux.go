package services

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync/encoder"
)

// The generic netlink family of IPVS, include/uapi/linux/ip_vs.h.
const (
	family = "IPVS" // IPVS_GENL_NAME

	cmdGetService = 4 // IPVS_CMD_GET_SERVICE
	cmdGetDest    = 8 // IPVS_CMD_GET_DEST

	attrService = 1 // IPVS_CMD_ATTR_SERVICE
	attrDest    = 2 // IPVS_CMD_ATTR_DEST

	svcFamily   = 1 // IPVS_SVC_ATTR_AF
	svcProtocol = 2 // IPVS_SVC_ATTR_PROTOCOL
	svcAddr     = 3 // IPVS_SVC_ATTR_ADDR
	svcPort     = 4 // IPVS_SVC_ATTR_PORT, network order
	svcFwmark   = 5 // IPVS_SVC_ATTR_FWMARK

	destAddr    = 1  // IPVS_DEST_ATTR_ADDR
	destPort    = 2  // IPVS_DEST_ATTR_PORT, network order
	destForward = 3  // IPVS_DEST_ATTR_FWD_METHOD
	destFamily  = 11 // IPVS_DEST_ATTR_ADDR_FAMILY
)

// Ask asks the kernel for the services of this network namespace. It takes
// CAP_NET_ADMIN.
func Ask() ([]Service, error) {
	f, err := netlink.GenlFamilyGet(family)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("ask for services: this kernel has no IPVS loaded (modprobe ip_vs): %w", err)
		}
		return nil, fmt.Errorf("ask for services: %w", err)
	}
	answers, err := dump(f.ID, cmdGetService, nil)
	if err != nil {
		return nil, fmt.Errorf("ask for services: %w", err)
	}
	var list []Service
	all, err := nested(answers, attrService)
	if err != nil {
		return nil, fmt.Errorf("ask for services: %w", err)
	}
	for _, attrs := range all {
		v, af := service(attrs)
		// What was told names the service in the question for its destinations.
		ask := nl.NewRtAttr(unix.NLA_F_NESTED|attrService, nil)
		for _, a := range attrs {
			switch a.Attr.Type {
			case svcFamily, svcProtocol, svcAddr, svcPort, svcFwmark:
				ask.AddRtAttr(int(a.Attr.Type), a.Value)
			}
		}
		answers, err := dump(f.ID, cmdGetDest, ask)
		if err != nil {
			return nil, fmt.Errorf("ask for destinations: %w", err)
		}
		dests, err := nested(answers, attrDest)
		if err != nil {
			return nil, fmt.Errorf("ask for destinations: %w", err)
		}
		for _, attrs := range dests {
			v.Dests = append(v.Dests, dest(attrs, af))
		}
		list = append(list, v)
	}
	return list, nil
}

// dump asks for everything of a kind and gives the attributes of each answer.
func dump(family uint16, cmd uint8, what *nl.RtAttr) ([][]syscall.NetlinkRouteAttr, error) {
	req := nl.NewNetlinkRequest(int(family), unix.NLM_F_DUMP)
	req.AddData(&nl.Genlmsg{Command: cmd, Version: 1})
	if what != nil {
		req.AddData(what)
	}
	msgs, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return nil, err
	}
	var all [][]syscall.NetlinkRouteAttr
	for _, m := range msgs {
		if len(m) < nl.SizeofGenlmsg {
			return nil, fmt.Errorf("an answer of %d bytes", len(m))
		}
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofGenlmsg:])
		if err != nil {
			return nil, err
		}
		all = append(all, attrs)
	}
	return all, nil
}

// nested gives what is inside of the attribute of the kind, of each answer.
func nested(answers [][]syscall.NetlinkRouteAttr, kind uint16) (all [][]syscall.NetlinkRouteAttr, err error) {
	for _, attrs := range answers {
		for _, a := range attrs {
			if a.Attr.Type&^unix.NLA_F_NESTED != kind {
				continue
			}
			in, err := nl.ParseRouteAttr(a.Value)
			if err != nil {
				return nil, err
			}
			all = append(all, in)
		}
	}
	return all, nil
}

func service(attrs []syscall.NetlinkRouteAttr) (v Service, af uint16) {
	var raw []byte
	var port uint16
	for _, a := range attrs {
		switch a.Attr.Type {
		case svcFamily:
			af = u16(a.Value)
		case svcProtocol:
			v.Protocol = encoder.Protocol(u16(a.Value))
		case svcAddr:
			raw = a.Value
		case svcPort:
			port = be16(a.Value)
		case svcFwmark:
			v.Fwmark = u32(a.Value)
		}
	}
	if v.Fwmark == 0 {
		v.Virtual = netip.AddrPortFrom(address(raw, af), port)
	}
	return v, af
}

// dest reads a destination of a service of family af, which is its own too
// unless it says otherwise.
func dest(attrs []syscall.NetlinkRouteAttr, af uint16) (d Dest) {
	var raw []byte
	var port uint16
	for _, a := range attrs {
		switch a.Attr.Type {
		case destAddr:
			raw = a.Value
		case destPort:
			port = be16(a.Value)
		case destForward:
			d.Forward = encoder.Flags(u32(a.Value)) & encoder.FlagFwdMask
		case destFamily:
			if own := u16(a.Value); own != 0 {
				af = own
			}
		}
	}
	d.Addr = netip.AddrPortFrom(address(raw, af), port)
	return d
}

// address reads union nf_inet_addr.
func address(b []byte, af uint16) netip.Addr {
	switch {
	case af == unix.AF_INET && len(b) >= 4:
		return netip.AddrFrom4([4]byte(b[:4]))
	case af == unix.AF_INET6 && len(b) >= 16:
		return netip.AddrFrom16([16]byte(b[:16]))
	}
	return netip.Addr{}
}

func u16(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return binary.NativeEndian.Uint16(b)
}

func be16(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}
