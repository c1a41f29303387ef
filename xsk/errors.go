package xsk

import (
	"errors"
	"fmt"
	"net/netip"
)

// Errors to decide by, with errors.Is. Each is one decision of a caller.
var (
	ErrConfig     = errors.New("invalid configuration")     // correct the field that is named
	ErrInterface  = errors.New("no such interface")         // correct the name, or wait for the interface
	ErrNoAddress  = errors.New("interface has no address")  // give it one
	ErrMTU        = errors.New("message exceeds the MTU")   // lower MaxPayload, or raise the MTU
	ErrPermission = errors.New("permission denied")         // run with the capability that is named
	ErrInUse      = errors.New("address in use")            // stop the other program, or use another port
	ErrNoRoute    = errors.New("destination has no route")  // add a route, or remove the peer
	ErrNoFrame    = errors.New("all frames are in flight")  // Flush and Wait, or drop the message
	ErrLinkDown   = errors.New("link is down")              // try again later: nothing is lost
	ErrDeviceGone = errors.New("network device is gone")    // close, and open again when it is back
	ErrClosed     = errors.New("transport has been closed") // stop
)

// Errors of AF_XDP alone. What can be done without it is UDP.
var (
	ErrUnsupported = errors.New("not supported by this kernel or driver")      // use UDP
	ErrZeroCopy    = errors.New("zero-copy is not available")                  // use copy mode, or another driver
	ErrQueueBusy   = errors.New("device queue is in use")                      // stop the other program, or use another queue
	ErrMemlock     = errors.New("locked memory is limited")                    // raise RLIMIT_MEMLOCK, or use fewer frames
	ErrProgramBusy = errors.New("another XDP program is attached")             // detach it, or let it feed a pinned map
	ErrBroken      = errors.New("the kernel refuses a descriptor of the ring") // close, open again, and report it
)

// ForeignProgramError is an ErrProgramBusy that names the program, for bpftool
// prog show id ID.
type ForeignProgramError struct {
	ID uint32
}

func (e *ForeignProgramError) Error() string {
	return fmt.Sprintf("%v: program id %d, which stays: detach it if it is yours, or let it redirect into a pinned map (PinnedMap)", ErrProgramBusy, e.ID)
}

// Is makes it an ErrProgramBusy.
func (e *ForeignProgramError) Is(target error) bool { return target == ErrProgramBusy }

// ConfigError is an ErrConfig that names the field, of Config, UDPConfig, XDPConfig
// or SocketConfig.
type ConfigError struct {
	Field string
	Msg   string // what is wrong with its value, and what is wanted
}

func (e *ConfigError) Error() string { return fmt.Sprintf("%v: %s %s", ErrConfig, e.Field, e.Msg) }

// Is makes it an ErrConfig.
func (e *ConfigError) Is(target error) bool { return target == ErrConfig }

func badField(field, format string, args ...any) error {
	return &ConfigError{Field: field, Msg: fmt.Sprintf(format, args...)}
}

// Error tells which operation failed, and where. errors.Is finds the sentinel
// and, if there was one, the errno behind it.
type Error struct {
	Op        string         // what was being done, such as "open UDP sender"
	Interface string         // where
	Dest      netip.AddrPort // destination, if it was about one
	Err       error
}

func (e *Error) Error() string {
	s := "xsk: " + e.Op
	if e.Interface != "" {
		s += " on " + e.Interface
	}
	if e.Dest.IsValid() {
		s += " to " + e.Dest.String()
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
