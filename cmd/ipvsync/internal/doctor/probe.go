package doctor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/xsk"
)

// prober tries modes on one device.
type prober struct {
	d      *Device
	config xsk.Config
}

var (
	group6    = netip.MustParseAddr("ff02::81") // some group: nothing is sent to it
	errUnused = errors.New("not tried")
)

// newProber prepares to try with a port of its own: nothing is sent, no group is
// joined, and what arrives for others is passed on.
func newProber(d *Device) (*prober, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p := &prober{d: d}
	p.config.Interface, p.config.Port = d.Name, int(port)
	return p, nil
}

// freePort is a UDP port that nobody uses at the moment.
func freePort() (uint16, error) {
	c, err := net.ListenUDP("udp", nil)
	if err != nil {
		return 0, fmt.Errorf("find a free UDP port: %w", err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Port(), nil
}

// local is the first address of the device, an IPv4 one if it has any; not valid
// if it has none.
func (d *Device) local() (first netip.Addr) {
	for _, s := range d.Addresses {
		p, err := netip.ParsePrefix(s)
		if err == nil && (!first.IsValid() || first.Is6() && p.Addr().Is4()) {
			first = p.Addr()
		}
	}
	return first
}

// send finds the best mode to send.
func (p *prober) send() Way {
	cfg := p.config
	cfg.Group = ipvsync.DefaultGroup
	if p.d.local().Is6() {
		cfg.Group = group6
	}
	var w Way
	return p.climb(xsk.ModeCopy, func(m xsk.Mode) (Way, []xsk.Rejection, error) {
		tx, c, err := xsk.OpenTx(m, cfg)
		if err != nil {
			return w, c.Rejected, err
		}
		defer tx.Close()
		if x, ok := tx.(*xsk.XDPTx); ok {
			return xdpWay(c, x.Info()), c.Rejected, nil
		}
		return Way{Mode: c.Mode.String()}, c.Rejected, nil
	})
}

// receive finds the best mode to receive.
func (p *prober) receive() Way {
	cfg := p.config
	cfg.Local, cfg.RcvBuf, cfg.RxFrames = p.d.local(), wantedBuffer, wantedBuffer/frameSize
	if !cfg.Local.IsValid() {
		cfg.Group = ipvsync.DefaultGroup // works without, and on this port nobody sends to it
	}
	return p.climb(xsk.ModeUDPGSO, func(m xsk.Mode) (Way, []xsk.Rejection, error) {
		rx, c, err := xsk.OpenRx(m, cfg)
		if err != nil {
			return Way{}, c.Rejected, err
		}
		defer rx.Close()
		if x, ok := rx.(*xsk.XDPRx); ok {
			return xdpWay(c, x.Info()), c.Rejected, nil
		}
		return Way{Mode: c.Mode.String()}, c.Rejected, nil
	})
}

func xdpWay(c xsk.Choice, info xsk.XDPInfo) Way {
	return Way{Mode: c.Mode.String(), Queues: info.Queues, Locked: info.FrameSize * info.Frames * len(info.Queues)}
}

// climb opens what ModeAuto opens. If AF_XDP is not to be tried, it goes down
// from a mode that does nothing to the device when it is opened.
func (p *prober) climb(harmless xsk.Mode, open func(xsk.Mode) (Way, []xsk.Rejection, error)) (w Way) {
	if p.d.NotProbed == nil {
		var rejected []xsk.Rejection
		var err error
		w, rejected, err = open(xsk.ModeAuto)
		w.Not = p.not(rejected, err)
		return w
	}
	var rejected []xsk.Rejection
	for m := xsk.ModeZeroCopy; m <= xsk.ModeUDP; m++ {
		err := error(nil)
		if m < harmless || m == xsk.ModeGeneric {
			err = fmt.Errorf("%w: %s", errUnused, p.d.NotProbed.What)
		} else if w, _, err = open(m); err == nil {
			break
		}
		rejected = append(rejected, xsk.Rejection{Mode: m, Err: err})
	}
	w.Not = p.not(rejected, nil)
	return w
}

// not says what is in the way of each mode. err is that of all of them; if not
// each was tried, it is about no mode, but a link that is down, or an address.
func (p *prober) not(rejected []xsk.Rejection, err error) []Not {
	const modes = 5
	if err != nil && len(rejected) < modes {
		rejected = []xsk.Rejection{{Mode: xsk.ModeAuto, Err: err}}
	}
	list := []Not{}
	for _, r := range rejected {
		list = append(list, Not{r.Mode.String(), !errors.Is(r.Err, errUnused), Finding{r.Err.Error(), p.advise(r.Mode, r.Err)}})
	}
	return list
}
