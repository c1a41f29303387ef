// Package ring holds lock-free rings of variable-size records over one block
// of memory. It knows nothing of what the records mean.
//
// An [SPSC] has one producer and one consumer, each of which may be a goroutine
// of its own. Records are reserved, written in place and published; the consumer
// looks at them in place and releases them. Both sides work in batches: one
// atomic store makes any number of records visible, or their room free.
//
//	     tail (consumer)            head (producer)
//	       │                          │
//	───────▼──────────────────────────▼───────────────────────────────
//	 free  │ len rec │ len rec │ skip │    reserved, not yet published
//	───────┴──────────────────────────┴───────────────────────────────
//
// Each record is preceded by a length word and starts on 8 bytes. A record
// never wraps: where it does not fit before the end of the block, the producer
// leaves a skip mark and begins at the start.
//
// Limits: a ring never blocks and never waits for anybody; whoever needs that
// builds it on top. A producer of an [MPSC] that lost a race to another leaves the
// ring alone for one or two microseconds, which serves both. Its memory is ordinary Go memory without pointers.
package ring
