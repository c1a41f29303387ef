package xsk

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	bpflink "github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// ProgramConfig describes which packets of a device go to AF_XDP sockets.
type ProgramConfig struct {
	Interface string

	// Group and Local are the destination addresses that are taken, of which
	// at most 16 may be Local. AnyLocal takes every destination that is not
	// multicast, also of packets that this host would forward.
	Group    netip.Addr
	Local    []netip.Addr
	AnyLocal bool

	FirstPort, LastPort int // UDP destination ports, 1…65535; LastPort 0: FirstPort

	// VLAN is the id that the outer tag must have; 0: any, or none.
	VLAN int

	// Generic allows the kernel's own XDP, which works on any device and
	// costs what AF_XDP saves, where the driver has none. GenericOnly asks for it.
	Generic, GenericOnly bool

	// PinnedMap is the path of a pinned BPF_MAP_TYPE_XSKMAP, indexed by
	// receive queue, of a program that is attached already. Then no program
	// is attached, and what is taken is that program's decision.
	PinnedMap string
}

// maxLocal bounds the unicast addresses, which are compared one by one.
const maxLocal = 16

// ProgramInfo tells what was attached.
type ProgramInfo struct {
	Interface string
	Index     int
	ID        uint32 // of the program; 0 with PinnedMap
	Generic   bool   // by the kernel, not by the driver
	Why       string // why not by the driver, if it is not
	Queues    int    // entries of the map
	PinnedMap string
}

// Program is an XDP program on a device, and the map of sockets that it feeds.
// Several sockets, one for each queue, share one. Methods may be called from
// several goroutines.
//
// The program is held by a BPF link of this process: it goes with Close, or with
// the process, however that ends. A program of somebody else is never replaced.
type Program struct {
	info ProgramInfo
	cfg  ProgramConfig

	mu   sync.Mutex
	xsks *ebpf.Map
	prog *ebpf.Program
	link bpflink.Link
}

func (c *ProgramConfig) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...)
	}
	if c.PinnedMap != "" {
		return nil
	}
	c.Group = c.Group.Unmap()
	if c.LastPort == 0 {
		c.LastPort = c.FirstPort
	}
	local := slices.Clone(c.Local)
	for i := range local {
		local[i] = local[i].Unmap().WithZone("")
	}
	c.Local = local
	switch {
	case c.Group.IsValid() && !c.Group.IsMulticast():
		return bad("Group %s is not multicast: use Local", c.Group)
	case !c.Group.IsValid() && len(c.Local) == 0 && !c.AnyLocal:
		return bad("neither Group nor Local nor AnyLocal: nothing to take")
	case len(c.Local) > maxLocal:
		return bad("%d addresses in Local: want up to %d, or AnyLocal", len(c.Local), maxLocal)
	case slices.ContainsFunc(c.Local, func(a netip.Addr) bool { return !a.IsValid() }):
		return bad("an address in Local is empty")
	case c.FirstPort < 1 || c.FirstPort > 65535 || c.LastPort < c.FirstPort || c.LastPort > 65535:
		return bad("ports %d to %d: want 1 to 65535", c.FirstPort, c.LastPort)
	case c.VLAN < 0 || c.VLAN > 4094:
		return bad("VLAN %d: want 1 to 4094, or 0 for any", c.VLAN)
	}
	return nil
}

// OpenProgram loads and attaches the program, or opens the pinned map of one
// that is there. The error is an *Error that is one of ErrConfig, ErrInterface,
// ErrPermission, ErrProgramBusy (*ForeignProgramError), ErrUnsupported, or
// something unforeseen.
func OpenProgram(cfg ProgramConfig) (_ *Program, err error) {
	p := new(Program)
	defer func() {
		if err != nil {
			p.Close()
			err = &Error{Op: "open XDP program", Interface: cfg.Interface, Err: err}
		}
	}()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	ifi, err := findInterface(cfg.Interface)
	if err != nil {
		return nil, err
	}
	p.info = ProgramInfo{Interface: ifi.Name, Index: ifi.Index, PinnedMap: cfg.PinnedMap}
	if cfg.PinnedMap != "" {
		return p, p.openPinned(cfg.PinnedMap)
	}
	facts, err := device(ifi.Index)
	if err != nil {
		return nil, err
	}
	p.info.Queues = max(facts.RxQueues, facts.TxQueues, 64) // queues may be added later: ethtool -L
	p.xsks, err = ebpf.NewMap(&ebpf.MapSpec{Name: "ipvsync_xsks", Type: ebpf.XSKMap,
		KeySize: 4, ValueSize: 4, MaxEntries: uint32(p.info.Queues)})
	if err != nil {
		return nil, explainBPF("make the socket map", err)
	}
	p.cfg = cfg
	if p.prog, err = p.load(); err != nil {
		return nil, err
	}
	if err := p.attach(&cfg, ifi); err != nil {
		return nil, err
	}
	p.identify()
	return p, nil
}

func (p *Program) identify() {
	if info, err := p.prog.Info(); err == nil {
		id, _ := info.ID()
		p.info.ID = uint32(id)
	}
}

// load loads the program that cfg describes.
func (p *Program) load() (*ebpf.Program, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: programName(p.cfg.FirstPort, p.cfg.LastPort), Type: ebpf.XDP,
		License: "Apache-2.0", Instructions: filter(&p.cfg, p.xsks)})
	if err != nil {
		return nil, explainBPF("load the program", err)
	}
	return prog, nil
}

// setLocal puts a program that takes other addresses in place of the one that is
// attached, between two packets: bpf_xdp_link_update. Only of a program that
// this process attached.
func (p *Program) setLocal(local []netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link == nil {
		return fmt.Errorf("the XDP program: %w", ErrClosed)
	}
	before := p.cfg.Local
	p.cfg.Local = local
	err := p.cfg.check()
	var prog *ebpf.Program
	if err == nil {
		prog, err = p.load()
	}
	if err == nil {
		if err = p.link.Update(prog); err != nil {
			prog.Close()
			err = explainBPF("update the program", err)
		}
	}
	if err != nil {
		p.cfg.Local = before
		return err
	}
	p.prog.Close()
	p.prog = prog
	p.identify()
	return nil
}

func (p *Program) openPinned(path string) (err error) {
	p.xsks, err = ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%w: PinnedMap %s does not exist: load the program that pins it first (%w)", ErrConfig, path, err)
		}
		return explainBPF("open the pinned map "+path, err)
	}
	if p.xsks.Type() != ebpf.XSKMap {
		return fmt.Errorf("%w: PinnedMap %s is a map of type %s, want XSKMap", ErrConfig, path, p.xsks.Type())
	}
	p.info.Queues = int(p.xsks.MaxEntries())
	return nil
}

// attach attaches by a BPF link, which the kernel never lets replace a program:
// bpf_xdp_link_attach, dev_xdp_attach.
func (p *Program) attach(c *ProgramConfig, ifi *net.Interface) (err error) {
	try := func(flags bpflink.XDPAttachFlags) error {
		p.link, err = bpflink.AttachXDP(bpflink.XDPOptions{Program: p.prog, Interface: ifi.Index, Flags: flags})
		return err
	}
	if !c.GenericOnly {
		err = try(bpflink.XDPDriverMode)
		if err == nil {
			return nil
		}
		p.info.Why = err.Error()
		if c.Generic && !isProgramBusy(err) && !isPermissionError(err) {
			err = try(bpflink.XDPGenericMode)
			p.info.Generic = err == nil
		}
	} else {
		p.info.Why = "asked for"
		err = try(bpflink.XDPGenericMode)
		p.info.Generic = err == nil
	}
	switch {
	case err == nil:
		return nil
	case isProgramBusy(err):
		if foreign := foreignProgram(ifi.Index); foreign != nil {
			return fmt.Errorf("%w (%w)", foreign, err)
		}
	case errors.Is(err, unix.EOPNOTSUPP) && !c.Generic:
		return fmt.Errorf("%w: the driver of %s has no XDP: allow generic XDP (%w)", ErrUnsupported, ifi.Name, err)
	}
	return explainBPF("attach the program", err)
}

// isProgramBusy: EBUSY, a program or link is attached in this mode; EEXIST, one
// is in the other mode. dev_xdp_attach.
func isProgramBusy(err error) bool { return errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) }

func isPermissionError(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)
}

// foreignProgram names the program on the interface, if there is one.
func foreignProgram(ifindex int) error {
	c, err := newNlConn(unix.NETLINK_ROUTE)
	if err != nil {
		return nil
	}
	defer c.close()
	if id, _, err := c.xdpProgram(ifindex); err == nil && id != 0 {
		return &ForeignProgramError{ID: id}
	}
	return nil
}

func explainBPF(step string, err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case errors.As(err, &verifier):
		return fmt.Errorf("%s: %w", step, err)
	case isPermissionError(err):
		return fmt.Errorf("%w: %s: CAP_BPF and CAP_NET_ADMIN are needed (before Linux 5.8 CAP_SYS_ADMIN, before 5.11 also RLIMIT_MEMLOCK): %w",
			ErrPermission, step, err)
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: %s: %w", ErrUnsupported, step, err)
	}
	return fmt.Errorf("%s: %w", step, err)
}

// Info tells what was attached.
func (p *Program) Info() ProgramInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.info
}

// register enters a bound socket for a queue. The kernel takes it out when the
// socket is released (xsk_delete_from_maps).
func (p *Program) register(queue, fd int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.xsks == nil:
		return fmt.Errorf("the XDP program: %w", ErrClosed)
	case queue >= p.info.Queues:
		return fmt.Errorf("%w: queue %d: the socket map has %d entries", ErrConfig, queue, p.info.Queues)
	}
	err := p.xsks.Update(uint32(queue), uint32(fd), ebpf.UpdateNoExist)
	switch {
	case errors.Is(err, ebpf.ErrKeyExist):
		return fmt.Errorf("%w: the program's map has a socket for queue %d (%w)", ErrQueueBusy, queue, err)
	case err != nil:
		return explainBPF("enter the socket into the map", err)
	}
	return nil
}

// Close detaches the program, if this process attached it. Sockets that it fed
// receive nothing any more. More than one call is fine.
func (p *Program) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	if p.link != nil {
		errs = append(errs, p.link.Close())
	}
	if p.prog != nil {
		errs = append(errs, p.prog.Close())
	}
	if p.xsks != nil {
		errs = append(errs, p.xsks.Close())
	}
	p.link, p.prog, p.xsks = nil, nil, nil
	if err := errors.Join(errs...); err != nil {
		return &Error{Op: "close XDP program", Interface: p.info.Interface, Err: err}
	}
	return nil
}
