package encoder

import (
	"errors"
	"fmt"
)

// What is wrong with a field that cannot be encoded. Each is wrapped in a
// *FieldError, which names the field.
var (
	ErrNoAddress     = errors.New("no address")
	ErrMixedFamilies = errors.New("its address family differs from the client's; all three must be IPv4, or all three IPv6")
	ErrTooLong       = errors.New("too long")
	ErrEmpty         = errors.New("empty; an option carries at least one byte")
	ErrNoPartner     = errors.New("option without its partner")
	ErrTwice         = errors.New("option given twice")
	ErrMalformed     = errors.New("malformed option")
	ErrMandatory     = errors.New("unknown option without the optional marker 0x40; every backup would drop the record")
	ErrVersion0      = errors.New("version 0 cannot carry it")
)

// ErrFull says that the record does not fit into the rest of the message. The
// message is as before; seal it and begin the next.
var ErrFull = errors.New("message full")

// ErrBuffer says that the buffer of a message is too small or too large.
var ErrBuffer = errors.New("message buffer out of range")

// FieldError names the field of a Conn that cannot be encoded.
type FieldError struct {
	// Field as in the JSON form: "client", "virtual", "dest", "flags", "seq",
	// "pe_name", "pe_data", "options", "record".
	Field string
	// Detail says what was found and what is allowed; may be empty.
	Detail string
	// Err is one of the sentinels above.
	Err error
}

func (e *FieldError) Error() string {
	if e.Detail == "" {
		return fmt.Sprintf("%s: %v", e.Field, e.Err)
	}
	return fmt.Sprintf("%s: %v: %s", e.Field, e.Err, e.Detail)
}

func (e *FieldError) Unwrap() error { return e.Err }

func fieldError(field string, err error, format string, args ...any) error {
	return &FieldError{Field: field, Err: err, Detail: fmt.Sprintf(format, args...)}
}
