package doctor

import (
	"errors"
	"fmt"

	"github.com/ipvsync/ipvsync/xsk"
)

// advise says what to do about a mode that could not be had, with the command
// where there is one. "": nothing can be done about it here.
func (p *prober) advise(m xsk.Mode, err error) string {
	d := p.d
	var foreign *xsk.ForeignProgramError
	switch {
	case errors.Is(err, errUnused):
		return d.NotProbed.Do
	case errors.As(err, &foreign):
		return fmt.Sprintf("see who it belongs to: bpftool prog show id %d; bpftool link; if nobody needs it: ip link set dev %s xdp off", foreign.ID, d.Name)
	case errors.Is(err, xsk.ErrPermission):
		return setcap()
	case errors.Is(err, xsk.ErrMemlock):
		return "ulimit -l unlimited, LimitMEMLOCK=infinity in the systemd unit, or: sudo setcap cap_net_raw,cap_net_admin,cap_bpf,cap_ipc_lock+ep " + self()
	case errors.Is(err, xsk.ErrQueueBusy):
		return "find the program that has the queue: ss --xdp -p; or use another queue: --queues N"
	case errors.Is(err, xsk.ErrNoAddress), errors.Is(err, xsk.ErrNoRoute): // an IPv6 address may still be checked for duplicates
		return fmt.Sprintf("ip address add ADDR/LENGTH dev %s", d.Name)
	case errors.Is(err, xsk.ErrLinkDown):
		return fmt.Sprintf("ip link set %s up", d.Name)
	case errors.Is(err, xsk.ErrZeroCopy), m == xsk.ModeZeroCopy && d.Kind == "":
		if has, known := d.has("xsk-zerocopy"); has || !known {
			return fmt.Sprintf("lower the MTU to one page or less, compare the queues: ethtool -l %s, and see the kernel's log: dmesg", d.Name)
		}
		return "use a device whose driver lists xsk-zerocopy; copy mode works on any"
	case d.Kind != "" && m <= xsk.ModeGeneric:
		return "use the physical device; on this one UDP is as good"
	case errors.Is(err, xsk.ErrUnsupported) && m <= xsk.ModeGeneric:
		return "use UDP, or a kernel with CONFIG_XDP_SOCKETS and a driver with XDP"
	case errors.Is(err, xsk.ErrUnsupported):
		return "use Linux 5.0 or later"
	}
	return ""
}

// judge adds what limits a device that is up, beyond single modes.
func (d *Device) judge(h *Host) {
	add := func(do, format string, args ...any) {
		d.Findings = append(d.Findings, Finding{fmt.Sprintf(format, args...), do})
	}
	if !d.Carrier {
		add("check the cable and the other end: ethtool "+d.Name, "the interface has no carrier")
	}
	if len(d.Addresses) == 0 {
		add(fmt.Sprintf("ip address add ADDR/LENGTH dev %s", d.Name), "the interface has no address to send from")
	}
	native, known := d.has("basic")
	zerocopy, _ := d.has("xsk-zerocopy")
	switch {
	case known && !native:
		add("a device whose driver lists basic and xsk-zerocopy in its XDP features; or --mode udp-gso",
			"the driver has no XDP of its own: AF_XDP would cost more than it saves to receive")
	case known && !zerocopy:
		add("a device whose driver lists xsk-zerocopy", "the driver has no zero-copy: AF_XDP works in copy mode at best")
	}
	if d.Kind != "" && (known && !native || d.Receive.Mode == xsk.ModeGeneric.String()) {
		add("receive by --mode udp-gso here, or have the sender use --mode udp",
			"a %s device hands on what a sender with UDP GSO sends as trains, which generic XDP never cuts: an AF_XDP receiver in mode generic drops them all, and SocketDrops counts it", d.Kind)
	}
	if n := longest(d.MTU); n > mostPayload {
		add(fmt.Sprintf("ipvsadm --start-daemon … --sync-maxlen %d at kernel masters, --maxlen %d at ipvsync's; or --mode udp-gso", mostPayload, mostPayload),
			"the MTU of %d allows messages of %d bytes; those above %d do not fit an AF_XDP receiver's frame, so auto takes UDP unless --maxlen says that there are none", d.MTU, n, mostPayload)
	}
	need := int64(max(d.Receive.Locked, d.Send.Locked, wantedBuffer*max(d.RxQueues, 1)))
	if h.Memlock >= 0 && !h.has("IPC_LOCK") && need > h.Memlock {
		add(fmt.Sprintf("ulimit -l %d, or LimitMEMLOCK=%d in the systemd unit, or CAP_IPC_LOCK", need>>10, need),
			"AF_XDP locks %d KiB here, %d KiB for each of %d queues to receive from, and RLIMIT_MEMLOCK is %d KiB",
			need>>10, wantedBuffer>>10, max(d.RxQueues, 1), h.Memlock>>10)
	}
	if d.RxQueues > 1 && d.Kind == "" {
		add(fmt.Sprintf("ethtool -N %s flow-type udp4 dst-port 8848 action 0, and --queues 0", d.Name),
			"messages may arrive on any of %d queues, so a receiver takes %d sockets; with the traffic steered to one, one is enough", d.RxQueues, d.RxQueues)
	}
	if d.Kind == "" && d.DeferIRQs != nil && d.FlushTimeout != nil && (*d.DeferIRQs == 0 || *d.FlushTimeout == 0) && native {
		add(fmt.Sprintf("echo 2 > /sys/class/net/%[1]s/napi_defer_hard_irqs; echo 200000 > /sys/class/net/%[1]s/gro_flush_timeout", d.Name),
			"busy polling would be disturbed by interrupts; it matters only with --busy-poll")
	}
}

// mostPayload is the most bytes of a message in a frame to receive into: the larger
// frame of AF_XDP, less the kernel's headroom and the longest headers.
const mostPayload = 4096 - 256 - 66

func longest(mtu int) int { return mtu - xsk.Overhead4 }
