package xsk

import (
	"fmt"
	"net"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// OpenXDPRx opens a receiver. The error is an *Error that is one of ErrConfig,
// ErrInterface, ErrLinkDown, ErrNoAddress, ErrPermission, ErrUnsupported,
// ErrProgramBusy (*ForeignProgramError), ErrZeroCopy, ErrQueueBusy, ErrMemlock,
// or something unforeseen.
func OpenXDPRx(cfg XDPConfig) (_ *XDPRx, err error) {
	r := &XDPRx{cfg: cfg, member: -1}
	defer func() {
		if err != nil {
			r.Close()
			err = &Error{Op: opOpenXDPRx, Interface: cfg.Interface, Err: err}
		}
	}()
	c := &r.cfg
	if err := c.check(false); err != nil {
		return nil, err
	}
	ifi, err := findInterface(c.Interface)
	if err != nil {
		return nil, err
	}
	if _, err := sourceMAC(ifi); err != nil {
		return nil, err
	}
	if c.MaxPayload == 0 {
		c.MaxPayload = max(min(ifi.MTU, c.FrameSize-xdpHeadroom-etherLen)-Overhead4, 1)
	}
	if r.link, err = newLink("receive", ifi); err != nil {
		return nil, err
	}
	local, err := c.locals(ifi)
	if err != nil {
		return nil, err
	}
	r.filter = rxFilter{group: c.Group, local: local, anyLocal: c.AnyLocal,
		first: uint16(c.Port), last: uint16(c.LastPort), vlan: c.VLAN}
	if r.member, err = joinGroup(c, ifi); err != nil {
		return nil, err
	}
	if r.nl, err = newNlConn(unix.NETLINK_ROUTE); err != nil {
		return nil, err
	}
	if r.genl, err = newNlConn(unix.NETLINK_GENERIC); err != nil {
		return nil, err
	}
	facts, err := r.genl.deviceFacts(ifi.Index)
	if err != nil {
		return nil, err
	}
	r.allQueues = len(c.Queues) == 0
	prog := c.Program
	if prog == nil {
		prog, err = OpenProgram(ProgramConfig{
			Interface: c.Interface, Group: c.Group, Local: local, AnyLocal: c.AnyLocal,
			FirstPort: c.Port, LastPort: c.LastPort, VLAN: c.VLAN,
			Generic: c.Generic, GenericOnly: c.GenericOnly, PinnedMap: c.PinnedMap,
		})
		if err != nil {
			return nil, err
		}
		r.prog = prog
		r.unicast = len(local) > 0 && c.PinnedMap == ""
	} else if prog.info.Index != ifi.Index {
		return nil, fmt.Errorf("%w: Program is for interface %s", ErrConfig, prog.info.Interface)
	}
	if err := r.openSockets(prog, facts); err != nil {
		return nil, err
	}
	r.info = XDPInfo{
		Interface: ifi.Name, Index: ifi.Index, MTU: ifi.MTU, MaxPayload: c.MaxPayload,
		Program: prog.Info(), FrameSize: c.FrameSize, Frames: c.RxFrames, ZeroCopy: true,
	}
	var sockets []int
	for _, q := range r.queues {
		r.info.Queues = append(r.info.Queues, q.Queue())
		r.info.ZeroCopy = r.info.ZeroCopy && q.ZeroCopy()
		sockets = append(sockets, q.fd)
	}
	if r.waiter, err = newWaiter(c.OwnThread, true, sockets...); err != nil {
		return nil, err
	}
	r.collects = r.collect
	r.info.WhyCopy = whyCopy(c, facts, r.info.ZeroCopy, prog.info.Generic)
	r.batch = make([]Datagram, 0, c.Batch)
	r.lent = make([]lentFrame, 0, c.Batch)
	r.lastCheck = time.Now()
	r.lastLook = r.lastCheck
	return r, nil
}

// openSockets opens a socket for each queue that was asked for, or all there are.
func (r *XDPRx) openSockets(prog *Program, facts deviceFacts) error {
	c := &r.cfg
	queues := slices.Clone(c.Queues)
	for q := range max(facts.RxQueues, 1) {
		if len(c.Queues) == 0 {
			queues = append(queues, q)
		}
	}
	for _, queue := range queues {
		if facts.RxQueues > 0 && queue >= facts.RxQueues {
			return badField("Queues", "has queue %d: the device has %d to receive, from 0 on", queue, facts.RxQueues)
		}
		s, err := OpenSocket(SocketConfig{
			Interface: c.Interface, Queue: queue, RxFrames: c.RxFrames, FrameSize: c.FrameSize,
			Mode: c.Mode, BusyPoll: c.BusyPoll, Program: prog,
		})
		if err != nil {
			return err
		}
		r.queues = append(r.queues, xdpRxQueue{Socket: s, q: s.Rx(), fd: s.Fd()})
	}
	return nil
}

// joinGroup makes an ordinary socket that is a member of the group, so that the
// device and the switches deliver it. It is bound to no port and receives
// nothing. It also serves to look at the interface.
func joinGroup(c *XDPConfig, ifi *net.Interface) (int, error) {
	s := newSocket(c.Group.IsValid() && c.Group.Is6())
	if c.Group.IsValid() {
		s.step("join "+c.Group.String(), func() error {
			if c.Group.Is6() {
				return unix.SetsockoptIPv6Mreq(s.fd, unix.IPPROTO_IPV6, unix.IPV6_ADD_MEMBERSHIP,
					&unix.IPv6Mreq{Multiaddr: c.Group.As16(), Interface: uint32(ifi.Index)})
			}
			return unix.SetsockoptIPMreqn(s.fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
				&unix.IPMreqn{Multiaddr: c.Group.As4(), Ifindex: int32(ifi.Index)})
		})
	}
	return s.done()
}
