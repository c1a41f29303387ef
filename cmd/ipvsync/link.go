package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
)

// linkFlags are the flags of the commands that use the network, named as
// ipvsadm names them where it has them.
type linkFlags struct {
	iface  string
	syncID syncID
	group  netip.Addr
	port   uint16
	maxLen int
	mode   xsk.Mode
	queues []int
	given  func(flag string) bool
}

func (l *linkFlags) add(cmd *cobra.Command, syncIDUsage, queuesUsage string) {
	f := cmd.Flags()
	l.given = f.Changed
	f.StringVarP(&l.iface, "interface", "i", "", "network `IF` of the synchronisation, required")
	addSyncIDFlag(cmd, &l.syncID, syncIDUsage)
	f.TextVar(&l.group, "group", ipvsync.DefaultGroup, "multicast group `ADDR`, IPv4 or IPv6")
	f.Uint16Var(&l.port, "port", ipvsync.DefaultPort, "UDP port `N`")
	f.IntVar(&l.maxLen, "maxlen", 0, "most `BYTES` of a message, without IP and UDP headers (default: from the MTU)")
	f.TextVar(&l.mode, "mode", xsk.ModeAuto, "how to move packets: `auto` (the best that can be had without harm), zerocopy, copy or generic (AF_XDP), udp-gso or udp")
	f.IntSliceVar(&l.queues, "queues", nil, queuesUsage)
}

const loopUsage = "deliver to receivers on this host as well, which must use UDP (--mode udp-gso)"

const busyPollUsage = "never sleep, for the least delay; takes a whole processor"

// link is what the flags say; group says whether one is wanted.
func (l *linkFlags) link() (ipvsync.Link, error) {
	switch {
	case l.iface == "":
		return ipvsync.Link{}, usagef("-i IF is missing: the interface of the synchronisation network, such as eth0 (ip -br link lists them)")
	case l.port == 0:
		return ipvsync.Link{}, usagef("--port 0: want 1 to 65535; a kernel daemon uses %d", ipvsync.DefaultPort)
	case l.maxLen != 0 && (l.maxLen < encoder.MinMessageSize || l.maxLen > encoder.MaxMessageSize):
		return ipvsync.Link{}, usagef("--maxlen %d: want %d to %d", l.maxLen, encoder.MinMessageSize, encoder.MaxMessageSize)
	}
	return ipvsync.Link{Interface: l.iface, Group: l.group, Port: l.port, MaxSize: l.maxLen, Mode: l.mode, Queues: l.queues}, nil
}

// advise makes an error of opening one of the command line if a flag is to blame, and
// otherwise adds what to do about it.
func (l *linkFlags) advise(err error) error {
	if usage := byFlag(l.given, err); usage != nil {
		return usage
	}
	return advise(err)
}

// advise adds to an error of opening what to do about it, in the terms of the
// command line, where package xsk can only speak of its configuration.
func advise(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, xsk.ErrMTU):
		return fmt.Errorf("%w (--maxlen)", err)
	case errors.Is(err, xsk.ErrPermission):
		return fmt.Errorf("%w (run it as root, or: setcap cap_net_raw,cap_net_admin,cap_bpf,cap_ipc_lock,cap_net_bind_service+ep ipvsync)", err)
	case errors.Is(err, xsk.ErrInUse):
		return fmt.Errorf("%w (--port, --mode)", err)
	}
	return err
}

// newLogger reports what happens on the way to stderr.
func newLogger(stderr io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.LevelKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

// tally is a list of counters, printed without those that are 0.
type tally struct {
	b   strings.Builder
	sep string
}

func (t *tally) add(n uint64, what string) {
	if n == 0 {
		return
	}
	fmt.Fprintf(&t.b, "%s%d %s", t.sep, n, what)
	t.sep = ", "
}

// string begins with head, or is nothing if no counter was above 0.
func (t *tally) string(head string) string {
	if t.b.Len() == 0 {
		return ""
	}
	return head + t.b.String() + "\n"
}

func senderSummary(st *ipvsync.SenderStats) string {
	var drops, net tally
	for r := range ipvsync.DropReason(ipvsync.NumDropReasons) {
		drops.add(st.Dropped[r], r.String())
	}
	t := &st.Transport
	net.add(t.BackPressure, "times back-pressure")
	net.add(t.LinkDown, "times link down")
	net.add(t.TooBig, "packets too big")
	net.add(t.Errors, "packets given up")
	net.add(t.Discarded, "packets discarded")
	net.add(t.Refused, "packets refused by a peer")
	net.add(t.Unreachable, "packets to an unreachable peer")
	net.add(st.Reopened, "times opened anew")
	return fmt.Sprintf("%d records published, %d sent in %d messages, %d bytes, %d packets\n",
		st.Published, st.Sent, st.Messages, st.Bytes, t.Packets) +
		drops.string("records dropped: ") + net.string("network: ")
}

func receiverSummary(st *ipvsync.ReceiverStats) string {
	var ignored, refused, net tally
	for r := range encoder.Reason(encoder.NumReasons) {
		ignored.add(st.Ignored[r], r.String())
		refused.add(st.Refused[r], r.String())
	}
	refused.add(st.Unread, "unread behind one at which a backup stops")
	t := &st.Transport
	net.add(t.SocketDrops, "packets dropped by the kernel (a train of messages is one; no room; over AF_XDP also too long for a frame)")
	net.add(t.Truncated, "messages longer than --maxlen")
	net.add(t.LinkDown, "times link down")
	net.add(t.Errors, "receive errors")
	net.add(st.Reopened, "times opened anew")
	return fmt.Sprintf("%d messages, %d bytes; %d records, %d accepted\n", st.Messages, st.Bytes, st.Records, st.Accepted) +
		ignored.string("messages ignored: ") + refused.string("records refused: ") + net.string("network: ")
}
