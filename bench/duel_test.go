package bench

import (
	"fmt"
	"os"
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
	// It is called on a thread of nearCPU.
	send func(n int)
	// arrived is how many messages have come to the far end so far.
	arrived func() uint64
	// ended is when the last of a turn arrived: the wait for what was lost is not
	// part of the rate. nil: when send returns.
	ended func() time.Time
}

// tally is what one turn of a side came to.
type tally struct {
	took    time.Duration
	cpu     time.Duration // of the process
	arrived float64       // messages
	mallocs uint64
}

// turn has s send n messages.
func (s *side) turn(b *testing.B, n int) (t tally) {
	var before, after runtime.MemStats
	arrived := s.arrived()
	onCPU(b, nearCPU, func() {
		runtime.ReadMemStats(&before)
		cpu, start := cpuTime(), time.Now()
		s.send(n)
		t.took, t.cpu = time.Since(start), cpuTime()-cpu
		if s.ended != nil {
			t.took = s.ended().Sub(start)
		}
		runtime.ReadMemStats(&after)
	})
	t.arrived = float64(s.arrived() - arrived)
	t.mallocs = after.Mallocs - before.Mallocs
	return t
}

// nearCPU is the processor of what sends, farCPU that of what receives, and of the
// engine's producer. Left to itself, the kernel likes to put a receiver onto the
// processor that woke it, the sender's, and a producer there as well.
const nearCPU, farCPU = 0, 1

// pin binds the calling goroutine, which must end with its work, to a processor.
func pin(tb testing.TB, cpu int) {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		tb.Errorf("processor %d: %v", cpu, err)
	}
}

// onCPU runs f on a processor.
func onCPU(tb testing.TB, cpu int, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		pin(tb, cpu)
		f()
	}()
	<-done
}

// cpuTime is the CPU time that this process has used.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err) // there is nothing that could be wrong with it
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// othersTime is the CPU time that anybody but this process has used, in and
// outside of this machine: /proc/stat, in hundredths of a second.
func othersTime(b *testing.B) time.Duration {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		b.Fatal(err)
	}
	var name string
	var v [8]uint64 // user, nice, system, idle, iowait, irq, softirq, steal: proc(5)
	if _, err := fmt.Sscan(string(text), &name, &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7]); err != nil {
		b.Fatal("/proc/stat: ", err)
	}
	ticks := v[0] + v[1] + v[2] + v[5] + v[6] + v[7]
	return time.Duration(ticks)*10*time.Millisecond - cpuTime()
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
		s.turn(b, n) // caches, neighbours, lazily made buffers
	}
	others, began := othersTime(b), time.Now()
	for round := 0; b.Loop(); round++ {
		for i := range sides {
			i ^= round & 1 // neither is always first
			tallies[i] = append(tallies[i], sides[i].turn(b, n))
		}
	}
	b.ReportMetric(100*(othersTime(b)-others).Seconds()/time.Since(began).Seconds(), "others-cpu-%")
	b.ReportMetric(0, "ns/op") // of no meaning
	report(b, n, "", tallies[0])
	report(b, n, "opponent-", tallies[1])
	b.ReportMetric(median(tallies[0], func(i int) float64 {
		return tallies[0][i].rate() / tallies[1][i].rate()
	}), "x")
	for i, prefix := range [2]string{"", "opponent-"} {
		mallocs := uint64(0)
		for _, t := range tallies[i] {
			mallocs += t.mallocs
		}
		b.ReportMetric(float64(mallocs)/float64(n*len(tallies[i])), prefix+"allocs/msg")
	}
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
