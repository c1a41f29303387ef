// Package services knows the virtual services of a kernel's IPVS: what the
// listing of its connections lacks is the forwarding method, and that belongs to the
// destination of a service.
//
// [Ask] asks the kernel, by generic netlink; [Parse] reads what ipvsadm -Sn
// prints, of another host perhaps.
package services

import (
	"net/netip"

	"github.com/ipvsync/ipvsync/encoder"
)

// Service is a virtual service. One by firewall mark has no Protocol and no
// Virtual; one of every port has port 0.
type Service struct {
	Protocol encoder.Protocol
	Virtual  netip.AddrPort
	Fwmark   uint32
	Dests    []Dest
}

// Dest is one of its destinations.
type Dest struct {
	Addr    netip.AddrPort
	Forward encoder.Flags // FwdMasq to FwdBypass
}

// Set is a set of services, to be looked up in. The zero value has none.
type Set struct {
	byAddr map[key]*Service
	byMark map[uint32][]*Service // of both families
	marks  []*Service
}

type key struct {
	protocol encoder.Protocol
	virtual  netip.AddrPort
}

// NewSet makes a Set, which keeps the services.
func NewSet(list []Service) *Set {
	s := &Set{byAddr: map[key]*Service{}, byMark: map[uint32][]*Service{}}
	for i := range list {
		v := &list[i]
		if v.Fwmark != 0 {
			s.byMark[v.Fwmark] = append(s.byMark[v.Fwmark], v)
			s.marks = append(s.marks, v)
		} else {
			s.byAddr[key{v.Protocol, v.Virtual}] = v
		}
	}
	return s
}

// Len is the number of services.
func (s *Set) Len() int { return len(s.byAddr) + len(s.marks) }

// Complete sets the forwarding method of c, NOOUTPUT, which goes with every
// method but masquerading, and the firewall mark of a connection that only a
// service by mark can have made. It says whether it found a destination
// to take them from; if not, c is as before.
//
// The services are tried in the kernel's order (ip_vs_service_find of
// ip_vs_ctl.c), but for the marks, which no listing shows and which are therefore last: address
// and port; for TCP, the FTP service of the address; the service of every
// port; and the services by mark, if those that have the destination agree on the method.
func (s *Set) Complete(c *encoder.Conn) bool {
	dest := c.Dest.AddrPort()
	if c.Protocol == 0 { // template of a service by mark
		for _, v := range s.byMark[c.Fwmark] {
			if d, ok := v.dest(dest); ok {
				set(c, d)
				return true
			}
		}
		return false
	}
	virtual := c.Virtual.AddrPort()
	for _, port := range [...]uint16{virtual.Port(), ftp, 0} {
		if port == ftp && (c.Protocol != encoder.TCP || virtual.Port() != ftpData && virtual.Port() < firstUserPort) {
			continue
		}
		v := s.byAddr[key{c.Protocol, netip.AddrPortFrom(virtual.Addr(), port)}]
		if v == nil {
			continue
		}
		if d, ok := v.dest(dest); ok {
			set(c, d)
			return true
		}
	}
	return s.completeByMark(c, dest)
}

// Ports of the rule for FTP: FTPPORT, FTPDATA, PROT_SOCK of the kernel.
const (
	ftp           = 21
	ftpData       = 20
	firstUserPort = 1024
)

func (s *Set) completeByMark(c *encoder.Conn, dest netip.AddrPort) bool {
	var found Dest
	var mark uint32
	n := 0
	for _, v := range s.marks {
		d, ok := v.dest(dest)
		if !ok {
			continue
		}
		if n++; n > 1 && d.Forward != found.Forward {
			return false
		}
		found, mark = d, v.Fwmark
	}
	if n == 0 {
		return false
	}
	set(c, found)
	if n == 1 {
		c.Fwmark = mark
	}
	return true
}

func set(c *encoder.Conn, d Dest) {
	c.Flags = c.Flags&^(encoder.FlagFwdMask|encoder.FlagNoOutput) | d.Forward
	if d.Forward != encoder.FwdMasq {
		c.Flags |= encoder.FlagNoOutput // __ip_vs_update_dest of ip_vs_ctl.c
	}
}

// dest is the destination of the address: that of the port; or, where the port
// is not the destination's own, as with FTP's data, templates of such services and services of every
// port, one of the address, if all of them have one method.
func (v *Service) dest(addr netip.AddrPort) (Dest, bool) {
	var found Dest
	n := 0
	for _, d := range v.Dests {
		switch {
		case d.Addr == addr:
			return d, true
		case d.Addr.Addr() != addr.Addr():
		case n > 0 && d.Forward != found.Forward:
			n = -1 << 31
		default:
			found = d
			n++
		}
	}
	return found, n > 0
}
