package xsk

// Sending trains: UDP GSO, Documentation/networking/segmentation-offloads.rst.
//
//	messages   [1448][1448][1448]…[1448][700]   [96]   [1448][1448]
//	entries    └────────── train ──────────┘   alone   └─ train ─┘
//
// A train is a run of messages of one size, of which the last may be shorter,
// that goes through the network stack as one packet with that size written on
// it. The interface, or the kernel just before it, cuts it into one datagram per
// message, each with headers, length and checksum of its own: receivers need to
// know nothing. What costs most, the way through the stack, is paid once.
//
// Messages lie back to back in one slab, in the order of their Commits, so that
// a train of any size of message is one stretch of memory. The kernel also takes
// a train in pieces, one vector per message, which would leave frames where they
// are, but that makes a message cost about a fifth more (60 against 50 ns over
// veth, 45 messages of 1448 bytes).
//
// Where the kernel's word is less exact for a train than for a single message:
// a queueing discipline that cuts trains itself (tbf, cake) reports success if it
// took any of the messages; and an interface without a queue that drops the last
// one of a train that the kernel cut for it, gets the whole train again. Whoever
// shapes traffic on a short queue sets GSO off.
//
// Some paths refuse trains. Then the messages of the train are sent one by one.
// If the first one goes through, the train was what was refused, and the
// destination gets no more of them; otherwise it is the messages that do not do,
// and each gets the verdict that it deserves.

import (
	"fmt"
	"math/bits"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// maxSegments is UDP_MAX_SEGMENTS of include/linux/udp.h until Linux 6.8;
	// later kernels take 128. More than 64 matters for small messages only.
	maxSegments = 64

	// trainBytes is the most bytes of a train, less the headers that its
	// one packet has: udp_sendmsg, __ip_append_data, __ip6_append_data.
	trainBytes = maxDatagram
)

// probeGSO reports whether the kernel knows UDP_SEGMENT.
func probeGSO(fd int, want Offload) (bool, error) {
	if want == OffloadOff {
		return false, nil
	}
	return supported("UDP_SEGMENT", "GSO", "4.18", unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, 0), want)
}

// supported tells what the error of setting an option means.
func supported(option, field, since string, err error, want Offload) (bool, error) {
	switch {
	case err == nil:
		return true, nil
	case want == OffloadOn:
		return false, fmt.Errorf("%w: %s, which needs Linux %s: set %s to OffloadAuto (%w)", ErrUnsupported, option, since, field, err)
	}
	return false, nil
}

// slot tells where a message lies.
type slot struct{ off, len uint32 }

// trains is the part of a sender that deals with entries. Message i has
// slots[i&mask]. Entry e of frames has count[e] messages.
type trains struct {
	frames *udpTxFrames
	slots  []slot
	mask   uint64
	count  []uint16
	gso    []atomic.Bool // by destination, for Info; written by the sending goroutine
}

// newTrains makes room for batch messages of size bytes. The slab has one more:
// the next message goes behind the last, or to the start of the slab if it might
// not fit there. What may be in use then is at most size-1 bytes skipped at the
// end of the slab and batch-1 messages, which together with the new one, counted
// at its longest, is less than the slab. So it overlaps none of them.
func newTrains(batch, size int) trains {
	n := 1 << bits.Len(uint(batch-1))
	return trains{
		frames: newUDPTxFrames(batch, (batch+1)*size),
		slots:  make([]slot, n),
		mask:   uint64(n - 1),
		count:  make([]uint16, batch),
	}
}

// message returns the bytes of message i.
func (t *trains) message(i uint64) []byte {
	s := &t.slots[i&t.mask]
	return t.frames.slab[s.off : s.off+s.len]
}

// couple makes entries of the messages from…to, the first ones up to alone each
// by itself, and returns how many entries there are. most is the greatest number
// of bytes of a train.
func (t *trains) couple(from, to, alone uint64, most uint32) (entries int) {
	for from < to {
		first := t.slots[from&t.mask]
		n, total := uint64(1), first.len
		if from >= alone {
			n, total = t.train(from, to, most)
		}
		segment := 0
		if n > 1 {
			segment = int(first.len)
		}
		t.frames.entry(entries, int(first.off), int(total), segment)
		t.count[entries] = uint16(n)
		entries++
		from += n
	}
	return entries
}

// train returns how many messages from…to, and bytes, the next train has. A long
// run of equal ones is divided evenly: a rest of few messages would cost nearly
// as much as a full train.
func (t *trains) train(from, to uint64, most uint32) (n uint64, total uint32) {
	first := t.slots[from&t.mask]
	if first.len == 0 {
		return 1, 0 // a datagram without payload is no segment
	}
	end := first.off + first.len
	run := from + 1
	for run < to {
		s := &t.slots[run&t.mask]
		if s.len != first.len || s.off != end {
			break
		}
		end += s.len
		run++
	}
	n = run - from
	longest := uint64(min(maxSegments, max(most/first.len, 1)))
	if n > longest {
		parts := (n + longest - 1) / longest
		n = (n + parts - 1) / parts
		return n, uint32(n) * first.len
	}
	total = end - first.off
	if n < longest && run < to {
		if s := &t.slots[run&t.mask]; 0 < s.len && s.len < first.len && s.off == end && total+s.len <= most {
			n++ // the last one may be shorter
			total += s.len
		}
	}
	return n, total
}

// entries makes entries of what d has not got yet, and returns how many.
func (t *UDPTx) entries(d *dest) int {
	switch {
	case d.trial:
		return t.couple(d.next, d.single, d.single, 0) // no train before the verdict
	case !d.gso:
		return t.couple(d.next, t.tail, t.tail, 0)
	}
	return t.couple(d.next, t.tail, d.single, t.trainMost)
}

// refuseTrain has the n messages of a train that d did not take sent one by one.
func (t *UDPTx) refuseTrain(d *dest, n uint64, errno unix.Errno) {
	d.single = d.next + n
	d.trial = isTrainRefused(errno)
}

// verdict ends a trial, if there is one: took tells whether the first message of
// the refused train went through by itself.
func (t *UDPTx) verdict(d *dest, took bool) {
	if d.trial && took {
		t.n.Withdrawn++
		t.useGSO(d, false)
	}
	d.trial = false
}

func (t *UDPTx) useGSO(d *dest, use bool) {
	d.gso = use
	t.trains.gso[d.index].Store(use)
}
