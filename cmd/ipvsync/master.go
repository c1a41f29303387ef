package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/record"
	"github.com/ipvsync/ipvsync/encoder"
)

const masterHelp = `Read connections, one JSON record a line, and send them to the backups.

The records are those that decode and backup print. protocol, client, virtual
and dest must be there; what else is left out is as follows: state is
ESTABLISHED for tcp and sctp; timeout, flags and fwmark are 0. "accepted", "reason" and "family" are ignored; "flags_raw" wins over
"flags". A template's state is NONE, and a timeout that is left out goes as 0, for
which a backup puts the default of the state.

A line that cannot be sent is reported on stderr with its number, counted, and
left out; with --strict it ends the command. What a backup would refuse, such as
an unknown state, is sent all the same: decode and backup say what becomes of it.
With --sync-version 0, IPv6 is a bad line, and engine data, timeout and fwmark
stay behind, as with a kernel master. Reading is slowed down to what the
network takes, so no record is lost on this side. A stock Linux backup has a
small socket buffer: above some ten thousand records, slow the input down.

At the end of the input everything is sent, counters go to stderr, and the exit
code is 0, or 1 if records were lost or, with --strict, a line was bad.`

const masterExample = `  # one connection, by hand
  echo '{"protocol":"tcp","client":"192.0.2.1:1024","virtual":"198.51.100.1:80","dest":"10.0.0.1:80"}' |
    ipvsync master -i eth0 --syncid 7

  # send the connections of a capture once more
  ipvsync decode sync.pcap | jq -c '.records[]' | ipvsync master -i eth0 --syncid 7

  # relay from one network to another, by unicast
  ipvsync backup -i eth0 --syncid 7 | ipvsync master -i eth1 --syncid 7 --peer 10.1.0.2:8848 --group ''`

type masterOptions struct {
	linkFlags
	ttl     int
	version uint8
	input   string
	strict  bool
	peers   []string
	flush   time.Duration
	loop    bool
	busy    bool
}

func newMasterCommand() *cobra.Command {
	var o masterOptions
	cmd := &cobra.Command{
		Use:     "master -i IF",
		Short:   "Send connections read as JSON lines to backups",
		Long:    masterHelp,
		Example: masterExample,
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.InOrStdin(), cmd.ErrOrStderr())
		},
	}
	o.linkFlags.add(cmd, "SyncID of the messages; backups with another one ignore them",
		"device queue `N` for AF_XDP to send by (default 0)")
	f := cmd.Flags()
	f.IntVar(&o.ttl, "ttl", ipvsync.DefaultTTL, "TTL `N` of multicast packets")
	f.Uint8Var(&o.version, "sync-version", 1, "version of the protocol, `0|1`")
	f.StringVar(&o.input, "input", "-", "read from `FILE`; - is stdin")
	f.BoolVar(&o.strict, "strict", false, "end at the first bad line")
	f.StringSliceVar(&o.peers, "peer", nil, "send to `ADDR:PORT` by unicast as well; with --group '' only there; may be repeated")
	f.DurationVar(&o.flush, "flush-interval", ipvsync.DefaultFlushInterval, "longest `TIME` that a record waits for others to fill its message")
	f.BoolVar(&o.busy, "busy-poll", false, busyPollUsage)
	f.BoolVar(&o.loop, "loop", false, loopUsage)
	return cmd
}

func (o *masterOptions) config(stderr io.Writer) (ipvsync.SenderConfig, error) {
	link, err := o.link()
	switch {
	case err != nil:
		return ipvsync.SenderConfig{}, err
	case o.version > 1:
		return ipvsync.SenderConfig{}, usagef("--sync-version %d: there are 0 and 1", o.version)
	case o.flush < 0:
		return ipvsync.SenderConfig{}, usagef("--flush-interval %v: want 0 or more", o.flush)
	case o.ttl < 1 || o.ttl > 255:
		return ipvsync.SenderConfig{}, usagef("--ttl %d: want 1 to 255", o.ttl)
	case !o.group.IsValid() && len(o.peers) == 0:
		return ipvsync.SenderConfig{}, usagef("--group '' leaves nobody to send to: name a --peer")
	}
	cfg := ipvsync.SenderConfig{
		Link: link, SyncID: uint8(o.syncID), TTL: o.ttl, Version0: o.version == 0, Loop: o.loop,
		FlushInterval: o.flush, BusyPoll: o.busy, Logger: newLogger(stderr),
	}
	if o.flush == 0 {
		cfg.FlushInterval = ipvsync.Immediately
	}
	for _, p := range o.peers {
		ap, err := netip.ParseAddrPort(p)
		if err != nil {
			return cfg, usagef("--peer %q: want an address and a port, 192.0.2.1:8848 or [2001:db8::1]:8848", p)
		}
		cfg.Peers = append(cfg.Peers, ap)
	}
	return cfg, nil
}

func (o *masterOptions) run(ctx context.Context, stdin io.Reader, stderr io.Writer) error {
	cfg, err := o.config(stderr)
	if err != nil {
		return err
	}
	in := &input{ctx: ctx, r: stdin, flush: func() error { return nil }, live: true}
	if o.input != "-" {
		f, err := openFile(ctx, o.input)
		if err != nil {
			return err
		}
		defer f.Close()
		in.r = f
	}
	s, err := ipvsync.NewSender(cfg)
	if err != nil {
		return o.advise(err)
	}
	bad, err := o.feed(ctx, record.NewReader(in), s, stderr)
	closeErr := s.Close()
	st := s.Stats()
	// What could not be encoded was a bad line.
	lost := st.DroppedTotal() - st.Dropped[ipvsync.DropUnencodable]
	fmt.Fprint(stderr, senderSummary(&st))
	if bad > 0 {
		fmt.Fprintf(stderr, "%d bad lines\n", bad)
	}
	switch {
	case err != nil:
		return err
	case closeErr != nil:
		return closeErr
	case lost > 0:
		return fmt.Errorf("%d records were lost", lost)
	}
	return nil
}

// feed publishes what it reads until the end of input, a signal, or, if strict,
// a bad line. It never fills the ring: after a quarter of it, it waits.
func (o *masterOptions) feed(ctx context.Context, r *record.Reader, s *ipvsync.Sender, stderr io.Writer) (bad int, err error) {
	var c encoder.Conn
	shard, since := s.Shard(0), 0
	for {
		err := r.Read(&c)
		if err == nil {
			err = shard.Publish(&c)
			if fe := new(encoder.FieldError); errors.As(err, &fe) {
				err = &record.LineError{Line: r.Line(), Err: err}
			}
		}
		var le *record.LineError
		switch {
		case err == nil:
		case errors.Is(err, io.EOF), ctx.Err() != nil:
			return bad, nil
		case errors.As(err, &le):
			bad++
			if o.strict {
				return bad, fmt.Errorf("%w (--strict)", err)
			}
			fmt.Fprintf(stderr, "ipvsync: %v\n", err)
			continue
		default:
			return bad, err
		}
		since += encoder.MaxRecordSize // at the most
		if len(c.Options) == 0 {
			since += 96 - encoder.MaxRecordSize // with what the ring adds
		}
		if since > ipvsync.DefaultRingSize/4 {
			since = 0
			switch err := s.Flush(ctx); {
			case ctx.Err() != nil:
				return bad, nil
			case errors.Is(err, ipvsync.ErrLost): // told by the log, and by the counters at the end
			case err != nil:
				return bad, err
			}
		}
	}
}
