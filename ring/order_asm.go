//go:build (amd64 || arm64) && !race && !purego

package ring

// storeRelease stores v at p so that whoever loads it by an atomic load also
// sees everything that this goroutine wrote before.
//
// That is all a ring needs of its publishing stores. sync/atomic has only the
// stronger, sequentially consistent store, which amd64 makes an XCHG that waits
// until all earlier stores have left the core: the dearest part of a publish.
// Here it is a plain MOV on amd64, where stores are never reordered with earlier
// loads and stores (Intel SDM vol. 3, 9.2.2), and an STLR on arm64. The compiler
// moves no store across the call, which it cannot see into.
//
// What it does not order is a later load of the same goroutine: see PublishIsFence.
//
//go:noescape
func storeRelease(p *uint64, v uint64)

// storeReleaseAhead is storeRelease, and asks for the line 128 bytes behind p, to
// write it: an MPSC's next slot but one. The line is with the consumer, which read
// it a lap ago, and a compare-and-swap waits until all earlier stores have left
// the core: without this, one claim could not be made before the line of the one
// before had come. It is a hint (PREFETCHW, PRFM): what it names need not be
// ours, or be at all.
//
//go:noescape
func storeReleaseAhead(p *uint64, v uint64)

// PublishIsFence says whether a load that a producer makes after Publish, or
// Commit, is ordered behind it, as by sequentially consistent atomics. If not,
// "publish, then look whether the consumer sleeps" takes a barrier on the
// consumer's side, between "announce sleep" and "look once more", that makes all
// producers' cores pass one: membarrier(2).
const PublishIsFence = false
