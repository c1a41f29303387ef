package bench

import (
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// side is one of two that are compared.
type side struct {
	name string
	// send sends n messages, and returns when the kernel has taken all of them
	// and, where a receiver is part of the work, when that has done with them.
	send func(n int)
	// arrived is how many messages have come to the far end so far.
	arrived func() uint64
}

// tally is what one turn of a side came to.
type tally struct {
	took    time.Duration
	cpu     time.Duration // of the process
	arrived float64       // messages
	mallocs uint64
}

// turn has s send n messages.
func (s *side) turn(n int) (t tally) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	arrived, cpu, start := s.arrived(), cpuTime(), time.Now()
	s.send(n)
	t.took, t.cpu = time.Since(start), cpuTime()-cpu
	t.arrived = float64(s.arrived() - arrived)
	runtime.ReadMemStats(&after)
	t.mallocs = after.Mallocs - before.Mallocs
	return t
}

// cpuTime is the CPU time that this process has used.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err) // there is nothing that could be wrong with it
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// duel compares two sides, turns of n messages each, and reports ours with the
// ratio to theirs. See the rules in doc.go.
func duel(b *testing.B, n int, ours, theirs side) {
	b.Helper()
	if ours.send == nil || theirs.send == nil {
		b.Fatal("a side without work")
	}
	sides := [2]*side{&ours, &theirs}
	var tallies [2][]tally
	for _, s := range sides {
		s.turn(n) // caches, neighbours, lazily made buffers
	}
	for round := 0; b.Loop(); round++ {
		for i := range sides {
			i ^= round & 1 // neither is always first
			tallies[i] = append(tallies[i], sides[i].turn(n))
		}
	}
	b.ReportMetric(0, "ns/op") // of no meaning
	report(b, n, "", tallies[0])
	report(b, n, "opponent-", tallies[1])
	b.ReportMetric(median(tallies[0], func(i int) float64 {
		return tallies[0][i].rate() / tallies[1][i].rate()
	}), "x")
	mallocs := uint64(0)
	for _, t := range tallies[0] {
		mallocs += t.mallocs
	}
	b.ReportMetric(float64(mallocs)/float64(n*len(tallies[0])), "allocs/msg")
}

// rate is messages a second.
func (t *tally) rate() float64 { return t.arrived / t.took.Seconds() }

// report prints the medians of one side.
func report(b *testing.B, n int, prefix string, ts []tally) {
	rate := median(ts, func(i int) float64 { return ts[i].rate() / 1e6 })
	b.ReportMetric(rate*recordsPerMessage, prefix+"Mrec/s")
	b.ReportMetric(rate, prefix+"Mpps")
	var lost, cpu float64
	for _, t := range ts { // the sum: a median would hide a rare loss
		lost += 100 * (float64(n) - t.arrived) / float64(n*len(ts))
	}
	cpu = median(ts, func(i int) float64 { return float64(ts[i].cpu.Nanoseconds()) / float64(n*recordsPerMessage) })
	b.ReportMetric(lost, prefix+"lost-%")
	b.ReportMetric(cpu, prefix+"cpu-ns/rec")
}

// median of f over the indices of ts.
func median[T any](ts []T, f func(i int) float64) float64 {
	v := make([]float64, len(ts))
	for i := range v {
		v[i] = f(i)
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// needProcessors raises GOMAXPROCS for the time of b. See doc.go.
func needProcessors(b *testing.B) {
	if was := runtime.GOMAXPROCS(0); was < 4 {
		runtime.GOMAXPROCS(4)
		b.Cleanup(func() { runtime.GOMAXPROCS(was) })
	}
}
