// Package ipvsync speaks the connection synchronisation of IPVS, the Linux
// load balancer, in user space: it sends connection updates to backups and
// receives those of masters, stock Linux kernels on either side.
//
// A [Sender] takes updates from every worker of a load balancer through
// lock-free rings, one [Shard] a worker, lays them out as sync messages in their
// final buffers, and sends those to a multicast group or to peers:
//
//	worker ── Shard.Publish ──► ring ─┐
//	worker ── Shard.Publish ──► ring ─┼─► transmit loop ─► message ─► network
//	anybody ─ Sender.Publish ─► ring ─┘
//
// A [Receiver] hands the records of the messages that arrive to a handler, with
// the decisions that a Linux backup would take about each.
//
// Nothing is lost without a counter: for both, [Sender.Stats] and
// [Receiver.Stats] say what became of every update and of every record.
//
// The wire format is in package encoder, packet I/O in xsk, rings in ring.
package ipvsync
