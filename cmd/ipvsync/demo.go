package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/demo"
)

const demoHelp = `Run a master with synthetic connections and a backup on this machine, show
rates, counters and a sample of the records, and say whether everything arrived.

As root it uses two network namespaces of its own and a veth pair between them,
with AF_XDP if the kernel has it, otherwise loopback. Nothing leaves the machine; it ends by itself. The exit code
is 0 if everything arrived.`

const demoExample = `  # some seconds
  ipvsync demo

  # harder
  sudo ipvsync demo --rate 2000000 --duration 10s`

func newDemoCommand() *cobra.Command {
	cfg := demo.Config{Duration: 4 * time.Second, Rate: 200_000, Workers: 2, Connections: 50_000}
	cmd := &cobra.Command{
		Use:     "demo",
		Short:   "Show a master and a backup at work on this machine",
		Long:    demoHelp,
		Example: demoExample,
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case cfg.Duration <= 0 || cfg.Duration > time.Hour:
				return usagef("--duration %v: want more than 0, at most 1h", cfg.Duration)
			case cfg.Rate < 1:
				return usagef("--rate %d: want at least 1", cfg.Rate)
			case cfg.Workers < 1 || cfg.Workers > 256:
				return usagef("--workers %d: want 1 to 256", cfg.Workers)
			case cfg.Connections < cfg.Workers || cfg.Connections > cfg.Workers<<16:
				return usagef("--connections %d: want 1 to 65536 a worker", cfg.Connections)
			}
			cfg.Out = cmd.OutOrStdout()
			cfg.Summary = func(w io.Writer, st *ipvsync.SenderStats, rst *ipvsync.ReceiverStats) {
				fmt.Fprint(w, "master: "+senderSummary(st)+"backup: "+receiverSummary(rst))
			}
			return demo.Run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.DurationVar(&cfg.Duration, "duration", cfg.Duration, "how long the traffic lasts, a `TIME` such as 10s")
	f.IntVar(&cfg.Rate, "rate", cfg.Rate, "updates `N` per second")
	f.IntVar(&cfg.Workers, "workers", cfg.Workers, "`N` goroutines that publish, each through a shard of its own")
	f.IntVar(&cfg.Connections, "connections", cfg.Connections, "`N` connections that they publish updates of")
	return cmd
}
