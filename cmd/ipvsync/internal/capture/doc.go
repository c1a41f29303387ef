// Package capture takes UDP datagrams out of capture files: pcap and pcapng, in
// either byte order, with micro- or nanoseconds, gzipped or not. It needs no
// libpcap and never goes back in the file, so that a pipe does as well.
//
//	file ──pcapgo──► frame ──link.go──► IP packet ──ip.go──► UDP datagram
//	                                        │ fragment           ▲
//	                                        └────fragment.go─────┘
//
// Link types: Ethernet (802.1Q and QinQ tags too), Linux cooked v1 and v2, raw
// IP, BSD null and loop. IPv4 with options, IPv6 with extension headers. IP
// fragments are put together as Linux does it.
//
// What a host would not deliver to its socket (a UDP length that does not fit,
// a missing fragment) comes too, with a [Fault] that says so: whoever looks
// into a capture wants to see just that. Checksums are not looked at, since a
// sender's own captures show them before the NIC has filled them in.
//
// Limits: no tunnels, no 802.11, no PPP; such packets are counted in [Stats].
package capture
