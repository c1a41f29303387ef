package dissect

import "fmt"

// AppendText appends the message as one line and each record as another, all
// with a newline. A line of a record begins with "!" if a backup refuses it.
func (m *Message) AppendText(dst []byte) []byte {
	when := "no time"
	if !m.Time.IsZero() {
		when = m.Time.Format("2006-01-02 15:04:05.000000")
	}
	h := m.Header
	dst = fmt.Appendf(dst, "#%d %s %s > %s version %d, syncid %d, %d bytes, %s\n",
		m.Packet, when, m.Src, m.Dst, h.Version, h.SyncID, h.Size, count(int(h.Count), "record"))
	if m.Error != "" {
		dst = fmt.Appendf(dst, "  ! %s\n", m.Error)
	}
	width := 21 // 255.255.255.255:65535, or what the widest here takes
	for i := range m.Records {
		c := &m.Records[i].Conn
		width = max(width, len(c.Client.String()), len(c.Virtual.String()), len(c.Dest.String()))
	}
	for i := range m.Records {
		dst = m.Records[i].appendText(dst, width)
	}
	if len(m.Trailer) > 0 {
		dst = fmt.Appendf(dst, "    trailer of %d bytes: %x\n", len(m.Trailer), m.Trailer)
	}
	return dst
}

func (r *Record) appendText(dst []byte, width int) []byte {
	c := &r.Conn
	mark := ' '
	if r.Refusal != "" {
		mark = '!'
	}
	dst = fmt.Appendf(dst, "  %c %-4s %-*s %-*s %-*s %-11s %4ds", mark, c.Protocol,
		width, c.Client, width, c.Virtual, width, c.Dest, c.StateName(), c.Timeout)
	if c.Flags != 0 {
		dst = fmt.Appendf(dst, " %s", c.Flags)
	}
	if c.Fwmark != 0 {
		dst = fmt.Appendf(dst, " fwmark %d", c.Fwmark)
	}
	if in, out, ok := c.Options.Seq(); ok {
		dst = fmt.Appendf(dst, " seq in %v out %v", in, out)
	}
	if name, data, ok := c.Options.PE(); ok {
		dst = fmt.Appendf(dst, " pe %q %q", name, data) // quoted: it comes from the network, to a terminal
	}
	for t, data := range c.Options.All() {
		if !t.Known() {
			dst = fmt.Appendf(dst, " option %#x %x", uint8(t), data)
		}
	}
	if r.Refusal != "" {
		dst = fmt.Appendf(dst, " REFUSED: %s", r.Refusal)
	}
	return append(dst, '\n')
}
