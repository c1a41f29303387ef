// Package xsk moves messages between memory and a network interface: one UDP
// datagram per message, many messages per system call, no allocation on the way.
//
//	your goroutine                    package xsk                        kernel
//
//	        ┌── Next ◄──────── frame ring: [free][free][queued][queued]
//	  write the message                                 │
//	  into the frame                                    │  one sendmmsg per
//	        └── Commit ──────► queued ── Flush ─────────┴─ destination ──► group
//	                                                                  └──► peers
//
//	  read payloads  ◄─ Receive ─ slab: [datagram][datagram] ◄─ recvmmsg ◄─ group
//	        └── Release ───────► slab free again                        ◄─ unicast
//
// A message is written where it is sent from: [Tx.Next] lends the final buffer
// before the first byte exists, and [Tx.Commit] only says how long the message
// has become. A received message is read where the kernel put it: its payload
// is lent from [Rx.Receive] to [Rx.Release].
//
// Behind the two interfaces is the transport. [UDPTx] and [UDPRx] are plain
// sockets with sendmmsg and recvmmsg, which work everywhere. Messages of one size
// in a row go through the kernel as one, a train, where it can do that (GSO,
// GRO), and one by one to a destination whose path refuses trains:
//
//	cfg := xsk.UDPConfig{
//		Interface: "eth1",
//		Group:     netip.MustParseAddr("224.0.0.81"),
//		Port:      8848,
//		TTL:       1,
//	}
//	tx, err := xsk.OpenUDPTx(cfg)
//	...
//	buf, err := tx.Next()           // ErrNoFrame: Flush, then Wait
//	n := copy(buf, message)
//	tx.Commit(n)
//	err = tx.Flush()
//
//	rx, err := xsk.OpenUDPRx(cfg)
//	for {
//		batch, err := rx.Receive(time.Second) // batch may be empty
//		...
//		for _, d := range batch {
//			use(d.Payload, d.Src)
//		}
//		rx.Release()
//	}
//
// # AF_XDP
//
// [XDPTx] and [XDPRx] go past the network stack. Messages lie in packet memory
// (a [UMEM]) that the kernel, or the device itself, reads and writes, and only
// descriptors change hands, in four rings for each queue of the device:
//
//	        sender                    kernel                    receiver
//
//	Next ◄── free frames                                  free frames ──► Refill
//	  │           ▲                                            ▲             │
//	Commit        └─ completion ring ◄─┐     ┌─── fill ring ◄──┼─────────────┘
//	  │                                │     ▼                 │
//	Flush ─────► TX ring ──────► ┌───────────┴──┐              │
//	  └─ kick ─ (sendto) ──────► │ device queue │ ──► RX ring ─┴─► Receive, Release
//	                             └──────▲───────┘
//	                               XDP program: our group and port, and
//	                               everything else passes on to the host
//
// Headers are written in front of the message when it is committed, and checked
// before it is delivered. An ordinary socket beside each receiver holds the
// membership of the group; one beside each destination of a sender holds its port,
// and hears the ICMP messages.
//
//	cfg := xsk.XDPConfig{
//		Interface: "eth1",
//		Group:     netip.MustParseAddr("224.0.0.81"),
//		Port:      8848,
//		Generic:   true, // rather than not at all
//	}
//	tx, err := xsk.OpenXDPTx(cfg) // ErrUnsupported, ErrQueueBusy, …: use UDP
//	rx, err := xsk.OpenXDPRx(cfg) // ErrProgramBusy: somebody else's program stays
//
// Below the two are [Socket], with the raw rings, and [Program]. What is loaded
// into the kernel goes with the process, however that ends.
//
// AF_XDP needs Linux 5.9, CAP_NET_RAW to send, and CAP_BPF and CAP_NET_ADMIN as
// well to receive, or to send in zero-copy mode; and without CAP_IPC_LOCK a
// RLIMIT_MEMLOCK that holds the packet memory. Receivers on the sender's own host
// do not hear what it sends. A queue has one socket: a process that sends and
// receives by one interface does so on different queues. What the driver drops
// because its queue is full is given up, and counted in TxStats.Errors.
//
// # Losses
//
// Nothing is lost in silence. Each message is in exactly one place of the
// ledger that TxStats describes, and a receiver counts what its socket had to
// drop. A link that goes down keeps the messages queued and is reported as
// ErrLinkDown; sending goes on when the link is back.
//
// Limits: Linux, 64-bit and 32-bit little or big endian with the sendmmsg and
// recvmmsg system calls. A message is one datagram that is never fragmented, so
// it has to fit into the MTU. The package knows nothing of what a message means.
package xsk
