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
// without stopping anybody: while updates flow, they belong to slightly different
// moments, but never show more that left than came. At rest, after Flush or
// Close,
//
//	Published = Sent + Coalesced + Σ Dropped + Queued
//
// holds exactly, and Queued is 0.
type SenderStats struct {
	Published uint64 // updates offered, less those that still wait for their message to be sealed
	Sent      uint64 // updates that the network took
	Coalesced uint64 // updates replaced by a later one of the same flow
	Dropped   [NumDropReasons]uint64
	Queued    uint64 // updates in sealed messages that have not left yet
	Messages  uint64 // messages sealed
	Bytes     uint64 // of those, without the headers of UDP and below
	Reopened  uint64 // times that a transport was opened anew
	Transport xsk.TxStats

	Ports  []PortStats
	Shards []ShardStats
}

// PortStats are the counters of one UDP port and its transmit loop.
type PortStats struct {
	Mode      xsk.Mode // by which it sends now; see Sender.Modes
	Accepted  uint64   // updates taken out of rings
	Sent      uint64
	Coalesced uint64
	Lost      uint64 // DropTransport
	Unsent    uint64 // DropUnsent
	Messages  uint64
	Bytes     uint64
	Reopened  uint64
	Turns     uint64 // of the loop
	Sleeps    uint64 // of the loop: times that it had nothing to do
	Transport xsk.TxStats
}

// ShardStats are the counters of one shard.
type ShardStats struct {
	Taken   uint64                 // updates that the transmit loop took
	Dropped [NumDropReasons]uint64 // by Publish
	Waiting int                    // bytes in the rings
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
	var st SenderStats
	for _, p := range s.ports {
		ps := p.stats()
		st.Ports = append(st.Ports, ps)
		st.Published += ps.Accepted
		st.Sent += ps.Sent
		st.Coalesced += ps.Coalesced
		st.Dropped[DropTransport] += ps.Lost
		st.Dropped[DropUnsent] += ps.Unsent
		st.Queued += ps.Accepted - ps.Sent - ps.Coalesced - ps.Lost - ps.Unsent
		st.Messages += ps.Messages
		st.Bytes += ps.Bytes
		st.Reopened += ps.Reopened
		st.Transport = st.Transport.Plus(ps.Transport)
	}
	for _, sh := range s.shards {
		ss := ShardStats{Taken: sh.taken.Load(), Waiting: sh.own.Len() + sh.shared.Len()}
		for r := range sh.dropped {
			ss.Dropped[r] = sh.dropped[r].Load()
			st.Dropped[r] += ss.Dropped[r]
			st.Published += ss.Dropped[r]
		}
		st.Shards = append(st.Shards, ss)
	}
	return st
}

func (p *port) stats() PortStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.ended:
		p.sweep()
	default:
	}
	ps := PortStats{
		Mode: p.choice.Mode,
		Sent: p.sent.Load(), Coalesced: p.coalesced.Load(), Lost: p.lost.Load(), Unsent: p.unsent.Load(),
		Messages: p.messages.Load(), Bytes: p.bytes.Load(), Reopened: p.reopened.Load(),
		Turns: p.turns.Load(), Sleeps: p.sleeps.Load(), Transport: p.past.Plus(p.txNow.Stats()),
	}
	ps.Accepted = p.accepted.Load() // last: no more goes than came
	return ps
}

// ReceiverStats are the counters of a Receiver since it was made.
//
//	Messages = Accepted messages + Σ Ignored
//	Records  = Accepted + Σ Refused + Unread
//
// hold whenever no message is being worked on. Records is what the headers of
// accepted messages promise.
type ReceiverStats struct {
	Mode      xsk.Mode                   // by which it receives now; see Receiver.Mode
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
