package xsk

// The XDP program, in the kernel's own instructions, put together when it is
// loaded. As C it would be
//
//	int filter(struct xdp_md *ctx)
//	{
//		if (Ethernet, with up to two VLAN tags (the outer one VLAN, if that is set) &&
//		    (IPv4, of any header length, not a fragment || IPv6, without extensions) &&
//		    UDP && one of the addresses && first port <= destination port <= last port)
//			return bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_PASS);
//		return XDP_PASS;
//	}
//
// so that everything that is not ours, and what is ours on a queue without a
// socket, goes on to the host: ARP, ssh, IGMP, fragments.
//
// A tag that the device has taken out of the packet (ethtool -k: rxvlan) is not
// seen here.

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// struct xdp_md of include/uapi/linux/bpf.h.
const (
	ctxData         = 0
	ctxDataEnd      = 4
	ctxRxQueueIndex = 16
)

// What the program returns: enum xdp_action.
const xdpPass = 2

// Registers of the program.
const (
	rCtx   = asm.R6
	rEnd   = asm.R3 // end of the packet
	rAt    = asm.R7 // start of the header that is looked at
	rProto = asm.R5 // EtherType, in network order as it was loaded
	rTmp   = asm.R4
	rVal   = asm.R1
	rLen   = asm.R8 // length of the IPv4 header, in words
)

// netOrder16 is v as a load of two bytes of a packet gives it on this machine.
func netOrder16(v uint16) int32 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return int32(native.Uint16(b[:]))
}

// need passes the packet unless n bytes from rAt on are in it. The verifier
// remembers that for the loads that follow.
func need(n int32) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(rTmp, rAt),
		asm.Add.Imm(rTmp, n),
		asm.JGT.Reg(rTmp, rEnd, "pass"),
	}
}

func load(off int16, size asm.Size) asm.Instruction { return asm.LoadMem(rVal, rAt, off, size) }

// filter assembles the program for a configuration that was checked.
func filter(c *ProgramConfig, xsks *ebpf.Map) asm.Instructions {
	var p asm.Instructions
	add := func(ins ...asm.Instruction) { p = append(p, ins...) }

	// Ethernet: 6 destination, 6 source, 2 EtherType.
	add(
		asm.Mov.Reg(rCtx, asm.R1),
		asm.LoadMem(rAt, rCtx, ctxData, asm.Word),
		asm.LoadMem(rEnd, rCtx, ctxDataEnd, asm.Word),
	)
	add(need(14)...)
	add(
		asm.LoadMem(rProto, rAt, 12, asm.Half),
		asm.Add.Imm(rAt, 14),
	)
	// VLAN tag: 2 priority and id, 2 EtherType. 802.1Q or 802.1ad.
	for i, label := range []string{"tag1", "tag2"} {
		untagged := "network"
		if i == 0 && c.VLAN != 0 {
			untagged = "pass"
		}
		add(
			asm.JEq.Imm32(rProto, netOrder16(etherTypeVLAN), label),
			asm.JNE.Imm32(rProto, netOrder16(etherTypeQinQ), untagged),
		)
		tag := need(4)
		tag[0] = tag[0].WithSymbol(label)
		add(tag...)
		if i == 0 && c.VLAN != 0 {
			add(
				load(0, asm.Half),
				asm.HostTo(asm.BE, rVal, asm.Half),
				asm.And.Imm(rVal, 0xfff),
				asm.JNE.Imm32(rVal, int32(c.VLAN), "pass"),
			)
		}
		add(
			asm.LoadMem(rProto, rAt, 2, asm.Half),
			asm.Add.Imm(rAt, 4),
		)
	}
	// The verifier refuses instructions that cannot be reached: families that
	// are not wanted have none.
	want4, want6 := c.AnyLocal || len(c.addrs(true)) > 0, c.AnyLocal || len(c.addrs(false)) > 0
	add(asm.Mov.Imm(rVal, 0).WithSymbol("network"))
	if want4 {
		add(asm.JEq.Imm32(rProto, netOrder16(etherTypeIPv4), "ipv4"))
	}
	if want6 {
		add(asm.JEq.Imm32(rProto, netOrder16(etherTypeIPv6), "ipv6"))
	}
	add(asm.Ja.Label("pass"))
	if want4 {
		add(filter4(c)...)
	}
	if want6 {
		add(filter6(c)...)
	}

	// UDP: destination port at 2.
	udp := need(8)
	udp[0] = udp[0].WithSymbol("udp")
	add(udp...)
	add(
		load(2, asm.Half),
		asm.HostTo(asm.BE, rVal, asm.Half),
		asm.JLT.Imm(rVal, int32(c.FirstPort), "pass"),
		asm.JGT.Imm(rVal, int32(c.LastPort), "pass"),

		asm.LoadMapPtr(asm.R1, xsks.FD()),
		asm.LoadMem(asm.R2, rCtx, ctxRxQueueIndex, asm.Word),
		asm.Mov.Imm(asm.R3, xdpPass), // what is done where the map has no socket: Linux 5.3
		asm.FnRedirectMap.Call(),
		asm.Return(),

		asm.Mov.Imm(asm.R0, xdpPass).WithSymbol("pass"),
		asm.Return(),
	)
	return p
}

// filter4 goes on to "udp" with packets that are ours so far. IPv4: version and
// header length at 0, flags and offset at 6, protocol at 9, destination at 16.
func filter4(c *ProgramConfig) asm.Instructions {
	p := need(20)
	p[0] = p[0].WithSymbol("ipv4")
	p = append(p,
		load(0, asm.Byte),
		asm.Mov.Reg(rLen, rVal),
		asm.RSh.Imm(rVal, 4),
		asm.JNE.Imm32(rVal, 4, "pass"),
		asm.And.Imm(rLen, 15),
		asm.JLT.Imm(rLen, 5, "pass"),
		load(9, asm.Byte),
		asm.JNE.Imm32(rVal, protoUDP, "pass"),
		load(6, asm.Half),
		asm.And.Imm(rVal, netOrder16(0x3fff)), // more fragments, or an offset
		asm.JNE.Imm32(rVal, 0, "pass"),
		load(16, asm.Word),
	)
	for _, a := range c.addrs(true) {
		b := a.As4()
		p = append(p, asm.JEq.Imm32(rVal, int32(native.Uint32(b[:])), "udp4"))
	}
	if c.AnyLocal {
		p = append(p,
			asm.JEq.Imm32(rVal, -1, "pass"), // broadcast
			asm.HostTo(asm.BE, rVal, asm.Word),
			asm.RSh.Imm(rVal, 28),
			asm.JNE.Imm32(rVal, 0xe, "udp4"), // 224.0.0.0/4
		)
	}
	p = append(p,
		asm.Ja.Label("pass"),
		asm.Add.Imm(rAt, 20).WithSymbol("udp4"),
	)
	// Options: four bytes for each step of the header length above 5. Adding
	// the length itself would take CAP_PERFMON: a pointer that moves by a
	// number unknown to the verifier.
	for n := int32(6); n <= 15; n++ {
		p = append(p,
			asm.JLT.Imm(rLen, n, "udp"),
			asm.Add.Imm(rAt, 4),
		)
	}
	return append(p, asm.Ja.Label("udp"))
}

// filter6 goes on to "udp" with packets that are ours so far. IPv6: version at
// 0, next header at 6, destination at 24.
func filter6(c *ProgramConfig) asm.Instructions {
	p := need(40)
	p[0] = p[0].WithSymbol("ipv6")
	p = append(p,
		load(0, asm.Byte),
		asm.RSh.Imm(rVal, 4),
		asm.JNE.Imm32(rVal, 6, "pass"),
		load(6, asm.Byte),
		asm.JNE.Imm32(rVal, protoUDP, "pass"),
	)
	for i, a := range c.addrs(false) {
		b, next := a.As16(), fmt.Sprintf("other%d", i)
		for w := 0; w < 16; w += 4 {
			p = append(p,
				load(int16(24+w), asm.Word),
				asm.JNE.Imm32(rVal, int32(native.Uint32(b[w:])), next),
			)
		}
		p = append(p,
			asm.Ja.Label("udp6"),
			asm.Mov.Imm(rVal, 0).WithSymbol(next),
		)
	}
	if c.AnyLocal {
		p = append(p,
			load(24, asm.Byte),
			asm.JNE.Imm32(rVal, 0xff, "udp6"), // ff00::/8
		)
	}
	return append(p,
		asm.Ja.Label("pass"),
		asm.Add.Imm(rAt, 40).WithSymbol("udp6"),
		asm.Ja.Label("udp"),
	)
}

// addrs returns the addresses of one family.
func (c *ProgramConfig) addrs(v4 bool) []netip.Addr {
	var out []netip.Addr
	if c.Group.IsValid() && c.Group.Is4() == v4 {
		out = append(out, c.Group)
	}
	for _, a := range c.Local {
		if a.Is4() == v4 {
			out = append(out, a)
		}
	}
	return out
}
