// Package encoder reads and writes the wire format of IPVS connection
// synchronisation, versions 0 and 1, both ways. It is pure functions over byte
// slices: no I/O, no goroutines, no clocks.
//
// A datagram is one message; a message is a header and up to 255 records; a
// version 1 record is a fixed part and options:
//
//	version 1 message                         version 1 record (IPv4)
//	┌────────────────────────────┐            ┌──────┬──────┬──────────┐  0
//	│ 0 │SyncID│ size (16)       │            │ type │proto │ver│ size │
//	│ count │ 1 │ reserved 0     │            ├──────┴──────┴──────────┤  4
//	├────────────────────────────┤            │ flags                  │
//	│ record, 4-byte aligned     │            │ state      │client port│  8
//	│ …padding before the next   │            │ virt. port │dest. port │ 12
//	│ record                     │            │ fwmark                 │ 16
//	├────────────────────────────┤            │ timeout, seconds       │ 20
//	│ trailer (ignored by Linux) │            │ client, virtual, dest  │ 24
//	└────────────────────────────┘            │ options, packed        │ 36
//	                                          └────────────────────────┘
//
// Writing: [AppendRecord] appends one record to a buffer; a [Writer] lays out a
// whole message in a buffer that the caller owns, with padding exactly as the
// kernel pads (before a record, never after the last).
//
// Reading: a [Decoder] walks a message and takes the decisions of a Linux
// backup, record by record, each refusal with a [Reason]. With Lenient set it
// goes on, for analysis, where the kernel stops, and marks what it finds there.
//
// Neither direction keeps a reference to the caller's bytes. Neither allocates,
// except that decoding a record with options grows Conn.Options when its
// capacity does not suffice; a reused Conn stops growing soon.
//
// The authority for every rule is the kernel: net/netfilter/ipvs/ip_vs_sync.c,
// as it behaves in Debian's 6.1 and 6.12 kernels, against which the rules are
// tested. docs/wire-format.md tells them in prose.
package encoder
