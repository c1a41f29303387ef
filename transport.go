package ipvsync

import (
	"fmt"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
)

// How the transports of package xsk are opened: what a configuration means
// there.

// busyPollTime is how long a system call of a busy-polling socket looks for
// packets (SO_BUSY_POLL), where the loop comes back at once anyway.
const busyPollTime = 20 * time.Microsecond

func (l *Link) xsk(busyPoll bool) xsk.Config {
	c := xsk.Config{
		XDPConfig: xsk.XDPConfig{Interface: l.Interface, Group: l.Group, Port: int(l.Port), MaxPayload: l.MaxSize},
		SndBuf:    l.SocketBuffer, RcvBuf: l.SocketBuffer,
	}
	if busyPoll {
		c.BusyPoll = xsk.BusyPoll{Time: busyPollTime}
	}
	return c
}

// openTx opens the transport of the port.
func (p *port) openTx() (xsk.Tx, xsk.Choice, error) {
	tx, choice, err := p.cfg.openTx(p.number, p.onLost)
	if err != nil {
		return nil, choice, err
	}
	if n := tx.MaxPayload(); n < encoder.MinMessageSize {
		tx.Close()
		return nil, choice, configError("MaxSize", "is %d bytes on interface %s, want at least %d: raise its MTU", n, p.cfg.Interface, encoder.MinMessageSize)
	}
	if p.cfg.OpenTx == nil {
		p.cfg.Logger.Info("sending", "port", p.udpPort(), "mode", choice.String())
	}
	return tx, choice, nil
}

func (cfg *SenderConfig) openTx(port int, lost func([]byte)) (xsk.Tx, xsk.Choice, error) {
	if cfg.OpenTx != nil {
		tx, err := cfg.OpenTx(port, lost)
		return tx, xsk.Choice{}, err
	}
	c := cfg.xsk(cfg.BusyPoll)
	c.Port += port
	c.TTL, c.Loop, c.Peers, c.Lost = cfg.TTL, cfg.Loop, cfg.Peers, lost
	if c.MaxPayload == 0 {
		c.MaxPayload = DefaultMaxSize(c.Interface, c.Group, c.Peers)
	}
	queue, why := cfg.queue(port)
	c.Queues, c.NoXDP = []int{queue}, why
	return xsk.OpenTx(cfg.Mode, c)
}

// queue is the device queue by which a port sends, or why there is none.
func (cfg *SenderConfig) queue(port int) (int, string) {
	if len(cfg.Queues) > 0 {
		if port >= len(cfg.Queues) {
			return 0, fmt.Sprintf("there are %d ports, and %d Queues: name one for each", cfg.Ports, len(cfg.Queues))
		}
		return cfg.Queues[port], ""
	}
	d, err := xsk.LookAtDevice(cfg.Interface)
	if err == nil && d.TxQueues > 0 && port >= d.TxQueues {
		return 0, fmt.Sprintf("there are %d ports, and %s has %d queues to send by: use fewer ports, or make queues (ethtool -L)", cfg.Ports, cfg.Interface, d.TxQueues)
	}
	return port, "" // of a device that there is not, opening it tells more
}

func (cfg *ReceiverConfig) openRx() (xsk.Rx, xsk.Choice, error) {
	if cfg.OpenRx != nil {
		rx, err := cfg.OpenRx()
		return rx, xsk.Choice{}, err
	}
	c := cfg.xsk(cfg.BusyPoll)
	c.LastPort = c.Port + cfg.Ports - 1
	c.Unicast, c.Queues = cfg.Unicast, cfg.Queues
	c.OwnThread = len(cfg.CPUs) > 0
	if n := cfg.SocketBuffer; n > 0 {
		c.RxFrames = frames(n)
	} else {
		c.RcvBuf = DefaultReceiveBuffer
	}
	rx, choice, err := xsk.OpenRx(cfg.Mode, c)
	if err == nil {
		cfg.Logger.Info("receiving", "mode", choice.String())
	}
	return rx, choice, err
}

// frames is how many frames of AF_XDP, of 2048 bytes mostly, make a buffer of
// bytes: a power of two, within what package xsk takes.
func frames(bytes int) int {
	n := 64
	for n < bytes/2048 && n < 1<<16 {
		n *= 2
	}
	return n
}

// Mode tells by which mode the Receiver receives now, and why by none that is
// preferred to it. It is empty for a transport of OpenRx.
func (r *Receiver) Mode() xsk.Choice {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.choice
}
