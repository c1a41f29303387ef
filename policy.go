package ipvsync

import (
	"math"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
)

// Defaults of Policy: DEFAULT_SYNC_THRESHOLD and DEFAULT_SYNC_PERIOD of
// include/net/ip_vs.h.
const (
	DefaultSyncThreshold = 3
	DefaultSyncPeriod    = 50
)

// MaxSyncRetries is the most that Policy.Retries can be: the kernel keeps the
// count in two bits.
const MaxSyncRetries = 3

// Fixed numbers of ip_vs_sync_conn_needed.
const (
	refreshFloor = 10 * time.Second // half of a short timeout counts as that
	retryShare   = 8                // a retry may follow after RefreshPeriod/8
)

// States that a Linux master tells, a bit each: ip_vs_sync_conn_needed in
// net/netfilter/ipvs/ip_vs_sync.c, the same in Linux 6.1 and 6.12.
const (
	toldTCP = 1<<encoder.TCPEstablished | 1<<encoder.TCPFinWait | 1<<encoder.TCPClose |
		1<<encoder.TCPCloseWait | 1<<encoder.TCPTimeWait
	toldSCTP = 1<<encoder.SCTPEstablished | 1<<encoder.SCTPShutdownSent | 1<<encoder.SCTPShutdownReceived |
		1<<encoder.SCTPShutdownAckSent | 1<<encoder.SCTPClosed
)

// Policy is a Linux master's choice of what to send, for balancers that ask at
// every packet: the sysctls sync_threshold, sync_refresh_period, sync_retries
// and sync_persist_mode under net.ipv4.vs. The zero value has the kernel's
// defaults. A Policy is only read, so that any number of goroutines may share
// one; each connection has a PolicyState of its own.
//
// After each packet from a client, once the connection's state and timeout are
// up to date:
//
//	conn.packets++
//	if send, prio := policy.Needed(&conn.sync, &conn.Conn, conn.packets, now, tpl != nil); send {
//		shard.PublishPriority(&conn.Conn, prio)
//	}
//	if tpl != nil { // its persistence template
//		n := policy.ControllerPackets(&tpl.Conn, &tpl.packets)
//		if send, prio := policy.Needed(&tpl.sync, &tpl.Conn, n, now, false); send {
//			shard.PublishPriority(&tpl.Conn, prio)
//		}
//	}
//
// In words, a connection is told when
//
//   - its state changes to one that is told, other than ESTABLISHED: at once.
//     TCP tells ESTABLISHED, FIN_WAIT, CLOSE, CLOSE_WAIT and TIME_WAIT; SCTP
//     ESTABLISHED, the three of SHUTDOWN, and CLOSED. In other states these
//     two tell nothing. What has one state only, like UDP, never changes it;
//   - otherwise, its count of packets is due (Threshold, Period), and it was not
//     told too recently (RefreshPeriod, Retries).
//
// Templates are told by the second rule, but with a Period their count does not
// matter: by default a Linux master tells a template at every packet of every
// connection under it, and RefreshPeriod is what reduces that. One-packet
// connections are never told; their templates are.
//
// The kernel counts time in jiffies of which the last two bits hold the retries;
// here it is exact. Where RefreshPeriod is set, a decision within seven jiffies
// (28 ms at 250 Hz) of a boundary may therefore differ from a kernel's. The
// kernel's counts are signed: beyond 2^31 packets of a connection none is due,
// unless Threshold is 0, until the count has wrapped; here the count goes on.
type Policy struct {
	// Threshold and Period are the two numbers of sync_threshold: a connection is
	// told at each packet whose count, modulo Period, is Threshold. With a Period
	// of 0 it is told once, at packet Threshold, or, if there is a RefreshPeriod,
	// at any packet. Both 0 mean the default, 3 and 50; a negative number is 0,
	// so that the kernel's "0 0", which tells state changes only, is −1 and 0.
	Threshold, Period int
	// RefreshPeriod is how far the time at which the connection will end must
	// have moved since it was last told, for it to be told again; or half of its
	// timeout, but at least ten seconds, if that is less. 0 sets no such bound.
	// The sysctl sync_refresh_period is in seconds.
	RefreshPeriod time.Duration
	// Retries is how often, 0 to 3, a connection is told again within
	// RefreshPeriod, an eighth of it apart, in case an update was lost.
	Retries int
	// PersistMode tells no connection that a template controls, as backups can
	// make one from the template: sync_persist_mode.
	PersistMode bool
}

// PolicyState is what Policy remembers of one connection: sync_endtime and
// old_state of struct ip_vs_conn. The zero value is a new connection. It is a
// plain value without pointers, with one owner at a time.
//
// Needed takes what it says to send as sent, like the kernel, which drops without
// a word when its queue is full. A caller who wants the next packet to try again
// keeps a copy, and puts it back when Publish refuses the update.
type PolicyState struct {
	end     time.Duration // when the connection would end, as last told; at first when it began
	state   encoder.State // as last told
	retries uint8         // since it was told for another reason
	flags   stateFlags
}

type stateFlags uint8

const (
	stateBegun stateFlags = 1 << iota // end is set
	stateTold                         // told at least once
)

// Validate says whether a kernel would take the settings. The error is a
// *ConfigError. Needed works with any.
func (p *Policy) Validate() error {
	threshold, period := p.counts()
	switch {
	case period > 0 && threshold >= period:
		return configError("Threshold", "is %d, want less than Period, %d", threshold, period)
	case p.RefreshPeriod < 0:
		return configError("RefreshPeriod", "is %v, want 0 or more", p.RefreshPeriod)
	case p.Retries < 0 || p.Retries > MaxSyncRetries:
		return configError("Retries", "is %d, want 0 to %d", p.Retries, MaxSyncRetries)
	}
	return nil
}

// Needed says whether to send an update of c after one of its packets, and with
// which priority: StateChange for the first update and for those that tell a new
// state, Refresh for all others. It neither allocates nor reads a clock, and
// keeps nothing of c, of which only Protocol, State, Flags and Timeout count.
//
// packets is how many packets of the connection came in, this one included. To be
// called for each of them, the first one too: that call sets when the connection
// began. Packets of the server are not counted, and ask nothing; a change of state
// that they make is told at the client's next packet. now is the caller's clock, of
// any origin, never going back; with no RefreshPeriod it does not matter.
// controlledByTemplate says whether a template controls the connection, directly
// or through another.
//
// c.Timeout is the connection's real one, in seconds; 0 is no default here. Only
// RefreshPeriod needs it.
func (p *Policy) Needed(s *PolicyState, c *Conn, packets uint32, now time.Duration, controlledByTemplate bool) (send bool, priority Priority) {
	if s.flags&stateBegun == 0 {
		s.end = now
		s.flags |= stateBegun
	}
	template, changed := c.Template(), c.State != s.state
	atOnce := false
	switch {
	case c.Flags&encoder.FlagOnePacket != 0:
		return false, Refresh
	case template:
	case p.PersistMode && controlledByTemplate:
		return false, Refresh
	case c.Protocol == encoder.TCP:
		if toldTCP>>c.State&1 == 0 {
			return false, Refresh
		}
		atOnce = changed && c.State != encoder.TCPEstablished
	case c.Protocol == encoder.SCTP:
		if toldSCTP>>c.State&1 == 0 {
			return false, Refresh
		}
		atOnce = changed && c.State != encoder.SCTPEstablished
	}

	timeout := time.Duration(c.Timeout) * time.Second
	end := now + timeout
	retries := uint8(0)
	if !atOnce {
		if p.RefreshPeriod > 0 && (end-s.end).Abs() < min(p.RefreshPeriod, max(timeout/2, refreshFloor)) {
			told := s.end - timeout // approximately when, if the timeout is still the same
			if int(s.retries) >= min(p.Retries, MaxSyncRetries) || now-told < p.RefreshPeriod/retryShare {
				return false, Refresh
			}
			retries = s.retries + 1
		}
		threshold, period := p.counts()
		if period > 0 {
			if !template && packets%period != threshold {
				return false, Refresh
			}
		} else if p.RefreshPeriod <= 0 && packets != threshold {
			return false, Refresh
		}
	}

	priority = Refresh
	if changed || s.flags&stateTold == 0 {
		priority = StateChange
	}
	s.end, s.state, s.retries = end, c.State, retries
	s.flags |= stateTold
	return true, priority
}

// ControllerPackets is the count of packets to ask Needed with about the
// connection that controls another, once that other one has been asked about. For a
// template it adds the packet to packets, the template's own counter, which
// nothing else counts in, and returns it. Another controller, such as the control
// connection of FTP, counts as being at the threshold. Its own controller is next.
//
// A master of version 1 asks about the controller whether or not the controlled
// connection was told. One of version 0 does only if it was.
func (p *Policy) ControllerPackets(controller *Conn, packets *uint32) uint32 {
	if !controller.Template() {
		return p.ThresholdPackets()
	}
	*packets++
	return *packets
}

// ThresholdPackets is the count of packets to ask Needed with where there is no
// packet: when the timer of a connection or template runs out while it controls
// others. Linux then gives it another 60 seconds of Timeout, and asks.
func (p *Policy) ThresholdPackets() uint32 {
	threshold, _ := p.counts()
	return threshold
}

// counts is the two numbers of sync_threshold.
func (p *Policy) counts() (threshold, period uint32) {
	if p.Threshold == 0 && p.Period == 0 {
		return DefaultSyncThreshold, DefaultSyncPeriod
	}
	return uint32(min(max(p.Threshold, 0), math.MaxInt32)), uint32(min(max(p.Period, 0), math.MaxInt32))
}
