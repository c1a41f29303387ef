package ipvsync

import "time"

// pace is the schedule of a resync: n records take n/rate seconds, counted from
// a fixed moment, so that nothing adds up. Messages may be late, and the next ones
// catch up, but once a burst of them in a row was late the rest is forgiven: the
// schedule goes on from there. So of the messages of any span of time all but a
// burst have their time in it, however many records each has.
type pace struct {
	from  time.Time // of the monotonic clock
	n     int64     // records sent since
	rate  int64     // records a second
	last  int64     // records of the last message
	late  int       // messages in a row that left late
	burst int       // most of them
}

func newPace(now time.Time, rate, burst int) pace {
	return pace{from: now, rate: int64(rate), burst: burst}
}

// span is the time that n records take.
func (p *pace) span(n int64) time.Duration {
	return time.Duration(n/p.rate)*time.Second + time.Duration(n%p.rate*int64(time.Second)/p.rate)
}

// due is when the next message is due.
func (p *pace) due() time.Time { return p.from.Add(p.span(p.n)) }

// sent accounts for a message that leaves now.
func (p *pace) sent(now time.Time, records int) {
	late := now.After(p.due())
	p.last = int64(records)
	p.n += p.last
	if !late {
		p.late = 0
		return
	}
	if p.late++; p.late >= p.burst {
		p.restart(now, p.last)
	}
}

// flushed says that the last messages have left only now: if the next one is late
// because of that, they are late, too.
func (p *pace) flushed(now time.Time, messages int) {
	if !now.After(p.due()) {
		return
	}
	if p.late = max(p.late, messages); p.late >= p.burst {
		p.restart(now, p.last)
	}
}

// again accounts for records that are repeated, all at once.
func (p *pace) again(now time.Time, records int) { p.restart(now, int64(records)) }

// restart makes the next message due when n records have had their time from now.
func (p *pace) restart(now time.Time, n int64) { p.from, p.n, p.late = now, n, 0 }

// remaining is a timeout for what is left of a life: whole seconds, rounded up,
// as 0 would be the default of the state.
func remaining(left time.Duration) uint32 {
	s := left / time.Second
	if left%time.Second > 0 { // not left + a second, which may be too large
		s++
	}
	return uint32(min(max(s, 1), 1<<32-1))
}
