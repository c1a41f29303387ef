package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/record"
	"github.com/ipvsync/ipvsync/xsk"
)

const backupHelp = `Receive what masters send, and print every record that a Linux backup would
accept, as one JSON line.

What a backup would refuse is counted by reason. Counters go to stderr at the
end, which SIGINT or SIGTERM brings about; what had arrived before is printed
first. With AF_XDP, messages of this group and port no longer reach other programs
on this host, a kernel's backup daemon among them; --mode auto does not use it if one
has the port already, but --mode udp-gso leaves room for those that come later too.
If stdout is too slow, the kernel drops messages, and they are counted.`

const backupExample = `  # watch
  ipvsync backup -i eth0 --syncid 7

  # who is connected to a virtual service
  ipvsync backup -i eth0 | jq -r 'select(.virtual == "198.51.100.1:80") | .client'

  # the first hundred records
  ipvsync backup -i eth0 --count 100

  # keep the table that a kernel backup would have, across restarts, and look at it
  ipvsync backup -i eth0 --table --snapshot /var/lib/ipvsync/table --listen /run/ipvsync.sock
  ipvsync show --count

  # an IPv6 group
  ipvsync backup -i eth0 --group ff02::81`

type backupOptions struct {
	linkFlags
	table   tableFlags
	format  format
	unicast bool
	count   uint64
	rcvBuf  int
	ports   int
	busy    bool
}

func newBackupCommand() *cobra.Command {
	var o backupOptions
	cmd := &cobra.Command{
		Use:     "backup -i IF",
		Short:   "Receive connections from masters and print them",
		Long:    backupHelp,
		Example: backupExample,
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.table.check(cmd.Flags().Changed); err != nil {
				return err
			}
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	o.linkFlags.add(cmd, "SyncID of the messages to accept; 0 accepts all",
		"device queues `N,…` for AF_XDP to receive from (default all)")
	addFormatFlag(cmd, &o.format)
	f := cmd.Flags()
	f.BoolVar(&o.unicast, "unicast", false, "accept messages sent to this host's own addresses as well; with --group '' only those")
	f.Uint64Var(&o.count, "count", 0, "end after `N` records; 0 does not")
	o.rcvBuf, o.ports = ipvsync.DefaultReceiveBuffer, 1
	f.Var(&number{&o.rcvBuf, 1, xsk.MaxBuffer}, "rcvbuf", "socket buffer in `BYTES`; more than net.core.rmem_max takes CAP_NET_ADMIN; with AF_XDP, packet memory for each queue")
	f.Var(&number{&o.ports, 1, ipvsync.MaxPorts}, "ports", "number `N` of UDP ports from --port on, as sync_ports of a kernel master")
	f.BoolVar(&o.busy, "busy-poll", false, busyPollUsage)
	o.table.add(cmd)
	return cmd
}

func (o *backupOptions) run(ctx context.Context, stdout, stderr io.Writer) (err error) {
	link, err := o.link()
	if err != nil {
		return err
	}
	listen := "group " + o.group.String() + ", "
	if !o.group.IsValid() {
		if !o.unicast {
			return usagef("--group '' leaves nothing to listen to: add --unicast, or name a group")
		}
		listen = ""
	}
	if o.unicast {
		listen += "unicast, "
	}
	link.SocketBuffer = o.rcvBuf
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := printer{w: stdout, format: o.format, left: o.count, stop: cancel}
	cfg := ipvsync.ReceiverConfig{Link: link, SyncID: uint8(o.syncID), Ports: o.ports, BusyPoll: o.busy, Unicast: o.unicast, Logger: newLogger(stderr)}
	handler := p.print
	if o.table.on {
		k, startErr := o.table.start(cfg.Logger)
		if startErr != nil {
			return startErr
		}
		handler = k.handle
		defer func() { err = errors.Join(err, k.stop(stderr)) }()
	}
	r, err := ipvsync.NewReceiver(cfg, handler)
	if err != nil {
		return o.advise(err)
	}
	fmt.Fprintf(stderr, "listening on %s, %sport %d, %s\n", o.iface, listen, o.port, acceptedSyncIDs(o.syncID))
	err = r.Run(ctx)
	if closeErr := r.Close(); err == nil {
		err = closeErr
	}
	st := r.Stats()
	fmt.Fprint(stderr, receiverSummary(&st))
	if p.err != nil {
		return p.err
	}
	return err
}

// done says that nothing more is to be printed: stdout is gone, or the records
// that were wanted are there.
func (p *printer) done() bool { return p.err != nil || p.enough }

func acceptedSyncIDs(id syncID) string {
	if id == 0 {
		return "every syncid"
	}
	return fmt.Sprintf("syncid %d", id)
}

// printer prints the records of each message at once, so that a reader never
// waits for one that has arrived.
type printer struct {
	w      io.Writer
	format format
	buf    []byte
	left   uint64 // records still wanted; 0 wants all
	enough bool   // they are there
	stop   context.CancelFunc
	err    error // of stdout; nothing is printed after it
}

func (p *printer) print(m *ipvsync.Message) {
	if p.done() {
		return
	}
	p.buf = p.buf[:0]
	for i := range m.Conns {
		c := &m.Conns[i]
		if p.format == formatText {
			p.buf = append(append(p.buf, c.String()...), '\n')
		} else {
			p.buf = append(record.Append(p.buf, c, ""), '\n')
		}
		if p.left == 1 {
			p.enough = true
			p.stop()
			break
		}
		if p.left > 0 {
			p.left--
		}
	}
	if _, err := p.w.Write(p.buf); err != nil {
		p.err = err
		p.stop()
	}
}
