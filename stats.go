package ipvsync

import (
	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
)

// DropReason says why an update was not sent.
type DropReason uint8

// Reasons to drop an update.
const (
	DropRingFull    DropReason = iota // the shard's ring had no room
	DropUnencodable                   // the record cannot be encoded, or fits no message
	DropClosed                        // published after Close
	DropTransport                     // the transport gave the message up
	DropUnsent                        // still in a ring when Close gave up
	numDropReasons
)

// NumDropReasons is the number of reasons, for arrays of counters.
const NumDropReasons = int(numDropReasons)

var dropNames = [numDropReasons]string{"ring_full", "unencodable", "closed", "transport", "unsent"}

// String is the reason as the name of a counter.
func (r DropReason) String() string {
	if r < numDropReasons {
		return dropNames[r]
	}
	return "unknown"
}

// SenderStats are the counters of a Sender since it was made. They are read
// without stopping anybody, so that while updates flow they belong to slightly
// different moments. At rest, after Flush or Close,
//
//	Published = Sent + Coalesced + Σ Dropped + Queued
//
// holds exactly, and Queued is 0.
type SenderStats struct {
	Published uint64 // updates offered, less those that still lie in a ring
	Sent      uint64 // updates that the network took
	Coalesced uint64 // updates replaced by a later one of the same flow
	Dropped   [NumDropReasons]uint64
	Queued    uint64 // updates in messages that have not left yet
	Messages  uint64 // messages sealed
	Bytes     uint64 // of those, without the headers of UDP and below
	Reopened  uint64 // times that the transport was opened anew
	Transport xsk.TxStats
}

// DroppedTotal is the sum of Dropped.
func (s *SenderStats) DroppedTotal() (n uint64) {
	for _, x := range s.Dropped {
		n += x
	}
	return n
}

// Stats reads the counters.
func (s *Sender) Stats() SenderStats {
	l := s.loop
	select {
	case <-l.ended:
		l.mu.Lock()
		l.sweep()
		l.mu.Unlock()
	default:
	}
	var st SenderStats
	st.Sent, st.Messages, st.Bytes, st.Reopened = l.sent.Load(), l.messages.Load(), l.bytes.Load(), l.reopened.Load()
	st.Dropped[DropTransport], st.Dropped[DropUnsent] = l.lost.Load(), l.stranded.Load()
	decided := st.Sent + st.Dropped[DropTransport] + st.Dropped[DropUnsent]
	for _, sh := range l.shards {
		st.Published += sh.taken.Load()
		for r := range sh.dropped {
			st.Dropped[r] += sh.dropped[r].Load()
			st.Published += sh.dropped[r].Load()
		}
	}
	taken := st.Published - st.DroppedTotal() + st.Dropped[DropTransport] + st.Dropped[DropUnsent]
	st.Queued = taken - decided
	l.mu.Lock()
	st.Transport = l.past.Plus(l.txNow.Stats())
	l.mu.Unlock()
	return st
}

// ReceiverStats are the counters of a Receiver since it was made.
//
//	Messages = Accepted messages + Σ Ignored
//	Records  = Accepted + Σ Refused + Unread
//
// hold whenever no message is being worked on. Records is what the headers of
// accepted messages promise.
type ReceiverStats struct {
	Messages  uint64                     // datagrams that arrived
	Bytes     uint64                     // of those, payload
	Ignored   [encoder.NumReasons]uint64 // messages ignored as a whole, by reason
	Records   uint64                     // records promised by the messages not ignored
	Accepted  uint64                     // records handed to the handler
	Refused   [encoder.NumReasons]uint64 // records refused, by reason
	Unread    uint64                     // records behind one at which the kernel stops, or missing
	Reopened  uint64                     // times that the transport was opened anew
	Transport xsk.RxStats
}

// RefusedTotal is the sum of Refused.
func (s *ReceiverStats) RefusedTotal() (n uint64) {
	for _, x := range s.Refused {
		n += x
	}
	return n
}

// IgnoredTotal is the sum of Ignored.
func (s *ReceiverStats) IgnoredTotal() (n uint64) {
	for _, x := range s.Ignored {
		n += x
	}
	return n
}
