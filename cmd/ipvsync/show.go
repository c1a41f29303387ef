package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/tableserver"
)

const showHelp = `Print the table of a running ipvsync backup --table --listen, in the columns of
ipvsadm -Lcn, or as JSON records, one a line, with what is left of their life in
"expires".

The listing is no atomic snapshot: each connection is as it was at one moment,
while updates go on. Its order means nothing.`

const showExample = `  ipvsync show
  ipvsync show --virtual 198.51.100.1:80 --state ESTABLISHED
  ipvsync show --client 192.0.2.0/24 --format json | jq -r .dest
  ipvsync show --templates
  ipvsync show --count`

type showOptions struct {
	from                   string
	filter                 tableserver.Filter
	format                 format
	templates, connections bool
	count                  bool
}

func newShowCommand() *cobra.Command {
	var o showOptions
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "Print the connections that a backup keeps",
		Long:    showHelp,
		Example: showExample,
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	addFormatFlag(cmd, &o.format)
	o.format = formatText
	f := cmd.Flags()
	f.Lookup("format").DefValue = string(formatText)
	f.StringVar(&o.from, "from", "unix://"+defaultSocket, "`URL` of the backup: unix://PATH, as in its --listen, or http(s) of a proxy")
	f.StringVar(&o.filter.Protocol, "protocol", "", "only `PROTO`: tcp, udp, sctp, esp, ah or a number")
	f.StringVar(&o.filter.Client, "client", "", "only clients `ADDR`, ADDR:PORT or PREFIX")
	f.StringVar(&o.filter.Virtual, "virtual", "", "only virtual services `ADDR`, ADDR:PORT or PREFIX")
	f.StringVar(&o.filter.Dest, "dest", "", "only destinations `ADDR`, ADDR:PORT or PREFIX")
	f.StringVar(&o.filter.State, "state", "", "only state `NAME`, such as ESTABLISHED")
	f.BoolVar(&o.templates, "templates", false, "only persistence templates")
	f.BoolVar(&o.connections, "connections", false, "no persistence templates")
	f.BoolVar(&o.count, "count", false, "count them by protocol and state")
	return cmd
}

func (o *showOptions) run(ctx context.Context, stdout io.Writer) error {
	switch {
	case o.templates && o.connections:
		return usagef("--templates and --connections leave nothing to show")
	case o.templates:
		o.filter.Template = "true"
	case o.connections:
		o.filter.Template = "false"
	}
	if _, err := o.filter.Compile(); err != nil {
		return usageError{err}
	}
	client, err := tableserver.NewClient(o.from)
	if err != nil {
		return usagef("--from %w", err)
	}
	what, query := "connections", o.filter.Values()
	query.Set("format", string(o.format))
	if o.count {
		what = "count"
	}
	body, err := client.Get(ctx, what, query)
	if err != nil {
		return err
	}
	defer body.Close()
	if o.count && o.format == formatText {
		return printCount(body, stdout)
	}
	if _, err := io.Copy(stdout, body); err != nil {
		return fmt.Errorf("show: %w", err)
	}
	return nil
}

func printCount(body io.Reader, stdout io.Writer) error {
	var c tableserver.Count
	if err := json.NewDecoder(body).Decode(&c); err != nil {
		return fmt.Errorf("show: %w", err)
	}
	text := []byte("pro state        count\n")
	for _, s := range c.States {
		kind := ""
		if s.Template {
			kind = " templates"
		}
		text = fmt.Appendf(text, "%-3s %-11s %6d%s\n", s.Protocol, s.State, s.Count, kind)
	}
	text = fmt.Appendf(text, "all             %6d\n", c.Total)
	_, err := stdout.Write(text)
	return err
}
