package xsk

import (
	"errors"
	"strings"
	"testing"

	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

func TestModeNames(t *testing.T) {
	for m := range numModes {
		if got, err := ParseMode(m.String()); err != nil || got != m {
			t.Errorf("%v: %v, %v", m, got, err)
		}
	}
	if _, err := ParseMode("fast"); err == nil || !strings.Contains(err.Error(), "zerocopy") {
		t.Errorf("%v", err)
	}
}

// Every mode that veth can do carries messages both ways, and says its name; auto
// takes copy there, and says why not zero-copy.
func TestModes(t *testing.T) {
	for _, tc := range []struct{ mode, want Mode }{
		{ModeAuto, ModeCopy}, {ModeCopy, ModeCopy}, {ModeGeneric, ModeGeneric}, {ModeUDPGSO, ModeUDPGSO}, {ModeUDP, ModeUDP},
	} {
		t.Run(tc.mode.String(), func(t *testing.T) {
			a, b := xsktest.VethPair(t)
			cfg := Config{XDPConfig: XDPConfig{Interface: a.Name, Group: group4, Port: port}}
			var tx Tx
			var rx Rx
			var ctx, crx Choice
			if err := a.NS.Do(func() (err error) { tx, ctx, err = OpenTx(tc.mode, cfg); return err }); err != nil {
				t.Fatal(err)
			}
			defer tx.Close()
			cfg.Interface = b.Name
			if err := b.NS.Do(func() (err error) { rx, crx, err = OpenRx(tc.mode, cfg); return err }); err != nil {
				t.Fatal(err)
			}
			defer rx.Close()
			if ctx.Mode != tc.want || crx.Mode != tc.want {
				t.Errorf("sender: %v\nreceiver: %v", ctx, crx)
			}
			if tc.mode == ModeAuto && (len(ctx.Rejected) != 1 || ctx.Rejected[0].Mode != ModeZeroCopy || !strings.Contains(ctx.String(), "copy; not zerocopy: ")) {
				t.Errorf("%v", ctx)
			}
			buf, err := tx.Next()
			if err != nil {
				t.Fatal(err)
			}
			tx.Commit(copy(buf, "hello"))
			if err := tx.Flush(); err != nil {
				t.Fatal(err)
			}
			for {
				batch, err := rx.Receive(-1)
				if err != nil {
					t.Fatal(err)
				}
				if len(batch) > 0 {
					if string(batch[0].Payload) != "hello" {
						t.Errorf("%q", batch[0].Payload)
					}
					break
				}
			}
		})
	}
}

// What was asked for and cannot be had is an error; auto goes on, unless no mode
// would do, and says why.
func TestModeFallsBack(t *testing.T) {
	a, _ := xsktest.VethPair(t)
	cfg := Config{XDPConfig: XDPConfig{Interface: a.Name, Group: group4, Port: port}}
	in := func(f func() error) error { return a.NS.Do(f) }
	if err := in(func() error { _, _, err := OpenTx(ModeZeroCopy, cfg); return err }); !errors.Is(err, ErrZeroCopy) {
		t.Errorf("zero-copy on veth: %v", err)
	}
	loop := cfg
	loop.Loop = true
	if err := in(func() error { _, _, err := OpenTx(ModeCopy, loop); return err }); !errors.Is(err, ErrUnsupported) {
		t.Errorf("AF_XDP with Loop: %v", err)
	}
	err := in(func() error {
		tx, c, err := OpenTx(ModeAuto, loop)
		if err != nil {
			return err
		}
		defer tx.Close()
		if c.Mode != ModeUDPGSO || len(c.Rejected) != 3 {
			t.Errorf("auto with Loop: %v", c)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	none := cfg
	none.Interface = "no-such0"
	if err := in(func() error { _, _, err := OpenRx(ModeAuto, none); return err }); !errors.Is(err, ErrInterface) {
		t.Errorf("no such interface: %v", err)
	}
	big := cfg
	big.SndBuf, big.RcvBuf = MaxBuffer+1, MaxBuffer+1
	for _, m := range []Mode{ModeAuto, ModeCopy, ModeUDPGSO} {
		for who, open := range map[string]func() error{
			"sender":   func() error { _, _, err := OpenTx(m, big); return err },
			"receiver": func() error { _, _, err := OpenRx(m, big); return err },
		} {
			if err := in(open); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "Buf 2147483648: want 0 to") {
				t.Errorf("%v %s with a buffer past the limit: %v", m, who, err)
			}
		}
	}
	if err := in(func() error { _, _, err := OpenTx(99, cfg); return err }); !errors.Is(err, ErrConfig) {
		t.Errorf("mode 99: %v", err)
	}
}
