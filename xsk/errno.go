package xsk

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// What an errno means here, with the path through the kernel that yields it.
// Paths are those of Linux 6.x.

// isBackPressure reports whether the kernel takes no more for now. The packet
// was not sent and stays queued.
//
//   - EAGAIN: the bytes in flight fill SO_SNDBUF: sock_alloc_send_pskb.
//   - ENOBUFS: the queueing discipline dropped the packet: net_xmit_errno by way
//     of ip_send_skb. Reported only with IP_RECVERR (udp_send_skb), which is
//     why senders set it. Also: no memory for the packet.
//   - ENOMEM: no memory for the packet or its route.
//   - EBUSY: of AF_XDP only, and there the packet is gone: the driver dropped it
//     (__xsk_generic_xmit, NET_XMIT_DROP). TxQueue.Flush tells which one.
func isBackPressure(e unix.Errno) bool {
	return e == unix.EAGAIN || e == unix.ENOBUFS || e == unix.ENOMEM || e == unix.EBUSY
}

// isDeviceGone reports whether the interface does not exist any more.
//
//   - ENODEV: route look-up by an interface index that is not there:
//     ip_route_output_key_hash_rcu; SIOCGIFFLAGS by name: dev_ioctl.
//   - ENXIO: the socket is not bound to a device any more: xsk_sendmsg, of AF_XDP
//     only. poll says nothing then, and never wakes.
func isDeviceGone(e unix.Errno) bool { return e == unix.ENODEV || e == unix.ENXIO }

// isLinkDown reports whether the interface carries nothing for now.
//
//   - ENETDOWN: the interface is not up: __dev_queue_xmit, for one without a
//     queueing discipline; xsk_sendmsg.
func isLinkDown(e unix.Errno) bool { return e == unix.ENETDOWN }

// isNoRoute reports whether the kernel knows no way to the destination. For a
// group, which is routed by the index of the interface, it means that the
// interface is down or lost its addresses.
//
//   - ENETUNREACH: interface not up: ip_route_output_key_hash_rcu;
//     no route: fib_lookup, ip6_route_output.
//   - EHOSTUNREACH: route of type unreachable: fib_props.
//   - EADDRNOTAVAIL: no usable source address, as while IPv6 addresses are
//     being checked for duplicates: ip6_dst_lookup_tail.
func isNoRoute(e unix.Errno) bool {
	return e == unix.ENETUNREACH || e == unix.EHOSTUNREACH || e == unix.EADDRNOTAVAIL
}

// isNoZeroCopy reports whether binding failed because the driver cannot do
// zero-copy: xp_assign_dev, ndo_bpf with XDP_SETUP_XSK_POOL.
//
//   - EOPNOTSUPP: no such ability in the driver, or a multi-buffer program.
//   - EPROTONOSUPPORT, EINVAL, ENOTSUPP (524, which has no name outside of the
//     kernel): what some drivers say, of the queue, the MTU or the frame size.
func isNoZeroCopy(e unix.Errno) bool {
	return e == unix.EOPNOTSUPP || e == unix.EPROTONOSUPPORT || e == unix.EINVAL || e == enotsupp
}

// enotsupp is ENOTSUPP of include/linux/errno.h.
const enotsupp = unix.Errno(524)

// isTooBig reports whether the packet exceeds the MTU of the interface or the
// path: ip_append_data and ip6_append_data with IP_PMTUDISC_DO.
func isTooBig(e unix.Errno) bool { return e == unix.EMSGSIZE }

// isTrainRefused reports whether the kernel may have refused a packet because it
// is a train, and would take its messages one by one.
//
//   - EIO: the path encrypts (dst_xfrm), or, before Linux 6.11, the interface
//     does not compute checksums: udp_send_skb, udp_v6_send_skb.
//   - EINVAL: the socket sends no checksums, more segments than the kernel
//     knows, and, in older kernels, segments that exceed the MTU: the same.
//   - EMSGSIZE: segments that exceed the MTU, or more than an IP packet holds.
func isTrainRefused(e unix.Errno) bool {
	return e == unix.EIO || e == unix.EINVAL || e == unix.EMSGSIZE
}

// isPermission reports whether a right is missing, or a firewall of this host
// refuses the packet (NF_DROP on the way out is EPERM: nf_hook_slow).
func isPermission(e unix.Errno) bool { return e == unix.EPERM || e == unix.EACCES }

// isNotice reports whether the errno may belong to an earlier packet: an ICMP
// message leaves it in sk_err, and the next send returns it without sending
// (sock_alloc_send_pskb, sock_error). __udp4_lib_err and icmp_err_convert,
// __udp6_lib_err and icmpv6_err_convert.
func isNotice(e unix.Errno) bool {
	switch e {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENONET,
		unix.ENOPROTOOPT, unix.EOPNOTSUPP, unix.EMSGSIZE, unix.EACCES, unix.EPROTO:
		return true
	}
	return false
}

// classify puts the sentinel for an errno around it.
func classify(e unix.Errno) error {
	switch {
	case isDeviceGone(e):
		return fmt.Errorf("%w (%w)", ErrDeviceGone, e)
	case isLinkDown(e):
		return fmt.Errorf("%w (%w)", ErrLinkDown, e)
	case isNoRoute(e):
		return fmt.Errorf("%w (%w)", ErrNoRoute, e)
	case isTooBig(e):
		return fmt.Errorf("%w of the path: lower MaxPayload (%w)", ErrMTU, e)
	case isPermission(e):
		return fmt.Errorf("%w (%w)", ErrPermission, e)
	case e == unix.EADDRINUSE:
		return fmt.Errorf("%w (%w)", ErrInUse, e)
	}
	return e
}
