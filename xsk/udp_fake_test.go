package xsk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakePayload is MaxPayload over a fakeKernel.
const fakePayload = 5

// fakeKernel stands in for the kernel's side of a sender. It takes as many
// entries as it likes, fails as it likes, and remembers what each destination
// got. A message is its number, repeated.
type fakeKernel struct {
	t       *testing.T
	tx      *UDPTx
	rnd     *rand.Rand
	got     [][]byte       // per destination, first byte of each message
	notices map[int][]bool // per destination: error queue, true for refused
	linkErr error
	errnos  []unix.Errno // to choose from
	refused uint64
	unreach uint64
	sizes   [256]int // of each message
	trains  int      // taken
	taboo   []bool   // destinations that refuse trains
}

func newFake(t *testing.T, dests, batch int, seed uint64) (*UDPTx, *fakeKernel) {
	ap := netip.MustParseAddrPort("10.0.0.1:8848")
	tx := &UDPTx{cfg: UDPConfig{Batch: batch, MaxPayload: fakePayload}}
	tx.link = &link{down: ErrLinkDown, gone: ErrDeviceGone, noCarrier: ErrLinkDown, noAddress: ErrLinkDown, readdressed: ErrDeviceGone}
	tx.lastCheck = time.Now()
	k := &fakeKernel{t: t, tx: tx, rnd: rand.New(rand.NewPCG(seed, 0)), got: make([][]byte, dests), notices: map[int][]bool{}, taboo: make([]bool, dests)}
	for i := range dests {
		addr := ap
		if i == 0 {
			addr = netip.AddrPortFrom(group4, 8848)
		}
		tx.dests = append(tx.dests, dest{addr: addr, fd: i, index: i})
	}
	tx.start(false)
	tx.send, tx.notice = k.send, k.notice
	tx.look = func() error { return k.linkErr }
	tx.redial = func(*dest) error { return nil }
	return tx, k
}

func (k *fakeKernel) send(fd int, msgs []mmsghdr) (int, unix.Errno) {
	if len(msgs) == 0 {
		k.t.Fatal("a system call for nothing")
	}
	if k.linkErr != nil {
		return 0, unix.ENETDOWN
	}
	errno := k.errnos[k.rnd.IntN(len(k.errnos))]
	n := 0
	if errno == 0 {
		n = 1 + k.rnd.IntN(len(msgs))
	}
	for i := range n {
		if _, segment := msgs[i].segment(); segment > 0 && k.taboo[fd] {
			if n = i; i == 0 {
				return 0, []unix.Errno{unix.EIO, unix.EINVAL, unix.EMSGSIZE}[k.rnd.IntN(3)]
			}
			break
		}
		k.take(fd, &msgs[i])
	}
	switch {
	case errno == unix.ECONNREFUSED && len(k.notices[fd]) == 0 && k.rnd.IntN(2) == 0:
		k.refused++ // the error queue had no room
	case errno == unix.ECONNREFUSED, errno == 0 && k.rnd.IntN(4) == 0:
		k.notices[fd] = append(k.notices[fd], true)
		k.refused++
	case errno == unix.EHOSTUNREACH && k.rnd.IntN(2) == 0:
		k.notices[fd] = append(k.notices[fd], false)
		k.unreach++
	}
	return n, errno
}

// take cuts an entry into messages, as udp_sendmsg and __udp_gso_segment would.
func (k *fakeKernel) take(fd int, m *mmsghdr) {
	data, segment := m.segment()
	if segment == 0 {
		segment = max(len(data), 1)
	} else {
		k.trains++
		if segment >= len(data) || len(data) > segment*maxSegments || len(data) > trainBytes-Overhead4 {
			k.t.Fatalf("a train of %d bytes in segments of %d", len(data), segment)
		}
	}
	for message := range slices.Chunk(data, segment) {
		i := message[0]
		if len(message) != k.sizes[i] || len(bytes.Trim(message, string(message[:1]))) != 0 {
			k.t.Fatalf("message %d, of %d bytes, became %v", i, k.sizes[i], message)
		}
		k.got[fd] = append(k.got[fd], i)
	}
}

func (k *fakeKernel) notice(fd int) (unix.Errno, bool, bool) {
	q := k.notices[fd]
	if len(q) == 0 {
		return 0, false, false
	}
	k.notices[fd] = q[1:]
	if q[0] {
		return unix.ECONNREFUSED, true, true
	}
	return unix.EHOSTUNREACH, true, true
}

// TestRandomKernel sends through a kernel that stops anywhere and fails with
// anything. Every destination gets the messages in order, none twice, and those
// missing are exactly those counted as given up. Lost is told those that nobody got.
func TestRandomKernel(t *testing.T) {
	all := []unix.Errno{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, unix.EAGAIN, unix.ENOBUFS, unix.EBUSY, unix.ENOMEM, unix.EINTR,
		unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.EMSGSIZE, unix.EPERM, unix.EINVAL, unix.ENETDOWN, unix.ENETUNREACH, unix.ENODEV}
	var trains int
	var withdrawn uint64
	defer func() {
		if trains < 1000 || withdrawn < 10 {
			t.Errorf("%d trains sent, GSO withdrawn %d times: the test has lost its meaning", trains, withdrawn)
		}
	}()
	for range 1000 {
		seed := rand.Uint64()
		rnd := rand.New(rand.NewPCG(seed, 1))
		dests, batch := 1+rnd.IntN(4), 1+rnd.IntN(9)
		tx, k := newFake(t, dests, batch, seed)
		k.errnos = all
		lost := map[byte]int{}
		tx.start(rnd.IntN(4) > 0)
		for i := range k.taboo {
			k.taboo[i] = rnd.IntN(4) == 0
		}
		tx.cfg.Lost = func(message []byte) {
			if len(message) != k.sizes[message[0]] {
				t.Fatalf("seed %d: lost a message of %d bytes, want %d", seed, len(message), k.sizes[message[0]])
			}
			lost[message[0]]++
		}
		const n = 200
		size := 1
		for i := 0; i < n; {
			buf, err := tx.Next()
			if err == nil && rnd.IntN(8) > 0 {
				if rnd.IntN(4) == 0 {
					size = 1 + rnd.IntN(fakePayload)
				}
				k.sizes[i] = size
				for j := range buf {
					buf[j] = byte(i)
				}
				tx.Commit(size)
				i++
				continue
			}
			k.linkErr = nil
			if rnd.IntN(20) == 0 {
				k.linkErr = ErrLinkDown
			}
			var typed *Error
			if err := tx.Flush(); err != nil && !errors.As(err, &typed) && !errors.Is(err, ErrLinkDown) && !errors.Is(err, ErrDeviceGone) {
				t.Fatalf("seed %d: Flush: %v is not typed", seed, err)
			}
			wantLedger(t, tx)
		}
		k.linkErr, k.errnos = nil, []unix.Errno{0}
		for tx.Pending() > 0 {
			if err := tx.Flush(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		wantLedger(t, tx)
		trains += k.trains
		withdrawn += tx.n.Withdrawn
		for i, on := range tx.Info().GSO {
			if on != tx.dests[i].gso || on && !tx.knowsGSO {
				t.Fatalf("seed %d: Info says GSO %v for destination %d", seed, on, i)
			}
		}
		var delivered uint64
		reached := map[byte]bool{}
		for d, got := range k.got {
			for _, m := range got {
				reached[m] = true
			}
			delivered += uint64(len(got))
			for i := 1; i < len(got); i++ {
				if got[i] <= got[i-1] { // n is below 256
					t.Fatalf("seed %d: destination %d got %d after %d", seed, d, got[i], got[i-1])
				}
			}
			for q := k.notices[d]; len(q) > 0; q = k.notices[d] {
				tx.drain(&tx.dests[d])
			}
		}
		for m := range byte(n) { // told once if nobody got it, otherwise never
			if told := lost[m]; reached[m] && told != 0 || !reached[m] && told != 1 {
				t.Fatalf("seed %d: message %d reached somebody: %v, told as lost %d times", seed, m, reached[m], told)
			}
		}
		s := tx.n
		if delivered != s.Packets || s.Packets+s.TooBig+s.Errors != n*uint64(dests) {
			t.Fatalf("seed %d: %d delivered, %+v", seed, delivered, s)
		}
		if s.Refused != k.refused || s.Unreachable != k.unreach {
			t.Fatalf("seed %d: %d refused and %d unreachable, want %d and %d", seed, s.Refused, s.Unreachable, k.refused, k.unreach)
		}
	}
}

// TestErrnoPolicy has each errno come for the middle one of three messages.
func TestErrnoPolicy(t *testing.T) {
	for _, c := range []struct {
		errno   unix.Errno
		group   bool
		is      error
		pending int
		want    TxStats // Packets, BackPressure, LinkDown, TooBig, Errors, Refused
	}{
		{unix.EAGAIN, true, nil, 2, TxStats{Packets: 1, BackPressure: 1}},
		{unix.ENOBUFS, true, nil, 2, TxStats{Packets: 1, BackPressure: 1}},
		{unix.EBUSY, true, nil, 2, TxStats{Packets: 1, BackPressure: 1}},
		{unix.ENOMEM, true, nil, 2, TxStats{Packets: 1, BackPressure: 1}},
		{unix.ENETDOWN, true, ErrLinkDown, 2, TxStats{Packets: 1, LinkDown: 1}},
		{unix.ENETDOWN, false, ErrLinkDown, 2, TxStats{Packets: 1, LinkDown: 1}},
		{unix.ENETUNREACH, true, ErrLinkDown, 2, TxStats{Packets: 1, LinkDown: 1}},
		{unix.EADDRNOTAVAIL, true, ErrLinkDown, 2, TxStats{Packets: 1, LinkDown: 1}},
		{unix.ENODEV, true, ErrDeviceGone, 2, TxStats{Packets: 1, LinkDown: 1}},
		{unix.ENXIO, true, ErrDeviceGone, 2, TxStats{Packets: 1, LinkDown: 1}},
		{unix.ENETUNREACH, false, ErrNoRoute, 0, TxStats{Packets: 2, Errors: 1}},
		{unix.EHOSTUNREACH, false, ErrNoRoute, 0, TxStats{Packets: 2, Errors: 1}},
		{unix.ENODEV, false, ErrDeviceGone, 0, TxStats{Packets: 2, Errors: 1}},
		{unix.EMSGSIZE, true, ErrMTU, 0, TxStats{Packets: 2, TooBig: 1}},
		{unix.EPERM, true, ErrPermission, 0, TxStats{Packets: 2, Errors: 1}},
		{unix.EINVAL, true, unix.EINVAL, 0, TxStats{Packets: 2, Errors: 1}},
		{unix.EINTR, true, nil, 0, TxStats{Packets: 3}},
		{unix.ECONNREFUSED, false, nil, 0, TxStats{Packets: 3, Refused: 1}},
	} {
		tx, k := newFake(t, 2, 4, 0)
		tx.dests = tx.dests[:1]
		if !c.group {
			tx.dests[0].addr = netip.MustParseAddrPort("10.0.0.1:8848")
		}
		script := []unix.Errno{0, c.errno, 0, 0}
		tx.send = func(fd int, msgs []mmsghdr) (int, unix.Errno) {
			e := script[0]
			script = script[1:]
			if e != 0 {
				return 0, e
			}
			return 1, 0
		}
		for range 3 {
			if _, err := tx.Next(); err != nil {
				t.Fatal(err)
			}
			tx.Commit(1)
		}
		err := tx.Flush()
		if !errors.Is(err, c.is) || tx.Pending() != c.pending {
			t.Errorf("%s, group %v: %v with %d pending, want %v with %d", c.errno, c.group, err, tx.Pending(), c.is, c.pending)
		}
		if c.is != nil && c.errno != unix.ENETDOWN && !errors.Is(err, ErrLinkDown) && !errors.Is(err, c.errno) && k.linkErr == nil && c.pending == 0 {
			t.Errorf("%s: %v does not wrap the errno", c.errno, err)
		}
		s := tx.Stats()
		c.want.Messages, c.want.Bytes, c.want.Syscalls = 3, 3, s.Syscalls
		if s != c.want {
			t.Errorf("%s, group %v: %+v, want %+v", c.errno, c.group, s, c.want)
		}
	}
}

// TestNoticesWithoutEnd: a peer's network that floods notices holds up neither
// the loop nor the other destination, and loses nothing.
func TestNoticesWithoutEnd(t *testing.T) {
	tx, k := newFake(t, 2, 4, 0)
	tx.send = func(fd int, msgs []mmsghdr) (int, unix.Errno) {
		if fd == 1 {
			return 0, unix.ECONNREFUSED
		}
		return len(msgs), 0
	}
	tx.notice = func(fd int) (unix.Errno, bool, bool) { return unix.ECONNREFUSED, true, true }
	if _, err := tx.Next(); err != nil {
		t.Fatal(err)
	}
	tx.Commit(1)
	if err := tx.Flush(); err != nil || tx.Pending() != 1 || tx.dests[0].next != 1 {
		t.Errorf("%v with %d pending, the other destination has %d", err, tx.Pending(), tx.dests[0].next)
	}
	_ = k
	wantLedger(t, tx)
}

// TestTrainPolicy has each errno come for a train of three messages, and then
// for some of them alone.
func TestTrainPolicy(t *testing.T) {
	const train, first, second, third = "abc", "a", "b", "c" // what an entry carries
	for _, c := range []struct {
		name   string
		script []unix.Errno // one for each call of send; then it takes all
		calls  []string     // what is sent, or tried, first in each call
		is     error
		want   TxStats
	}{
		{"taken", nil, []string{train}, nil, TxStats{Packets: 3, Segmented: 3}},
		{"interrupted", []unix.Errno{unix.EINTR}, []string{train, train}, nil, TxStats{Packets: 3, Segmented: 3}},
		{"queue full", []unix.Errno{unix.ENOBUFS}, []string{train}, nil, TxStats{BackPressure: 1}},
		{"EIO for the train", []unix.Errno{unix.EIO}, []string{train, first}, nil, TxStats{Packets: 3, Withdrawn: 1}},
		{"EINVAL for the train", []unix.Errno{unix.EINVAL}, []string{train, first}, nil, TxStats{Packets: 3, Withdrawn: 1}},
		{"EMSGSIZE for the train", []unix.Errno{unix.EMSGSIZE}, []string{train, first}, nil, TxStats{Packets: 3, Withdrawn: 1}},
		{"refused, then queue full", []unix.Errno{unix.EIO, unix.EAGAIN}, []string{train, first}, nil, TxStats{BackPressure: 1}},
		{"all too big", []unix.Errno{unix.EMSGSIZE, unix.EMSGSIZE, unix.EMSGSIZE, unix.EMSGSIZE}, []string{train, first, second, third}, ErrMTU, TxStats{TooBig: 3}},
		{"first too big", []unix.Errno{unix.EMSGSIZE, unix.EMSGSIZE}, []string{train, first, second}, ErrMTU, TxStats{TooBig: 1, Packets: 2}},
		{"EINVAL for all", []unix.Errno{unix.EINVAL, unix.EINVAL, unix.EINVAL, unix.EINVAL}, []string{train, first, second, third}, unix.EINVAL, TxStats{Errors: 3}},
		{"filtered, all of it", []unix.Errno{unix.EPERM, unix.EPERM, unix.EPERM, unix.EPERM}, []string{train, first, second, third}, ErrPermission, TxStats{Errors: 3}},
		{"filtered, but not alone", []unix.Errno{unix.EPERM}, []string{train, first}, nil, TxStats{Packets: 3}},
		{"link down", []unix.Errno{unix.ENETDOWN}, []string{train}, ErrLinkDown, TxStats{LinkDown: 1}},
	} {
		tx, _ := newFake(t, 1, 4, 0)
		tx.start(true)
		var calls []string
		tx.send = func(fd int, msgs []mmsghdr) (int, unix.Errno) {
			data, segment := msgs[0].segment()
			if (segment > 0) != (len(data) > 1) {
				t.Errorf("%s: %q with segments of %d", c.name, data, segment)
			}
			calls = append(calls, string(data))
			if i := len(calls) - 1; i < len(c.script) {
				return 0, c.script[i]
			}
			return len(msgs), 0
		}
		for _, m := range train {
			buf, err := tx.Next()
			if err != nil {
				t.Fatal(err)
			}
			buf[0] = byte(m)
			tx.Commit(1)
		}
		if err := tx.Flush(); !errors.Is(err, c.is) {
			t.Errorf("%s: %v, want %v", c.name, err, c.is)
		}
		if !slices.Equal(calls, c.calls) {
			t.Errorf("%s: sent %q, want %q", c.name, calls, c.calls)
		}
		s := tx.Stats()
		c.want.Messages, c.want.Bytes, c.want.Syscalls = 3, 3, s.Syscalls
		if s != c.want || tx.Info().GSO[0] != (c.want.Withdrawn == 0) {
			t.Errorf("%s: %+v, want %+v", c.name, s, c.want)
		}
		wantLedger(t, tx)
		c.want.Packets, tx.link.down = 0, nil
		for tx.Pending() > 0 { // goes on where it stopped
			if err := tx.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		wantLedger(t, tx)
	}
}
