// Package procconn reads /proc/net/ip_vs_conn, the listing of the connections
// of a kernel's IPVS, as records:
//
//	Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
//	TCP 0A580001 A2B4 0A580002 0050 0A630002 0050 ESTABLISHED     897
//	UDP 0A580001 0000 0A580002 13C4 0A630002 13C4 NONE             59 sip a84b4c76e66710
//
// It reads /proc/net/ip_vs_conn_sync as well, which has a column Origin (LOCAL,
// SYNC) in place of the last two.
//
// The listing shows templates among the connections, and no flags. What can be
// told of them is set (net/netfilter/ipvs of Linux 6.1):
//
//   - TEMPLATE: of protocol IP, in state ASSURED, or with engine data; of state
//     NONE if the client's port is 0, or the protocol has no such state.
//   - The firewall mark of a template of protocol IP: it is the virtual address.
//   - NO_CPORT: a connection whose client port is 0.
//   - INACTIVE: all but TCP and SCTP in ESTABLISHED, as a master has it.
//
// What it does not show: the forwarding method, which package services knows,
// NOOUTPUT, which follows from it, and sequence data.
//
// Limits: Expires is computed in 32 bits of milliseconds, so lifetimes above
// 4294967 seconds, 49 days, show modulo that. Engine data may hold line feeds, which are
// printed as they are: what follows one is taken for more of them, unless it begins with
// the name of a protocol or has endpoints in its columns. The listing is no atomic snapshot: a
// connection that moves meanwhile may be missing or be there twice. The time
// that a kernel takes for it grows with the square of their number.
package procconn
