// Package doctor finds out what this host and its devices can do for ipvsync:
// which mode a sender and a receiver would get, what stands in the way of each
// better one, and the command that removes it.
//
// It looks first, and then tries: whether a mode can be had is known only when a
// socket of it was open. It tries with a port that nobody uses and without
// joining a group, so that no message of a group goes another way meanwhile. That
// is not all that trying may do. A driver that gets or loses an XDP program may
// set up its queues anew, and a packet or two, or a second of the link, are lost to
// everybody. So nothing is attached where the port of the synchronisation is in
// use, nor to devices that nobody named: there is judged what can be seen.
package doctor
