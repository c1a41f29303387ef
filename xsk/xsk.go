package xsk

import (
	"net/netip"
	"time"
)

// Tx sends messages. One goroutine uses it at a time; only Stats may be called
// from others.
//
// The sender owns a fixed number of frames. A frame is lent by Next, queued by
// Commit, handed to the kernel by Flush, and free again as soon as the kernel
// is done with it. Messages leave in the order of their Commits.
type Tx interface {
	// MaxPayload returns the most bytes that a message may have.
	MaxPayload() int

	// Next lends the buffer of the next message, MaxPayload bytes long, with
	// whatever an earlier message left in it. Until Commit it returns the
	// same buffer again. With no frame free the error is ErrNoFrame: Flush,
	// Wait, and try again, or drop the message and count it.
	Next() ([]byte, error)

	// Commit queues the first n bytes of the lent buffer as one message. The
	// buffer must not be touched any more. Commit panics if no buffer is
	// lent or n is not in 0…MaxPayload: a fault of the caller, never of the
	// network.
	Commit(n int)

	// Flush hands the queued messages to the kernel. With back-pressure it
	// returns nil and leaves the rest queued, as Pending tells. After
	// ErrLinkDown everything not yet sent is still queued, and Flush may be
	// called again at any time; after ErrDeviceGone as well, but only a new
	// Tx will help. Any other error says that some packets were given up:
	// they are counted, those behind them were sent, and Flush may be
	// called again.
	Flush() error

	// Pending returns how many messages are queued that Flush could not hand
	// over yet, and those committed since.
	Pending() int

	// Wait waits until Flush may make progress, or until d is over. It
	// returns at once if nothing is pending. It does not send.
	Wait(d time.Duration) error

	// Stats returns the counters. Safe from any goroutine, also after Close.
	Stats() TxStats

	// Close lets everything go; messages still queued are counted as
	// Discarded. More than one call is fine. Afterwards methods return
	// ErrClosed.
	Close() error
}

// Rx receives messages. One goroutine uses it at a time; Wake, Stats and Close
// may be called from any.
type Rx interface {
	// Receive waits for at least one message, at most for the time wait, and
	// returns what there is, up to a batch. 0 does not wait; a negative time
	// has no end. Payloads and the slice itself are lent until Release, also
	// if Close is called meanwhile; a further Receive releases them too.
	//
	// The batch is empty, and the error nil, when the time is over, after
	// Wake, and sometimes for no reason. At least once a second of waiting
	// the interface is looked at: ErrLinkDown says that nothing can arrive
	// for now, and Receive may be called again; ErrDeviceGone says that
	// nothing will ever arrive. After Close the error is ErrClosed.
	Receive(wait time.Duration) ([]Datagram, error)

	// Release gives the whole last batch back.
	Release()

	// Wake makes the Receive that is waiting, or else the next one that
	// would wait, return an empty batch.
	Wake()

	// Stats returns the counters. Safe from any goroutine, also after Close.
	Stats() RxStats

	// Close wakes a Receive under way, waits for it to return, and lets
	// everything go. More than one call is fine.
	Close() error
}

// Datagram is one received message.
type Datagram struct {
	Payload []byte         // lent until Release; may be empty
	Src     netip.AddrPort // sender; an IPv6 link-local address has no zone: it is the interface's
}

// TxStats are the counters of a sender since it was opened. A packet is one
// message to one destination: the group, or one of the peers. After each Flush
//
//	Messages × destinations = Packets + TooBig + Errors + Discarded + packets pending
//
// holds exactly. Counters are brought up to date by Flush, Wait and Close.
type TxStats struct {
	Messages     uint64 // messages committed
	Bytes        uint64 // payload bytes of those, without headers
	Packets      uint64 // packets that the kernel took
	Syscalls     uint64 // system calls made to send
	BackPressure uint64 // times the kernel took no more for now; nothing is lost by it
	LinkDown     uint64 // calls of Flush that found the link down or the device gone
	TooBig       uint64 // packets given up because they exceed the MTU of the path
	Errors       uint64 // packets given up because of any other error
	Discarded    uint64 // packets still queued at Close

	// Of UDP with GSO; see UDPConfig.GSO.
	Segmented uint64 // those of Packets that the kernel took as part of a train
	Withdrawn uint64 // times that a destination's path refused trains, and they were given up for it

	// Notices that came back for packets that the kernel had taken, one for
	// each ICMP message. Networks limit their rate: the truth may be higher.
	Refused     uint64 // a peer has nobody listening on the port
	Unreachable uint64 // a peer cannot be reached, or a packet to it was filtered
}

// RxStats are the counters of a receiver since it was opened. They are brought
// up to date by Receive.
//
//	datagrams that reached the socket = Messages + Truncated + SocketDrops + those still in its buffer
//
// With GRO (see UDPConfig.GRO) the kernel counts a train that it drops as one,
// so that SocketDrops is too low, and each may be up to 128 messages; and what a
// Receive did not return for want of room in the batch comes with the next one.
type RxStats struct {
	Messages    uint64 // messages delivered
	Bytes       uint64 // payload bytes of those, without headers
	Truncated   uint64 // messages longer than MaxPayload: dropped, never delivered in part
	SocketDrops uint64 // packets that the kernel dropped, a train being one: socket buffer full, or bad checksum
	Syscalls    uint64 // system calls made to receive, nap and count drops, without those of Waits
	Waits       uint64 // times that there was nothing and Receive waited
	LinkDown    uint64 // checks of the interface that found it down or gone
	Errors      uint64 // receive errors returned by the kernel
	Coalesced   uint64 // those of Messages that came as part of a train: UDP with GRO

	// Of AF_XDP, where headers are checked here: packets refused, by reason.
	// They belong into the sum above.
	BadLength   uint64 // lengths contradict each other or the packet
	BadHeader   uint64 // IPv4 header checksum
	Fragments   uint64 // part of a datagram
	BadChecksum uint64 // UDP checksum
	NoChecksum  uint64 // no UDP checksum with IPv6
	Foreign     uint64 // not for us: a program that takes too much
	Unfinished  uint64 // those of Messages whose checksum was left to hardware: a virtual link
}

var (
	_ Tx = (*UDPTx)(nil)
	_ Rx = (*UDPRx)(nil)
)
