package main

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/capture"
	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/dissect"
)

// The way of a capture, all on one goroutine, but for reading stdin:
//
//  1. input reads a chunk; before it may block, it flushes stage 5, so that
//     with a live capture every message is seen as soon as it is complete;
//  2. capture.Reader finds the next UDP datagram;
//  3. the port filter drops what goes elsewhere;
//  4. dissect.Dissector takes a backup's decisions;
//  5. the message is appended to the output buffer, and counted.

const decodeHelp = `Print the messages of a capture, pcap or pcapng, and what a Linux 6.1 backup
does with every record in them.

FILE may be - for stdin; then every message is printed as soon as it arrives.
Ethernet with or without VLAN tags, Linux cooked, raw IP and BSD loopback
captures are read, IPv4 and IPv6. IP fragments are put together; such a message
has the number of the packet that completes it.

With --format json (the default), each message is one line:
  {"packet":1,"time":"…","src":"…","dst":"…","version":1,"syncid":7,"size":44,
   "count":1,"records":[{"accepted":true,"reason":"",…}],"error":"","trailer":"…"}
packet      number of the packet in the capture, from 1, counting all packets
time        UTC; "" if the capture has none
size,count  as the message's header says
error       why a backup ignores the message, or at which record it stops, or
            what the capture lacks; "" if nothing is wrong
trailer     base64 of what follows the last record; left out if there is nothing
A record that a backup refuses has "accepted":false and a reason; with --format
text it is marked with "!". Records that a backup never looks at, behind one at
which it stops or in a message that it ignores, are shown as refused.

A summary goes to stderr. If the file is damaged, all that is before the damage
is printed, and the exit code is 1.`

const decodeExample = `  # read it
  ipvsync decode --format text sync.pcap

  # watch it live
  tcpdump -i eth0 -U -w - udp port 8848 | ipvsync decode --format text -

  # a master with sync_ports=4 sends to four ports
  ipvsync decode --port 8848-8851 sync.pcap

  # every message that a backup with SyncID 7 would not take whole
  ipvsync decode --syncid 7 sync.pcap | jq -c 'select(.error != "") | {packet, error}'

  # send the connections of a capture once more, to another network
  ipvsync decode cap.pcap | jq -c '.records[]' | ipvsync master -i eth0 --syncid 7

  # the same, without what the first backup refused
  ipvsync decode cap.pcap | jq -c '.records[] | select(.accepted)' | ipvsync master -i eth0 --syncid 7`

type decodeOptions struct {
	format format
	syncID syncID
	ports  ports
}

func newDecodeCommand() *cobra.Command {
	var o decodeOptions
	cmd := &cobra.Command{
		Use:     "decode FILE",
		Short:   "Print the sync messages of a capture file",
		Long:    decodeHelp,
		Example: decodeExample,
		Args:    exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.Context(), args[0], cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	addFormatFlag(cmd, &o.format)
	addSyncIDFlag(cmd, &o.syncID, "SyncID of the backup; 0 accepts all")
	addPortsFlag(cmd, &o.ports)
	return cmd
}

func (o *decodeOptions) run(ctx context.Context, name string, stdin io.Reader, stdout, stderr io.Writer) error {
	out := bufio.NewWriterSize(stdout, 64<<10)
	in := &input{ctx: ctx, r: stdin, flush: out.Flush, live: true}
	if name != "-" {
		f, err := openFile(ctx, name)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		*in = input{ctx: ctx, r: f, flush: out.Flush, live: !info.Mode().IsRegular()} // <(tcpdump …) is a pipe
	} else {
		name = "stdin"
	}
	var sum dissect.Summary
	err := o.decode(in, out, &sum)
	if flushErr := out.Flush(); flushErr != nil {
		return flushErr // whatever else went wrong came from this
	}
	interrupted := err != nil && ctx.Err() != nil
	if interrupted && in.live {
		err = nil // a live capture has no other end
	}
	if sum.Capture.Packets > 0 || err == nil {
		fmt.Fprintln(stderr, sum.String())
	}
	switch {
	case err == nil:
		return nil
	case interrupted:
		return fmt.Errorf("%s: interrupted after packet %d", name, sum.Capture.Packets)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// decode prints the capture; at its end it returns nil.
func (o *decodeOptions) decode(in io.Reader, out *bufio.Writer, sum *dissect.Summary) error {
	reader, err := capture.NewReader(in)
	if err != nil {
		return err
	}
	defer func() { sum.Capture = reader.Stats }()
	dissector := dissect.Dissector{SyncID: uint8(o.syncID)}
	var (
		dg  capture.Datagram
		msg dissect.Message
		buf []byte
	)
	for {
		if err := reader.Next(&dg); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if !o.ports.has(dg.Dst.Port()) {
			sum.OtherPorts++
			continue
		}
		dissector.Dissect(&dg, &msg)
		sum.Add(&msg)
		if o.format == formatText {
			buf = msg.AppendText(buf[:0])
		} else {
			buf = append(msg.AppendJSON(buf[:0]), '\n')
		}
		if _, err := out.Write(buf); err != nil {
			return err
		}
	}
}
