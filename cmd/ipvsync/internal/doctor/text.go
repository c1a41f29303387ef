package doctor

import (
	"fmt"
	"io"
	"strings"
)

// Text writes the report for people.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	h := &r.Host
	row(&b, "host", "Linux %s, %s", h.Kernel, h.Arch)
	row(&b, "", "capabilities: %s", orNone(h.Capabilities))
	memlock := "unlimited"
	if h.Memlock >= 0 {
		memlock = fmt.Sprintf("%d KiB", h.Memlock>>10)
	}
	row(&b, "", "locked memory (RLIMIT_MEMLOCK): %s", memlock)
	findings(&b, h.Findings)
	for i := range r.Interfaces {
		r.Interfaces[i].text(&b)
	}
	if !r.OK() {
		fmt.Fprintln(&b, "\nNothing can be sent or received.")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

const indent = 11

func row(b *strings.Builder, head, format string, args ...any) {
	fmt.Fprintf(b, "%-*s%s\n", indent, head, fmt.Sprintf(format, args...))
}

func findings(b *strings.Builder, list []Finding) {
	for _, f := range list {
		row(b, "", "! %s", f.What)
		if f.Do != "" {
			row(b, "", "  → %s", f.Do)
		}
	}
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, " ")
}

func (d *Device) text(b *strings.Builder) {
	what := []string{d.Driver}
	if d.Driver == "" {
		what[0] = "no driver of its own"
	}
	if d.Kind != "" {
		what = append(what, "virtual ("+d.Kind+")")
	}
	state := map[bool]string{true: "up", false: "down"}[d.Up]
	if d.Up && !d.Carrier {
		state += ", no carrier"
	}
	fmt.Fprintln(b)
	row(b, d.Name, "%s, %s, MTU %d, %s", strings.Join(what, ", "), state, d.MTU, orNone(d.Addresses))
	row(b, "", "queues: %s to receive, %s to send", queues(d.RxQueues, d.RxAllocated), queues(d.TxQueues, d.TxAllocated))
	features := "not told by this kernel (Linux 6.3 does)"
	if d.XDPFeatures != nil {
		features = orNone(d.XDPFeatures)
	}
	row(b, "", "XDP features: %s", features)
	if p := d.Program; p != nil {
		row(b, "", "XDP program: id %d %s, %s", p.ID, p.Name, map[bool]string{true: "generic", false: "of the driver"}[p.Generic])
	}
	if d.DeferIRQs != nil && d.FlushTimeout != nil {
		row(b, "", "busy polling: napi_defer_hard_irqs %d, gro_flush_timeout %d ns", *d.DeferIRQs, *d.FlushTimeout)
	}
	for _, u := range d.PortUsers {
		row(b, "", "in use: %s", u)
	}
	if d.Up && d.NotProbed == nil {
		row(b, "", "tried out, on a port of its own: an XDP program was attached for a moment")
	}
	d.Send.text(b, "send")
	d.Receive.text(b, "receive")
	if f := d.NotProbed; f != nil {
		findings(b, []Finding{{"better modes were not tried: " + f.What, f.Do}})
	}
	findings(b, d.Findings)
}

func queues(n, allocated int) string {
	if n == 0 {
		return fmt.Sprintf("%d allocated", allocated)
	}
	return fmt.Sprint(n)
}

func (w *Way) text(b *strings.Builder, head string) {
	switch {
	case w.Mode == "":
		row(b, "  "+head, "impossible")
	case w.Locked > 0:
		row(b, "  "+head, "%s, queues %v, %d KiB locked", w.Mode, w.Queues, w.Locked>>10)
	default:
		row(b, "  "+head, "%s", w.Mode)
	}
	for i := 0; i < len(w.Not); { // modes with one reason are told together
		f, modes := w.Not[i].Finding, w.Not[i].Mode
		for i++; i < len(w.Not) && w.Not[i].Finding == f; i++ {
			modes += ", " + w.Not[i].Mode
		}
		if w.Not[i-1].Tried {
			findings(b, []Finding{{"not " + modes + ": " + f.What, f.Do}})
		}
	}
}
