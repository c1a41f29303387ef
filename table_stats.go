package ipvsync

// IgnoreReason says why a record changed nothing in a Table, as it would in a
// kernel's.
type IgnoreReason uint8

// Reasons to ignore a record.
const (
	IgnoredInactive        IgnoreReason = iota // a late word of a connection that another replaced
	IgnoredOnePacket                           // ONE_PACKET, which a backup refuses
	IgnoredTemplateNoCport                     // TEMPLATE with NO_CPORT, which a backup refuses
	IgnoredInvalid                             // family, protocol or state that no accepted record has
	IgnoredClosed                              // applied after Close
	NumIgnoreReasons                           // the number of reasons
)

var ignoreNames = [NumIgnoreReasons]string{"inactive", "one_packet", "template_no_cport", "invalid", "closed"}

// String is the reason as the name of a counter.
func (r IgnoreReason) String() string {
	if r < NumIgnoreReasons {
		return ignoreNames[r]
	}
	return "unknown"
}

// TableStats are the counters of a Table since it was made. Until Close, at
// every moment between records,
//
//	Applied = Added + Updated + Replaced + Σ Ignored + Refused
//	Loads   = Loaded + LoadsKept + LoadsOver + LoadsRefused
//	Entries = Added + Loaded − Expired
type TableStats struct {
	Applied  uint64 // records given to Apply
	Added    uint64 // made a new entry
	Updated  uint64 // changed the entry that was there, or just started its timer again
	Replaced uint64 // ended an entry of another destination and made a new one
	Ignored  [NumIgnoreReasons]uint64
	Refused  uint64 // would have made an entry, but MaxEntries were there

	Loads        uint64 // entries given to Load
	Loaded       uint64
	LoadsKept    uint64 // the table had an entry of that key, which it kept
	LoadsOver    uint64 // nothing was left of its lifetime
	LoadsRefused uint64 // Load returned an error

	Expired uint64 // entries whose time was over
	Missed  uint64 // changes that some subscriber missed
	Entries uint64 // in the table now; it may be some that are over, which nothing else shows
}

// Stats reads the counters. It holds up writers for a moment.
func (t *Table) Stats() TableStats {
	var st TableStats
	t.lock()
	defer t.unlock()
	for i := range t.shards {
		s := &t.shards[i].stats
		st.Applied += s.Applied
		st.Added += s.Added
		st.Updated += s.Updated
		st.Replaced += s.Replaced
		for r := range s.Ignored {
			st.Ignored[r] += s.Ignored[r]
		}
		st.Refused += s.Refused
		st.Loads += s.Loads
		st.Loaded += s.Loaded
		st.LoadsKept += s.LoadsKept
		st.LoadsOver += s.LoadsOver
		st.LoadsRefused += s.LoadsRefused
		st.Expired += s.Expired
		st.Missed += s.Missed
	}
	st.Entries = uint64(t.entries.Load())
	return st
}
