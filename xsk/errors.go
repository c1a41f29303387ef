package xsk

import (
	"errors"
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
