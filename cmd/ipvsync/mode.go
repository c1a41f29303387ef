package main

import (
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/xsk"
)

// modeFlags choose how packets are moved.
type modeFlags struct {
	mode   xsk.Mode
	set    bool
	queues []int
}

func (m *modeFlags) String() string {
	if !m.set {
		return ""
	}
	return m.mode.String()
}

func (m *modeFlags) Type() string { return "MODE" }

func (m *modeFlags) Set(s string) (err error) {
	m.mode, err = xsk.ParseMode(s)
	m.set = err == nil
	return err
}

const modeUsage = "how to move packets: auto (the best that can be had), zerocopy, copy or generic (AF_XDP), udp-gso or udp " +
	"(default: UDP, with GSO and GRO if the kernel has them)"

func (m *modeFlags) add(cmd *cobra.Command, queuesUsage string) {
	cmd.Flags().Var(m, "mode", modeUsage)
	cmd.Flags().IntSliceVar(&m.queues, "queues", nil, queuesUsage)
}

func (m *modeFlags) config(l ipvsync.Link) xsk.Config {
	return xsk.Config{XDPConfig: xsk.XDPConfig{
		Interface: l.Interface, Group: l.Group, Port: int(l.Port), MaxPayload: l.MaxSize, Queues: m.queues,
	}, SndBuf: l.SocketBuffer, RcvBuf: l.SocketBuffer}
}

// sender makes cfg send in the mode, if one was asked for.
func (m *modeFlags) sender(cfg *ipvsync.SenderConfig, logger *slog.Logger) {
	if !m.set {
		return
	}
	x := m.config(cfg.Link)
	x.TTL, x.Loop, x.Peers = cfg.TTL, cfg.Loop, cfg.Peers
	cfg.OpenTx = func(port int, lost func([]byte)) (xsk.Tx, error) {
		x := x
		x.Port += port
		x.Lost = lost
		if x.MaxPayload == 0 {
			x.MaxPayload = ipvsync.DefaultMaxSize(x.Interface, x.Group, x.Peers)
		}
		tx, choice, err := xsk.OpenTx(m.mode, x)
		if err == nil {
			logger.Info("sending", "mode", choice.String())
		}
		return tx, err
	}
}

// receiver makes cfg receive in the mode, if one was asked for.
func (m *modeFlags) receiver(cfg *ipvsync.ReceiverConfig, logger *slog.Logger) {
	if !m.set {
		return
	}
	x := m.config(cfg.Link)
	x.Unicast = cfg.Unicast
	cfg.OpenRx = func() (xsk.Rx, error) {
		rx, choice, err := xsk.OpenRx(m.mode, x)
		if err == nil {
			logger.Info("receiving", "mode", choice.String())
		}
		return rx, err
	}
}
