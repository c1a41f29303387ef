package dissect

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/capture"
)

// Summary counts what became of everything in a capture. The zero value is
// ready.
type Summary struct {
	Capture    capture.Stats
	OtherPorts int // datagrams that the port filter left out
	Messages   int
	Faulty     int // messages with an error
	Accepted   int // records
	Refused    map[string]int
}

// Add counts a message.
func (s *Summary) Add(m *Message) {
	s.Messages++
	if m.Error != "" {
		s.Faulty++
	}
	for i := range m.Records {
		r := m.Records[i].Refusal
		if r == "" {
			s.Accepted++
			continue
		}
		if s.Refused == nil {
			s.Refused = make(map[string]int)
		}
		s.Refused[r]++
	}
}

// String gives a few lines, without a newline at the end.
func (s *Summary) String() string {
	var b strings.Builder
	c := s.Capture
	b.WriteString(count(c.Packets, "packet"))
	list(&b, []part{
		{c.Whole, "with a datagram"}, {c.Fragments, "with an IP fragment"}, {c.NotUDP, "not UDP"},
		{c.NotIP, "not IP"}, {c.Damaged, "with headers cut off or damaged"},
	})
	if c.Orphans > 0 {
		fmt.Fprintf(&b, "\n%s without the first one", count(c.Orphans, "IP fragment"))
	}
	if s.OtherPorts > 0 {
		fmt.Fprintf(&b, "\n%s to other ports", count(s.OtherPorts, "datagram"))
	}
	fmt.Fprintf(&b, "\n%s", count(s.Messages, "message"))
	if s.Faulty > 0 {
		fmt.Fprintf(&b, ", %d with an error", s.Faulty)
	}
	refused := 0
	var reasons []part
	for _, r := range slices.Sorted(maps.Keys(s.Refused)) {
		refused += s.Refused[r]
		reasons = append(reasons, part{s.Refused[r], r})
	}
	slices.SortStableFunc(reasons, func(a, b part) int { return cmp.Compare(b.n, a.n) })
	fmt.Fprintf(&b, "\n%s: %d accepted, %d refused", count(s.Accepted+refused, "record"), s.Accepted, refused)
	list(&b, reasons)
	return b.String()
}

type part struct {
	n    int
	what string
}

// list writes ": 3 this, 4 that", without those that are 0.
func list(b *strings.Builder, parts []part) {
	sep := ": "
	for _, p := range parts {
		if p.n > 0 {
			fmt.Fprintf(b, "%s%d %s", sep, p.n, p.what)
			sep = ", "
		}
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
