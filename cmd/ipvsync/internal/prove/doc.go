// Package prove shows what two hosts can do over the path between them: one
// listens, the other sends real messages to it, in each mode, and both count.
//
// They agree over a TCP connection from the prover to the listener. Requests and
// answers are JSON objects, one a line, one answer to each request. "error" in an
// answer says why something could not be done; the connection goes on.
//
//	prover                                            listener
//	{"do":"hello","version":1}                      → its version, kernel, interface, driver, max_payload
//	{"do":"open","mode":"copy","syncid":2,
//	 "messages":200000,"group":"224.0.0.81"}        → opens a receiver: mode, zero_copy
//	{"do":"pilot"}                                  → arrived: pilots so far, at the latest after a quarter of a second
//	{"do":"count","sent":200000}                    → when that many have arrived, or none for a second:
//	                                                  arrived, records, duplicates, reordered, foreign, seconds, stats
//	{"do":"close"}                                  → the receiver is closed
//
// Messages go by UDP, to the port of the same number, to the listener's address
// or, if the request names one, the group. They are messages of version 1, full
// ones, with the SyncID of the request, by which the stragglers of one run are
// not taken for those of the next. The firewall mark of the first record is the
// number of the message, from 1 on; that of a pilot is 0.
//
// Whatever is not answered in time ends the run: a mode that takes the whole queue
// away may cut off the connection too, until its socket is closed.
package prove
