package xsk

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk/netns"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
	"golang.org/x/sys/unix"
)

func TestXDPConfigErrors(t *testing.T) {
	_, e := xsktest.VethPair(t)
	good := XDPConfig{Interface: e.Name, Group: group4, Port: port}
	for name, c := range map[string]struct {
		mod    func(c *XDPConfig)
		tx, rx error
	}{
		"no interface":      {func(c *XDPConfig) { c.Interface = "" }, ErrConfig, ErrConfig},
		"other interface":   {func(c *XDPConfig) { c.Interface = "nope0" }, ErrInterface, ErrInterface},
		"loopback":          {func(c *XDPConfig) { c.Interface = "lo" }, ErrUnsupported, ErrUnsupported},
		"unicast group":     {func(c *XDPConfig) { c.Group = e.Addr4 }, ErrConfig, ErrConfig},
		"no port":           {func(c *XDPConfig) { c.Port = 0 }, ErrConfig, ErrConfig},
		"ports reversed":    {func(c *XDPConfig) { c.LastPort = 1 }, ErrConfig, ErrConfig},
		"TTL":               {func(c *XDPConfig) { c.TTL = 256 }, ErrConfig, ErrConfig},
		"DSCP":              {func(c *XDPConfig) { c.DSCP = 64 }, ErrConfig, ErrConfig},
		"VLAN":              {func(c *XDPConfig) { c.VLAN = 4095 }, ErrConfig, ErrConfig},
		"frame size":        {func(c *XDPConfig) { c.FrameSize = 1500 }, ErrConfig, ErrConfig},
		"frames":            {func(c *XDPConfig) { c.TxFrames, c.RxFrames = 100, 100 }, ErrConfig, ErrConfig},
		"few frames":        {func(c *XDPConfig) { c.TxFrames, c.RxFrames = 32, 32 }, ErrConfig, ErrConfig},
		"mode":              {func(c *XDPConfig) { c.Mode = -1 }, ErrConfig, ErrConfig},
		"checksum":          {func(c *XDPConfig) { c.Checksum = 7 }, ErrConfig, ErrConfig},
		"queue":             {func(c *XDPConfig) { c.Queues = []int{7} }, ErrConfig, ErrConfig},
		"batch":             {func(c *XDPConfig) { c.Batch = 1025 }, ErrConfig, ErrConfig},
		"busy poll":         {func(c *XDPConfig) { c.BusyPoll.Time = -1 }, ErrConfig, ErrConfig},
		"map and program":   {func(c *XDPConfig) { c.Program, c.PinnedMap = new(Program), "/x" }, ErrConfig, ErrConfig},
		"other's program":   {func(c *XDPConfig) { c.Program = new(Program) }, nil, ErrConfig},
		"MaxPayload":        {func(c *XDPConfig) { c.MaxPayload = 1473 }, ErrMTU, nil},
		"peer without port": {func(c *XDPConfig) { c.Peers = []netip.AddrPort{netip.AddrPortFrom(e.Addr4, 0)} }, ErrConfig, nil},
		"nobody":            {func(c *XDPConfig) { c.Group = netip.Addr{} }, ErrConfig, nil},
		"source":            {func(c *XDPConfig) { c.Local = netip.MustParseAddr("10.1.1.1") }, ErrConfig, nil},
	} {
		in(t, e, func() error {
			cfg := good
			c.mod(&cfg)
			tx, err := OpenXDPTx(cfg)
			if !errors.Is(err, c.tx) {
				t.Errorf("%s: sender: %v, want %v", name, err, c.tx)
			}
			if err == nil {
				tx.Close()
			}
			rx, err := OpenXDPRx(cfg)
			if !errors.Is(err, c.rx) {
				t.Errorf("%s: receiver: %v, want %v", name, err, c.rx)
			}
			if err == nil {
				rx.Close()
			}
			return nil
		})
	}
}

// TestXDPFit: what fits the MTU and the frame is the default, and more is
// refused with the way out.
func TestXDPFit(t *testing.T) {
	a, _ := xsktest.VethPairWith(t, netns.VethOptions{MTU: 3000})
	tx := openXDPTx(t, a, XDPConfig{Group: group4, Port: port})
	if n := tx.MaxPayload(); n != 2048-headerRoom {
		t.Errorf("MaxPayload %d", n)
	}
	tx.Close()
	tx = openXDPTx(t, a, XDPConfig{Group: group6, Port: port, FrameSize: 4096})
	if n := tx.MaxPayload(); n != 3000-Overhead6 {
		t.Errorf("MaxPayload %d", n)
	}
	in(t, a, func() error {
		_, err := OpenXDPTx(XDPConfig{Interface: a.Name, Group: group4, Port: port, MaxPayload: 2000})
		if !errors.Is(err, ErrConfig) {
			t.Errorf("%v, want ErrConfig", err)
		}
		return nil
	})
}

// TestXDPBusyPoll: it is accepted, and messages arrive as without.
func TestXDPBusyPoll(t *testing.T) {
	a, b := xsktest.VethPair(t)
	cfg := XDPConfig{Group: group4, Port: port, BusyPoll: BusyPoll{Time: 20 * time.Microsecond, Budget: 16}}
	rx, tx := openXDPRx(t, b, cfg), openXDPTx(t, a, cfg)
	sendAll(t, tx, sequences(100)...)
	wantSequence(t, takeAll(t, rx, 100), 100)
}

func TestXDPCommitMisuse(t *testing.T) {
	a, _ := xsktest.VethPair(t)
	tx := openXDPTx(t, a, XDPConfig{Group: group4, Port: port})
	wantPanic := func(n int) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Errorf("Commit(%d) did not panic", n)
			}
		}()
		tx.Commit(n)
	}
	wantPanic(0)
	first, err := tx.Next()
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := tx.Next(); &again[0] != &first[0] || len(first) != tx.MaxPayload() || cap(first) != len(first) {
		t.Error("Next lends another buffer, or of another size")
	}
	wantPanic(-1)
	wantPanic(tx.MaxPayload() + 1)
	tx.Commit(tx.MaxPayload())
	wantPanic(0)
}

// TestXDPBroken: an errno of the kernel that says that the ring is beyond
// repair is told, again and again, without another attempt.
func TestXDPBroken(t *testing.T) {
	a, _ := xsktest.VethPair(t)
	tx := openXDPTx(t, a, XDPConfig{Group: group4, Port: port})
	commitOne(tx, "x")
	kicks := 0
	tx.q.kick = func() unix.Errno { kicks++; return unix.EINVAL }
	for range 3 {
		if err := tx.Flush(); !errors.Is(err, ErrBroken) || !errors.Is(err, unix.EINVAL) {
			t.Errorf("%v, want ErrBroken and EINVAL", err)
		}
	}
	if kicks != 1 || tx.Pending() != 1 {
		t.Errorf("%d kicks, %d pending", kicks, tx.Pending())
	}
	tx.Close()
	if s := tx.Stats(); s.Discarded != 1 {
		t.Errorf("%+v", s)
	}
}

// TestXDPBackPressure: whatever the kernel says of its being full, nothing is
// lost, but by a drop of the driver, which is counted and told.
func TestXDPBackPressure(t *testing.T) {
	a, b := xsktest.VethPair(t)
	var lost []string
	rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port})
	tx := openXDPTx(t, a, XDPConfig{Group: group4, Port: port, TxFrames: 64, Lost: func(m []byte) { lost = append(lost, string(m)) }})
	kick := tx.q.kick
	for _, e := range []unix.Errno{unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM} {
		tx.q.kick = func() unix.Errno { return e }
		commitOne(tx, "kept")
		if err := tx.Flush(); err != nil || tx.Pending() != 1 {
			t.Errorf("%v: %v, %d pending", e, err, tx.Pending())
		}
		if err := tx.Wait(time.Hour); err != nil {
			t.Error(err)
		}
		tx.q.kick = kick
		sendAll(t, tx)
		takeAll(t, rx, 1)
	}
	if s := tx.Stats(); s.BackPressure != 3 || s.Packets != 3 || s.Errors != 0 {
		t.Errorf("%+v", s)
	}
	commitOne(tx, "first")
	commitOne(tx, "second")
	tx.q.kick = func() unix.Errno { // the second is dropped
		kick()
		return unix.EBUSY
	}
	if err := tx.Flush(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("%v, want EBUSY", err)
	}
	if s := tx.Stats(); s.Errors != 1 || s.Packets != 4 || len(lost) != 1 || lost[0] != "second" || tx.Pending() != 0 {
		t.Errorf("%+v, lost %q", s, lost)
	}
	wantXDPLedger(t, tx)
}
