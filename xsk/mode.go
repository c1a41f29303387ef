package xsk

import (
	"errors"
	"fmt"
	"strings"
)

// Mode is a way to move packets. Auto takes the first of the others, in their
// order, that interface, kernel and rights allow.
type Mode int

// The modes, the preferred ones first.
const (
	ModeAuto     Mode = iota
	ModeZeroCopy      // AF_XDP, the driver takes frames from packet memory by itself
	ModeCopy          // AF_XDP, the kernel copies, the driver runs the XDP program
	ModeGeneric       // AF_XDP, the kernel copies and runs the XDP program
	ModeUDPGSO        // UDP sockets, many messages handed over as one (GSO, GRO)
	ModeUDP           // UDP sockets, sendmmsg and recvmmsg
	numModes
)

var modeNames = [numModes]string{"auto", "zerocopy", "copy", "generic", "udp-gso", "udp"}

func (m Mode) String() string {
	if m < 0 || m >= numModes {
		return fmt.Sprintf("Mode(%d)", int(m))
	}
	return modeNames[m]
}

// ParseMode is the inverse of String.
func ParseMode(s string) (Mode, error) {
	for m, name := range modeNames {
		if s == name {
			return Mode(m), nil
		}
	}
	return 0, fmt.Errorf("mode %q: want one of %s", s, strings.Join(modeNames[:], ", "))
}

// MarshalText and UnmarshalText are String and ParseMode, for flags and JSON.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText is ParseMode.
func (m *Mode) UnmarshalText(text []byte) (err error) {
	*m, err = ParseMode(string(text))
	return err
}

// Config describes a sender or receiver whose mode is still to be chosen.
type Config struct {
	XDPConfig // its Mode, Generic and GenericOnly are set by the mode that is tried

	// NoXDP is why the caller does not want AF_XDP to be tried; empty if it does.
	NoXDP string

	// What only UDP can do, or needs. With Loop, AF_XDP cannot be used.
	Loop           bool
	SndBuf, RcvBuf int
}

// Choice tells which mode is in use, and why none that is preferred to it.
type Choice struct {
	Mode     Mode
	Rejected []Rejection
}

// Rejection is a mode that was tried in vain.
type Rejection struct {
	Mode Mode
	Err  error
}

// String is one line, for logs: the mode, and the reasons against others, each
// once.
func (c Choice) String() string {
	s := c.Mode.String()
	for i, r := range c.Rejected {
		if i > 0 && r.why() == c.Rejected[i-1].why() {
			s += ", " + r.Mode.String()
		} else {
			s += "; not " + r.Mode.String()
		}
		if i == len(c.Rejected)-1 || r.why() != c.Rejected[i+1].why() {
			s += ": " + r.why()
		}
	}
	return s
}

// why is Err without what was being done, which is clear.
func (r Rejection) why() string {
	var e *Error
	if errors.As(r.Err, &e) {
		return e.Err.Error()
	}
	return r.Err.Error()
}

// errLoop says why AF_XDP is no choice.
var errLoop = fmt.Errorf("%w: packets of AF_XDP do not come back to this host, as Loop wants", ErrUnsupported)

// OpenTx opens a sender in the mode, or for ModeAuto in the best that can be had.
// A mode that was asked for and cannot be had is an error; so is, in any mode,
// whatever another mode would not mend: a wrong configuration, no such interface.
func OpenTx(mode Mode, cfg Config) (Tx, Choice, error) {
	if err := cfg.check("open sender", true); err != nil {
		return nil, Choice{}, err
	}
	return choose(mode, func(m Mode) (Tx, Mode, string, error) {
		switch m {
		case ModeUDPGSO, ModeUDP:
			u := cfg.udp()
			if u.GSO = OffloadOn; m == ModeUDP {
				u.GSO = OffloadOff
			}
			tx, err := OpenUDPTx(u)
			return tx, m, "", err
		}
		switch {
		case cfg.Loop:
			return nil, m, "", errLoop
		case cfg.NoXDP != "":
			return nil, m, "", fmt.Errorf("%w: %s", ErrUnsupported, cfg.NoXDP)
		}
		x := cfg.xdp(m)
		if err := x.chooseFrame(headerRoom, cfg.MaxPayload); err != nil && mode == ModeAuto {
			return nil, m, "", err
		}
		tx, err := OpenXDPTx(x)
		if err != nil {
			return nil, m, "", err
		}
		return tx, got(m, tx.Info()), tx.Info().WhyCopy, nil
	})
}

// OpenRx is OpenTx for a receiver. ModeAuto takes no AF_XDP mode if another
// socket of this host receives on one of the ports, since that would get nothing
// any more, and no generic one on a virtual device, which may hand on many
// messages as one. If the receiver itself would get nothing, because another
// one's XDP program takes it, that is ErrInUse.
func OpenRx(mode Mode, cfg Config) (Rx, Choice, error) {
	if err := cfg.check("open receiver", false); err != nil {
		return nil, Choice{}, err
	}
	return choose(mode, func(m Mode) (Rx, Mode, string, error) {
		switch m {
		case ModeUDPGSO, ModeUDP:
			u := cfg.udp()
			if u.GRO = OffloadOn; m == ModeUDP {
				u.GRO = OffloadOff
			}
			rx, err := openUDPRx(u, cfg.lastPort())
			return rx, m, "", err
		}
		if err := cfg.leaveXDP(mode, m); err != nil {
			return nil, m, "", err
		}
		x := cfg.xdp(m)
		longest := cfg.MaxPayload
		if ifi, err := findInterface(cfg.Interface); err == nil && longest == 0 {
			longest = ifi.MTU - Overhead4 // as with UDP
		}
		if err := x.chooseFrame(xdpHeadroom+maxHeaders, longest); err != nil && mode == ModeAuto {
			return nil, m, "", err
		}
		rx, err := OpenXDPRx(x)
		if err != nil {
			if e := starved(err, cfg.Port, cfg.lastPort()); e != nil && mode == ModeAuto {
				err = &Error{Op: opOpenXDPRx, Interface: cfg.Interface, Err: e}
			}
			return nil, m, "", err
		}
		return rx, got(m, rx.Info()), rx.Info().WhyCopy, nil
	})
}

// check finds what is wrong in every mode, whichever is tried first.
func (c *Config) check(op string, sender bool) error {
	u := c.udp()
	if err := u.check(sender); err != nil {
		return &Error{Op: op, Interface: c.Interface, Err: err}
	}
	return nil
}

func (c *Config) lastPort() int { return max(c.Port, c.LastPort) }

// leaveXDP is why a receiver does not try an AF_XDP mode, if there is a reason.
func (c *Config) leaveXDP(asked, m Mode) error {
	switch {
	case c.NoXDP != "":
		return fmt.Errorf("%w: %s", ErrUnsupported, c.NoXDP)
	case asked != ModeAuto:
		return nil
	}
	if err := besides(c.Port, c.lastPort()); err != nil {
		return err
	}
	if err := listened(c.Interface, c.Group); err != nil {
		return err
	}
	return onWire(c.Interface, m == ModeGeneric)
}

// choose tries the modes in order. open returns the mode that it came to, which
// for ModeZeroCopy, tried without insisting, may be a lesser one, and why.
func choose[T any](mode Mode, open func(Mode) (T, Mode, string, error)) (t T, c Choice, err error) {
	if mode < 0 || mode >= numModes {
		return t, c, fmt.Errorf("%w: %v", ErrConfig, mode)
	}
	if mode != ModeAuto {
		t, c.Mode, _, err = open(mode)
		return t, c, err
	}
	for m := ModeAuto + 1; m < numModes; m++ {
		opened, have, why, err := open(tried(m))
		if err == nil {
			if have != m {
				c.Rejected = append(c.Rejected, Rejection{m, errors.New(why)})
			}
			c.Mode = have
			return opened, c, nil
		}
		c.Rejected = append(c.Rejected, Rejection{m, err})
		if m == numModes-1 || !anotherMayDo(err) {
			return t, c, err
		}
		if m == ModeZeroCopy {
			m = ModeCopy // it would have been content with that
			c.Rejected = append(c.Rejected, Rejection{m, err})
		}
	}
	return t, c, err
}

// preferZeroCopy is ModeZeroCopy, content with ModeCopy.
const preferZeroCopy = numModes

func tried(m Mode) Mode {
	if m == ModeZeroCopy {
		return preferZeroCopy
	}
	return m
}

// anotherMayDo says whether a failure to open may be about the mode. What is wrong
// with the configuration, the interface or the port is so in every mode; a driver's
// reason not to take an XDP program may be any errno.
func anotherMayDo(err error) bool {
	for _, e := range []error{ErrConfig, ErrInterface, ErrLinkDown, ErrNoAddress, ErrMTU, ErrInUse, ErrNoRoute} {
		if errors.Is(err, e) {
			return false
		}
	}
	return true
}

func (c *Config) udp() UDPConfig {
	u := c.XDPConfig.udp()
	u.Loop, u.SndBuf, u.RcvBuf, u.Lost = c.Loop, c.SndBuf, c.RcvBuf, c.Lost
	return u
}

func (c *Config) xdp(m Mode) XDPConfig {
	x := c.XDPConfig
	x.Generic, x.GenericOnly = m == ModeGeneric, m == ModeGeneric
	switch m {
	case ModeZeroCopy:
		x.Mode = ZeroCopyRequired
	case preferZeroCopy:
		x.Mode = ZeroCopyPreferred
	default:
		x.Mode = CopyOnly
	}
	return x
}

// chooseFrame makes frames as large as the longest message needs with what lies
// around it, if nobody has chosen, up to what AF_XDP has. Short messages get short
// frames: more of them stay in the cache.
func (c *XDPConfig) chooseFrame(around, longest int) error {
	if c.FrameSize == 0 && around+longest > 2048 {
		c.FrameSize = 4096
		if around+longest > 4096 {
			return fmt.Errorf("%w: AF_XDP frames have room for messages of %d bytes, which may have %d here: lower MaxPayload or the MTU",
				ErrUnsupported, 4096-around, longest)
		}
	}
	return nil
}

// got is the mode that an AF_XDP socket came to.
func got(m Mode, info XDPInfo) Mode {
	switch {
	case m == ModeGeneric:
		return ModeGeneric
	case info.ZeroCopy:
		return ModeZeroCopy
	}
	return ModeCopy
}
