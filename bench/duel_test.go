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

// tally is what turns of a side came to.
type tally struct {
	took          time.Duration
	cpu           time.Duration // of the process
	sent, arrived float64       // messages
	mallocs       uint64
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
	t.sent, t.arrived = float64(n), float64(s.arrived()-arrived)
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

// othersTime is the CPU time that anybody but this process has used, in and outside
// of this machine: /proc/stat, in hundredths of a second and sampled, so that it is
// right to some percent of a second only.
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
	var sums [2]tally
	for _, s := range sides {
		s.turn(b, n/10+1) // caches, neighbours, lazily made buffers
	}
	others, began := othersTime(b), time.Now()
	for round := 0; b.Loop(); round++ {
		for i := range sides {
			i ^= round & 1 // neither is always first
			sums[i].add(sides[i].turn(b, n))
		}
	}
	b.ReportMetric(100*(othersTime(b)-others).Seconds()/time.Since(began).Seconds(), "others-cpu-%")
	b.ReportMetric(0, "ns/op") // of no meaning
	sums[0].report(b, "")
	sums[1].report(b, "opponent-")
	b.ReportMetric(sums[0].rate()/sums[1].rate(), "x")
}

func (t *tally) add(o tally) {
	t.sent += o.sent
	t.arrived += o.arrived
	t.took += o.took
	t.cpu += o.cpu
	t.mallocs += o.mallocs
}

// rate is messages a second.
func (t *tally) rate() float64 { return t.arrived / t.took.Seconds() }

func (t *tally) report(b *testing.B, prefix string) {
	if float64(t.cpu) > float64(t.took)*float64(runtime.NumCPU())*1.1 {
		b.Errorf("%v of CPU time in %v on %d processors: the measuring is wrong", t.cpu, t.took, runtime.NumCPU())
	}
	b.ReportMetric(t.rate()*recordsPerMessage/1e6, prefix+"Mrec/s")
	b.ReportMetric(t.rate()/1e6, prefix+"Mpps")
	b.ReportMetric(100*(t.sent-t.arrived)/t.sent, prefix+"lost-%")
	b.ReportMetric(float64(t.cpu.Nanoseconds())/(t.sent*recordsPerMessage), prefix+"cpu-ns/rec")
	b.ReportMetric(float64(t.mallocs)/t.sent, prefix+"allocs/msg")
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
