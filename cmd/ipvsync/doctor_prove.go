package main

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/prove"
)

// proveOptions are those of doctor --prove.
type proveOptions struct {
	prove     bool
	listen    bool
	peer      string
	port      uint16
	count     uint64
	time      time.Duration
	rate      uint64
	multicast bool
	timeout   time.Duration
	set       func(name string) bool
}

func (o *proveOptions) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.prove, "prove", false, "prove the path to another host: --listen there, --peer here")
	f.BoolVar(&o.listen, "listen", false, "wait for a prover, and count what it sends")
	f.StringVar(&o.peer, "peer", "", "`ADDR[:PORT]` of the host that listens")
	f.Uint16Var(&o.port, "prove-port", prove.DefaultPort, "port `N` of the listener, TCP and UDP")
	f.Uint64Var(&o.count, "count", 500_000, "`N` messages in each mode")
	f.DurationVar(&o.time, "time", 5*time.Second, "longest `TIME` to send in each mode")
	f.Uint64Var(&o.rate, "rate", 0, "`N` messages a second; 0: as many as go")
	f.BoolVar(&o.multicast, "multicast", false, "send to the --group in place of the peer's address, as masters do; every member gets the load")
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "`TIME` that the listener waits and serves")
	o.set = f.Changed
}

func (o *proveOptions) check(iface string) error {
	if !o.prove {
		for _, name := range []string{"listen", "peer", "prove-port", "count", "time", "rate", "multicast", "timeout"} {
			if o.set(name) {
				return usagef("--%s belongs to --prove", name)
			}
		}
		return nil
	}
	switch {
	case iface == "":
		return usagef("--prove: -i IF is missing: the interface to prove (ip -br link lists them)")
	case o.listen == (o.peer != ""):
		return usagef("--prove: want --listen at one host, and --peer ADDR, which names it, at the other")
	case o.port == 0:
		return usagef("--prove-port 0: want 1 to 65535")
	case o.count < 1 || o.count > prove.MaxMessages:
		return usagef("--count %d: want 1 to %d", o.count, prove.MaxMessages)
	case o.time <= 0 || o.time > time.Hour:
		return usagef("--time %v: want more than 0, at most 1h", o.time)
	case o.timeout <= 0:
		return usagef("--timeout %v: want more than 0", o.timeout)
	}
	return nil
}

func (o *proveOptions) peerAddr() (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(o.peer)
	if err != nil {
		a, e := netip.ParseAddr(o.peer)
		if e != nil {
			return ap, usagef("--peer %q: want an address, with or without a port: 192.0.2.1, 192.0.2.1:%d or [2001:db8::1]:%d", o.peer, prove.DefaultPort, prove.DefaultPort)
		}
		ap = netip.AddrPortFrom(a, o.port)
	}
	if ap.Port() == 0 {
		return ap, usagef("--peer %s: port 0, want 1 to 65535", o.peer)
	}
	return ap, nil
}

func (o *proveOptions) run(ctx context.Context, d *doctorOptions, stdout, stderr io.Writer) error {
	log := newLogger(stderr)
	if o.listen {
		return advise(prove.Listen(ctx, prove.ListenConfig{Interface: d.iface, Port: o.port, Timeout: o.timeout, Log: log}))
	}
	peer, err := o.peerAddr()
	if err != nil {
		return err
	}
	cfg := prove.Config{Interface: d.iface, Peer: peer, Messages: o.count, Time: o.time, Rate: o.rate, Log: log}
	if o.multicast {
		cfg.Group = d.group
	}
	r, err := prove.Prove(ctx, cfg)
	if r != nil {
		var e error
		if d.json {
			e = printJSON(stdout, r)
		} else {
			e = r.Text(stdout)
		}
		err = errors.Join(err, e)
	}
	if err == nil && !r.Works() {
		err = errors.New("nothing arrived in any mode")
	}
	return advise(err)
}
