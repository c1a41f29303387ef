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
// Nothing is lost in silence. Each message is in exactly one place of the
// ledger that TxStats describes, and a receiver counts what its socket had to
// drop. A link that goes down keeps the messages queued and is reported as
// ErrLinkDown; sending goes on when the link is back.
//
// Limits: Linux, 64-bit and 32-bit little or big endian with the sendmmsg and
// recvmmsg system calls. A message is one datagram that is never fragmented, so
// it has to fit into the MTU. The package knows nothing of what a message means.
package xsk
