package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/doctor"
)

const doctorHelp = `Find out how fast this host can move messages: kernel, rights, and for each
interface its driver, queues, XDP features and addresses, which mode a sender and
a receiver get, and why not each better one. What limits is marked with !, and →
says what to do about it.

With -i, modes are tried out: on a UDP port that nobody uses, without joining a
group, so that no message goes another way. Some drivers set up their queues anew
when an XDP program comes and goes, which can cost all traffic of the interface
some packets; so this is not done where the synchronisation is already at work,
nor without -i. --probe yes does it all the same.

The exit code is 0 if messages can be sent or received by some mode, 1 if not.

With --prove, two hosts show what they can do: one listens, the other sends real
messages to it in each mode, as fast as it can, and prints what arrived. Both ends
use a port of their own; nothing else is disturbed but by the load.`

const doctorExample = `  # what is there
  ipvsync doctor

  # what can eth0 do
  sudo ipvsync doctor -i eth0

  # prove it, zero-copy included: here …
  sudo ipvsync doctor --prove -i eth0 --listen
  # … and on the other host
  sudo ipvsync doctor --prove -i eth0 --peer 192.0.2.1`

type doctorOptions struct {
	iface string
	group netip.Addr
	port  uint16
	probe string
	json  bool
	proof proveOptions
}

func newDoctorCommand() *cobra.Command {
	var o doctorOptions
	cmd := &cobra.Command{
		Use:     "doctor [-i IF]",
		Short:   "Find out what this host can do, and prove it",
		Long:    doctorHelp,
		Example: doctorExample,
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.proof.check(o.iface); err != nil {
				return err
			}
			if !o.group.IsMulticast() {
				return usagef("--group %s is not multicast", o.group)
			}
			if o.proof.prove {
				return o.proof.run(cmd.Context(), &o, cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			return o.run(cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.iface, "interface", "i", "", "network `IF` (default: all, looked at only)")
	f.TextVar(&o.group, "group", ipvsync.DefaultGroup, "multicast group `ADDR` of the synchronisation, to see who uses it")
	f.Uint16Var(&o.port, "port", ipvsync.DefaultPort, "UDP port `N` of the synchronisation, to see who uses it")
	f.StringVar(&o.probe, "probe", string(doctor.Auto), "try modes of AF_XDP: `auto|yes|no`; auto: with -i, where the synchronisation is not at work")
	f.BoolVar(&o.json, "json", false, "print JSON")
	o.proof.add(cmd)
	return cmd
}

func (o *doctorOptions) run(stdout io.Writer) error {
	probe := doctor.Probe(o.probe)
	switch {
	case probe != doctor.Auto && probe != doctor.Yes && probe != doctor.No:
		return usagef("--probe %s: want auto, yes or no", o.probe)
	}
	r, err := doctor.Examine(doctor.Config{Interface: o.iface, Group: o.group, Port: o.port, Probe: probe})
	if err != nil {
		return advise(err)
	}
	if o.json {
		err = printJSON(stdout, r)
	} else {
		err = r.Text(stdout)
	}
	if err == nil && !r.OK() {
		return errors.New("nothing can be sent or received on any interface that was looked at")
	}
	return err
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
