package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

// usageError is a command line that makes no sense.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// errReaderGone says that whoever read stdout has left: head, less, a closed
// terminal. It is no failure.
var errReaderGone = errors.New("nobody reads the output any more")

// outlet is stdout. It tells a reader that has left from every other error, so
// that a broken socket is never taken for one.
type outlet struct{ w io.Writer }

func (o outlet) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe) {
		err = errReaderGone
	}
	return n, err
}

// run is the whole program but for what only a process has. It returns as soon
// as ctx is done.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(outlet{stdout})
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if errors.Is(err, errReaderGone) {
		return nil
	}
	return err
}

// report prints err as one line and gives the exit code.
func report(stderr io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	line := strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	fmt.Fprintf(stderr, "ipvsync: %s\n", line)
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitError
}

const rootHelp = `ipvsync speaks the protocol by which Linux IPVS load balancers tell each other
about their connections (ipvsadm --start-daemon), versions 0 and 1.

Connections are JSON, one record a line, the same for every command; what one
prints another reads, and jq goes in between.

  See it work, on this machine alone:
    ipvsync demo

  Watch what the masters of a network send:
    ipvsync backup -i eth0

  Feed a stock Linux backup (ipvsadm --start-daemon backup --syncid 7 …):
    ipvsync master -i eth0 --syncid 7 --input connections.jsonl

  Give a backup that was down the connections of this kernel master:
    ipvsync resync --from /proc -i eth0 --syncid 7

  See what a master sent, and what a backup made of it:
    tcpdump -i eth0 -w sync.pcap udp port 8848
    ipvsync decode --format text sync.pcap

  Count connections by state:
    ipvsync decode sync.pcap | jq -r '.records[].state' | sort | uniq -c

  Find what a backup with --syncid 7 would refuse, and why:
    ipvsync decode --syncid 7 sync.pcap | jq -c '.records[] | select(.accepted | not)'`

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "ipvsync",
		Short:         "Speak the Linux IPVS connection-sync protocol",
		Long:          rootHelp,
		SilenceErrors: true, // report prints them
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs, // RunE knows better what to say
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			msg := fmt.Sprintf("unknown command %q", args[0])
			if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
				msg += fmt.Sprintf(", did you mean %s?", strings.Join(s, " or "))
			}
			return usagef("%s (ipvsync --help lists the commands)", msg)
		},
		SuggestionsMinimumDistance: 2,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w (%s --help lists the flags)", err, cmd.CommandPath())
	})
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetHelpCommand(newHelpCommand())
	root.AddCommand(newMasterCommand(), newBackupCommand(), newResyncCommand(), newShowCommand(), newDecodeCommand(), newDemoCommand(), newDoctorCommand(), newVersionCommand())
	return root
}

// newHelpCommand replaces cobra's, for which an unknown command is no error.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Explain a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usagef("help: unknown command %q", strings.Join(args, " "))
			}
			return about.Help()
		},
	}
}

// exactArgs wants as many arguments as there are names.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usagef("%s: %s is missing (usage: %s)", cmd.CommandPath(), names[len(args)], cmd.UseLine())
		case len(args) > len(names):
			return usagef("%s: unexpected argument %q (usage: %s)", cmd.CommandPath(), args[len(names)], cmd.UseLine())
		}
		return nil
	}
}
