package prove

import (
	"fmt"
	"io"
	"strings"

	"github.com/ipvsync/ipvsync/xsk"
)

// Result is what the prover found out. Its JSON is the output of --json.
type Result struct {
	Here Host   `json:"here"`
	Peer Host   `json:"peer"`
	To   string `json:"to"`
	Runs []Run  `json:"runs"`
}

// Run is one mode.
type Run struct {
	Mode    string `json:"mode"` // asked for, at both ends
	Send    End    `json:"send"`
	Receive End    `json:"receive"`

	Sent       uint64      `json:"sent"` // messages that the kernel took
	Lost       uint64      `json:"lost"` // sent, and not arrived
	Records    uint64      `json:"records"`
	Seconds    float64     `json:"seconds"` // from the first to the last message sent
	Count      Count       `json:"count"`   // by the listener
	Stats      xsk.TxStats `json:"stats"`
	Error      string      `json:"error,omitempty"` // why there are no figures
	SendRate   float64     `json:"send_rate"`       // records per second
	ArriveRate float64     `json:"arrive_rate"`
}

// End is how one end moved its packets.
type End struct {
	Mode     string `json:"mode"`      // got; "": none
	ZeroCopy bool   `json:"zero_copy"` // as the kernel says of the socket, by XDP_OPTIONS
	Why      string `json:"why,omitempty"`
}

// Works says whether in some mode anything arrived.
func (r *Result) Works() bool {
	for i := range r.Runs {
		if r.Runs[i].Count.Arrived > 0 {
			return true
		}
	}
	return false
}

// zeroCopy says what was shown of it.
func (r *Result) zeroCopy() string {
	var send, receive bool
	for i := range r.Runs {
		if run := &r.Runs[i]; run.Count.Arrived > 0 {
			send, receive = send || run.Send.ZeroCopy, receive || run.Receive.ZeroCopy
		}
	}
	switch {
	case send && receive:
		return "zero-copy: proven, at both ends"
	case send:
		return "zero-copy: proven for sending"
	case receive:
		return "zero-copy: proven for receiving"
	}
	return "zero-copy: not shown here"
}

// Text writes the result for people.
func (r *Result) Text(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "from %s to %s at %s\n\n", r.Here, r.Peer, r.To)
	fmt.Fprintf(&b, "%-9s %-9s %-9s %10s %10s %9s %14s %14s\n", "mode", "send", "receive", "sent", "arrived", "lost", "records/s out", "records/s in")
	for i := range r.Runs {
		r.Runs[i].text(&b)
	}
	fmt.Fprintf(&b, "\nSent and arrived are messages. %s.\n", r.zeroCopy())
	_, err := io.WriteString(w, b.String())
	return err
}

func (h Host) String() string {
	return fmt.Sprintf("%s (%s, Linux %s)", h.Interface, h.Driver, h.Kernel)
}

func (r *Run) text(b *strings.Builder) {
	dash := func(s string) string {
		if s == "" {
			return "–"
		}
		return s
	}
	fmt.Fprintf(b, "%-9s %-9s %-9s ", r.Mode, dash(r.Send.Mode), dash(r.Receive.Mode))
	if r.Sent == 0 {
		fmt.Fprintf(b, "%10s %10s\n", "–", "–")
	} else {
		fmt.Fprintf(b, "%10d %10d %8.3f%% %14.0f %14.0f\n", r.Sent, r.Count.Arrived, 100*float64(r.Lost)/float64(r.Sent), r.SendRate, r.ArriveRate)
	}
	for _, s := range []struct{ what, text string }{
		{"sender", r.Send.Why}, {"receiver", r.Receive.Why}, {"", r.Error}, {"", r.remarks()},
	} {
		switch {
		case s.text == "":
		case s.what == "":
			fmt.Fprintf(b, "          %s\n", s.text)
		default:
			fmt.Fprintf(b, "          %s: %s\n", s.what, s.text)
		}
	}
}

// remarks names what should not be, and where losses were counted.
func (r *Run) remarks() string {
	var list []string
	add := func(n uint64, what string) {
		if n > 0 {
			list = append(list, fmt.Sprintf("%d %s", n, what))
		}
	}
	c, tx, rx := &r.Count, &r.Stats, &r.Count.Stats
	add(c.Duplicates, "messages twice")
	add(c.Reordered, "out of order")
	add(c.Refused, "records refused")
	add(c.Foreign, "foreign messages")
	add(tx.Errors+tx.TooBig+tx.Discarded, "packets given up by the sender")
	add(tx.Withdrawn, "time GSO was withdrawn")
	add(rx.SocketDrops, "packets dropped by the receiver's kernel (SocketDrops; a train of messages, GSO or GRO, is one packet)")
	add(rx.BadLength+rx.BadHeader+rx.BadChecksum+rx.Fragments+rx.NoChecksum+rx.Truncated, "damaged or too long")
	return strings.Join(list, ", ")
}
