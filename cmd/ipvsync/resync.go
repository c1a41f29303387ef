package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/services"
	"github.com/ipvsync/ipvsync/encoder"
)

const resyncHelp = `Send connections that exist already to backups, paced so that a stock kernel
backup can follow: for one that was down, or is new. Their source is

  unix:///run/ipvsync.sock   a running ipvsync backup --table --listen, or an
                             http(s) URL of a proxy in front of it
  FILE                       a snapshot of it, a copy of /proc/net/ip_vs_conn,
                             or JSON records, one a line; it is seen which
  /proc                      the IPVS of this host: a kernel master
  -                          any of these on stdin

What is sent as timeout is what is left of a connection's life; for JSON records it
is their timeout, also where they have "expires", as ipvsync show --format json prints.
The lives in a file run on while it is sent. An empty source is an error. Connections that are over are counted and left out.

A kernel's listing shows neither forwarding methods nor firewall marks: they are
taken from its services, which are asked for by netlink (CAP_NET_ADMIN) or, for a
copy, read from --services, what ipvsadm -Sn has printed. A connection whose service
is not known is sent with --forward, and counted.

The pace that a backup takes without loss, and where its host counts losses,
is explained in docs/resync.md. The exit code is 0 if every connection of the source was sent,
otherwise 1.`

const resyncExample = `  # a rebooted kernel backup, from the kernel master itself
  ipvsync resync --from /proc -i eth0 --syncid 7

  # the same by way of another host
  ssh lb1 'cat /proc/net/ip_vs_conn' > conns; ssh lb1 ipvsadm -Sn > services
  ipvsync resync --from conns --services services -i eth0 --syncid 7

  # from the table that ipvsync keeps, or from its last snapshot
  ipvsync resync --from unix:///run/ipvsync.sock -i eth0 --syncid 7
  ipvsync resync --from /var/lib/ipvsync/table -i eth0 --syncid 7

  # one backup alone, by unicast, in a hurry
  ipvsync resync --from /proc -i eth0 --group '' --peer 10.1.0.2:8848 --rate 200000`

type resyncOptions struct {
	linkFlags
	from    string
	rate    int
	burst   int
	ttl     int
	peers   []string
	file    string // of services
	forward method
	loop    bool
}

func newResyncCommand() *cobra.Command {
	var o resyncOptions
	cmd := &cobra.Command{
		Use:     "resync --from SOURCE -i IF",
		Short:   "Send existing connections to a backup that was away",
		Long:    resyncHelp,
		Example: resyncExample,
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.InOrStdin(), cmd.ErrOrStderr())
		},
	}
	o.linkFlags.add(cmd, "SyncID of the messages; backups with another one ignore them",
		"device queue `N` for AF_XDP to send by (default 0)")
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "`SOURCE` of the connections, required")
	f.IntVar(&o.rate, "rate", ipvsync.DefaultResyncRate, "most records `N` a second")
	f.IntVar(&o.burst, "burst", ipvsync.DefaultResyncBurst, "most messages `N` back to back")
	f.IntVar(&o.ttl, "ttl", ipvsync.DefaultTTL, "TTL `N` of multicast packets")
	f.StringSliceVar(&o.peers, "peer", nil, "send to `ADDR:PORT` by unicast as well; with --group '' only there; may be repeated")
	f.StringVar(&o.file, "services", "", "take forwarding methods from `FILE`, which ipvsadm -Sn has printed; default for /proc: ask the kernel")
	f.Var(&o.forward, "forward", "forwarding method of connections of a listing whose service is not known")
	f.BoolVar(&o.loop, "loop", false, loopUsage)
	return cmd
}

const progressEvery = 5 * time.Second

// method is a forwarding method.
type method struct{ flags encoder.Flags }

var methods = []string{"masq", "local", "tunnel", "droute", "bypass"}

func (m *method) String() string { return methods[m.flags] }
func (m *method) Type() string   { return "METHOD" }

func (m *method) Set(s string) error {
	for i, name := range methods {
		if s == name {
			m.flags = encoder.Flags(i)
			return nil
		}
	}
	return fmt.Errorf("want masq, local, tunnel, droute or bypass")
}

// services gives what is known of them; of a copy of a listing that is nothing,
// unless there is a file.
func (o *resyncOptions) services(here bool) (*services.Set, error) {
	var list []services.Service
	var err error
	switch {
	case o.file != "":
		var f *os.File
		if f, err = os.Open(o.file); err != nil {
			return nil, err
		}
		defer f.Close()
		if list, err = services.Parse(f); err != nil {
			return nil, fmt.Errorf("%s: %w", o.file, err)
		}
	case here:
		if list, err = services.Ask(); err != nil {
			return nil, fmt.Errorf("%w (--services FILE takes the output of ipvsadm -Sn instead)", err)
		}
	}
	return services.NewSet(list), nil
}

func (o *resyncOptions) run(ctx context.Context, stdin io.Reader, stderr io.Writer) error {
	switch {
	case o.from == "":
		return usagef("--from SOURCE is missing: /proc, a file, unix:///path/of/socket, or -")
	case o.rate < 1:
		return usagef("--rate %d: want 1 or more", o.rate)
	case o.burst < 1 || o.burst > 1024:
		return usagef("--burst %d: want 1 to 1024", o.burst)
	}
	m := masterOptions{linkFlags: o.linkFlags, ttl: o.ttl, version: 1, peers: o.peers, loop: o.loop, flush: ipvsync.DefaultFlushInterval}
	cfg, err := m.config(stderr)
	if err != nil {
		return err
	}
	cfg.Shards = 1
	src, err := o.open(ctx, stdin, stderr)
	if src != nil {
		defer src.close()
	}
	if err != nil {
		return fmt.Errorf("resync: %w", err)
	}
	s, err := ipvsync.NewSender(cfg)
	if err != nil {
		return o.advise(err)
	}
	told := time.Now()
	st, err := ipvsync.Resync(ctx, s, src.conns(), ipvsync.ResyncConfig{Rate: o.rate, Burst: o.burst, Progress: func(st ipvsync.ResyncStats) {
		if time.Since(told) > progressEvery {
			told = time.Now()
			fmt.Fprintf(stderr, "%d connections sent so far\n", st.Sent)
		}
	}})
	closeErr := s.Close()
	sender := s.Stats()
	fmt.Fprint(stderr, resyncSummary(&st, src), senderSummary(&sender))
	switch missed := st.Records - st.Sent + uint64(src.bad); {
	case err != nil:
		return err
	case src.err != nil:
		return fmt.Errorf("resync: read %s: %w", o.from, src.err)
	case closeErr != nil:
		return closeErr
	case missed > 0:
		err = fmt.Errorf("%d connections were not sent", missed)
		if st.FirstRefused != nil {
			err = errors.Join(err, st.FirstRefused)
		}
		return err
	}
	return nil
}

func resyncSummary(st *ipvsync.ResyncStats, src *source) string {
	var t tally
	t.add(st.Refused, "cannot be encoded")
	t.add(st.Lost, "lost by the transport")
	t.add(st.Unconfirmed, "perhaps not sent")
	t.add(uint64(src.bad), "bad lines")
	t.add(uint64(src.over), "left out, their life was over")
	t.add(uint64(src.unknown), "of no known service: forwarding method by --forward")
	t.add(st.Repeated, "sent again")
	return fmt.Sprintf("%d connections sent in %v\n", st.Sent, st.Elapsed.Round(time.Millisecond)) + t.string("connections: ")
}
