// Package bench runs ipvsync beside its alternatives, over the same work, in the
// same run: other libraries, other ways to send, and loops that do nothing but
// the part that cannot be saved. Benchmarks of one package by itself stay with
// that package.
//
//	go test -run '^$' -bench . -benchtime 1s -count 5 ./bench
//
// # Rules
//
// A benchmark here is a duel: two sides work by turns, some tenths of a second each,
// so that a noisy machine disturbs both alike, and little of what one side leaves to
// be done falls to the other. One operation is one round, a turn of either. Reported
// are sums over all rounds of a run:
//
//	x                 rate of ours by rate of the opponent's: what to look at
//	Mrec/s, Mpps      records, messages a second that arrived at the far end
//	lost-%            messages sent that did not
//	cpu-ns/rec        CPU time of the whole process for each record, all threads
//	allocs/msg        allocations for each message
//	opponent-…        the same of the opponent
//	others-cpu-%      of one processor that others used meanwhile, sampled: above
//	                  ten percent, do it again
//
// A rate counts what arrived, never what was sent. Arrivals are counted by the
// interface of the far end or, where a receiver is part of the work, by its
// handler. An opponent runs at its best: what was tried to make it faster is
// told with it.
//
// # Machine
//
// The network is a veth pair between two namespaces, which needs root; without
// it the benchmarks are skipped. On a veth pair the kernel's work for both ends
// runs on the sender's processor. Figures are those of a kernel and a memory, so
// they say little about a NIC; what they show is what is left for us to lose.
// For steady figures: nothing else on the machine, and no frequency scaling
// (cpupower frequency-set -g performance).
//
// What sends runs on processor 0, what receives on processor 1; the engine's
// producer is on processor 1 as well, unless a benchmark says otherwise. Sockets of
// Go's libraries are read wherever Go's scheduler likes: bound to processor 1 they lose
// more, and no ratio changes sides. GOMAXPROCS is
// raised to 4 on a smaller machine. There a thread that sleeps in a system call keeps
// one of the few places where goroutines run, which with both ends in one process, as
// nowhere else, leaves a third party waiting.
package bench
