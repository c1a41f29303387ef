package doctor

import (
	"fmt"
	"net/netip"
	"strings"
)

// Probe says whether AF_XDP is tried or only looked at.
type Probe string

// Auto tries it where an interface is named and nobody there uses the port of
// the synchronisation.
const (
	Auto Probe = "auto"
	Yes  Probe = "yes"
	No   Probe = "no"
)

// Config says what to examine.
type Config struct {
	Interface string // "": all but loopback
	Group     netip.Addr
	Port      uint16 // of the synchronisation
	Probe     Probe
}

// Examine looks at the host and its devices. It must not be called by two
// goroutines at once: they would find each other's sockets. Errors are about what
// could not be looked at at all, such as an interface that does not exist.
func Examine(cfg Config) (*Report, error) {
	r := new(Report)
	var err error
	if r.Host, err = lookAtHost(); err != nil {
		return nil, err
	}
	list := []string{cfg.Interface}
	if cfg.Interface == "" {
		if list, err = names(); err != nil {
			return nil, err
		}
	}
	for _, name := range list {
		d, err := cfg.examine(name, &r.Host)
		if err != nil {
			return nil, err
		}
		r.Interfaces = append(r.Interfaces, d)
	}
	return r, nil
}

func (cfg *Config) examine(name string, h *Host) (Device, error) {
	d, err := lookAtDevice(name)
	if err != nil {
		return d, err
	}
	d.PortUsers = portUsers(name, cfg.Group, cfg.Port)
	d.Send.Not, d.Receive.Not = []Not{}, []Not{}
	if !d.Up {
		d.Findings = append(d.Findings, Finding{"the interface is down", "ip link set " + name + " up"})
		return d, nil
	}
	why := ""
	switch {
	case cfg.Probe == No:
		why = "--probe no"
	case cfg.Probe == Yes:
	case cfg.Interface == "":
		why = "no interface was named"
	case len(d.PortUsers) > 0:
		why = "the synchronisation is at work here"
	}
	if why != "" {
		d.NotProbed = &Finding{why, fmt.Sprintf("ipvsync doctor -i %s --probe yes, when a short disturbance of %s does no harm", name, name)}
	}
	p, err := newProber(&d)
	if err != nil {
		return d, err
	}
	d.Send, d.Receive = p.send(), p.receive()
	d.judge(h)
	if receives := receivers(d.PortUsers); receives != "" {
		d.Findings = append(d.Findings, Finding{
			fmt.Sprintf("%s: a receiver in mode auto takes UDP here, since AF_XDP would take the messages away from it", receives),
			fmt.Sprintf("see who it is: ss -uanp 'sport = :%d'; ipvsadm --stop-daemon backup ends that of the kernel", cfg.Port),
		})
	}
	return d, nil
}

func receivers(users []string) string {
	for _, u := range users {
		if strings.Contains(u, "receives") {
			return u
		}
	}
	return ""
}
