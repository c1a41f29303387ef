package prove

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync/xsk"
)

const (
	// DefaultPort is that of the listener, TCP and UDP: far from those of the
	// synchronisation.
	DefaultPort = 18848
	// MaxMessages bounds a run: the listener remembers each by a bit.
	MaxMessages = 1 << 24

	version = 1
	maxLine = 1 << 16

	pilotWait = 250 * time.Millisecond
	silence   = time.Second // after which nothing more is expected to arrive
	maxRuns   = 64          // of one prover
)

// request is what the prover asks for.
type request struct {
	Do       string     `json:"do"`
	Version  int        `json:"version,omitempty"`
	Mode     string     `json:"mode,omitempty"`
	SyncID   uint8      `json:"syncid,omitempty"`
	Messages uint64     `json:"messages,omitempty"`
	Group    netip.Addr `json:"group,omitzero"`
	Sent     uint64     `json:"sent,omitempty"`
}

// answer is what the listener answers.
type answer struct {
	Error string `json:"error,omitempty"`

	Version int   `json:"version,omitempty"`
	Host    *Host `json:"host,omitempty"`

	Mode     string `json:"mode,omitempty"`
	ZeroCopy bool   `json:"zero_copy,omitempty"`

	Count *Count `json:"count,omitempty"`
}

// Host is one of the two.
type Host struct {
	Kernel     string `json:"kernel"`
	Interface  string `json:"interface"`
	Driver     string `json:"driver,omitempty"`
	MaxPayload int    `json:"max_payload"`
}

// Count is what a receiver counted.
type Count struct {
	Pilots     uint64      `json:"pilots"`
	Arrived    uint64      `json:"arrived"`    // messages, each once
	Records    uint64      `json:"records"`    // accepted in those
	Refused    uint64      `json:"refused"`    // records that a backup would refuse; none should be
	Duplicates uint64      `json:"duplicates"` // messages that had arrived before
	Reordered  uint64      `json:"reordered"`  // messages that came behind a later one
	Foreign    uint64      `json:"foreign"`    // what is none of this run's messages
	Seconds    float64     `json:"seconds"`    // from the first to the last
	Stats      xsk.RxStats `json:"stats"`
}

// lines speaks the protocol over a connection.
type lines struct {
	conn net.Conn
	in   *bufio.Scanner
}

func newLines(c net.Conn) *lines {
	l := &lines{conn: c, in: bufio.NewScanner(c)}
	l.in.Buffer(make([]byte, 4096), maxLine)
	return l
}

var errLeft = errors.New("the other end closed the connection")

// read reads one line, for at most d.
func (l *lines) read(v any, d time.Duration) error {
	if err := l.conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	if !l.in.Scan() {
		if err := l.in.Err(); err != nil {
			return err
		}
		return errLeft
	}
	if err := json.Unmarshal(l.in.Bytes(), v); err != nil {
		return fmt.Errorf("the other end does not speak this protocol: %w", err)
	}
	return nil
}

func (l *lines) write(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := l.conn.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	_, err = l.conn.Write(append(b, '\n'))
	return err
}

// bound is a control function for sockets that belong to one interface.
func bound(iface string) func(_, _ string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), iface) }); e != nil {
			return e
		}
		if err != nil {
			return fmt.Errorf("bind to %s: %w", iface, err)
		}
		return nil
	}
}

// hostNow describes this end.
func hostNow(iface string, maxPayload int) (Host, error) {
	d, err := xsk.LookAtDevice(iface)
	if err != nil {
		return Host{}, err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Host{}, fmt.Errorf("uname: %w", err)
	}
	return Host{Kernel: unix.ByteSliceToString(u.Release[:]), Interface: iface, Driver: d.Driver, MaxPayload: maxPayload}, nil
}
