package ipvsync

import (
	"iter"

	"github.com/ipvsync/ipvsync/encoder"
)

// Conns yields what Resync sends: every entry that is alive, as a record whose
// Timeout is what is left of its life, in whole seconds, rounded up. Connections
// come first, then those whose client port is not known yet, then templates, so
// that none finds, at a backup, an entry that is not its own; docs/resync.md says
// why. The table is read as the records are taken, three times over.
func (t *Table) Conns() iter.Seq[Conn] {
	return func(yield func(Conn) bool) {
		for _, kind := range [...]encoder.Flags{0, encoder.FlagNoCport, encoder.FlagTemplate} {
			for e := range t.All() {
				if e.Flags&(encoder.FlagNoCport|encoder.FlagTemplate) != kind {
					continue
				}
				e.Timeout = min(e.Timeout, remaining(e.Expires)) // the table's clock ticks: an end may be a little late
				if !yield(e.Conn) {
					return
				}
			}
		}
	}
}
