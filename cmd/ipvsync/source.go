package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"time"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/procconn"
	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/record"
	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/services"
	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/tableserver"
	"github.com/ipvsync/ipvsync/encoder"
)

// source is where the connections of a resync come from.
type source struct {
	// read yields the connections and what is left of their life; forDefault
	// leaves it to the backup. A Conn, with its Options, is lent until the next.
	read func(yield func(*encoder.Conn, time.Duration) bool)
	// warn is told what could not be used.
	warn io.Writer
	now  func() time.Time

	bad, over, unknown int   // lines that could not be used; lives that were over; without a service
	err                error // that ended reading
	closers            []io.Closer
}

// errNothing is that of an input without a single line, which is most likely a
// mistake. (A listing has its first line, and a snapshot its header.)
var errNothing = errors.New("it is empty: want a snapshot, a copy of /proc/net/ip_vs_conn, or JSON records")

// forDefault is the life of a record whose timeout is 0.
const forDefault = time.Duration(-1)

func (s *source) close() {
	for _, c := range s.closers {
		c.Close()
	}
}

// badLine reports a line, and counts it. Of many, only some are printed.
func (s *source) badLine(err error) {
	const most = 20
	if s.bad++; s.bad <= most {
		fmt.Fprintf(s.warn, "ipvsync: %v\n", err)
	}
	if s.bad == most {
		fmt.Fprintln(s.warn, "ipvsync: further bad lines are only counted")
	}
}

// conns is what Resync sends: connections as they are read, then those that could
// be found in place of another, as Table.Conns has it: without a client's
// port, and templates. They are kept in memory until then, while their lives go on.
func (s *source) conns() iter.Seq[ipvsync.Conn] {
	type kept struct {
		conn ipvsync.Conn
		end  time.Time // of its life; zero: forDefault
	}
	return func(yield func(ipvsync.Conn) bool) {
		var later [2][]kept
		stopped := false
		s.read(func(c *encoder.Conn, left time.Duration) bool {
			if left != forDefault && left <= 0 {
				s.over++
				return true
			}
			if group := c.Flags & (encoder.FlagNoCport | encoder.FlagTemplate); group != 0 {
				k := kept{conn: *c}
				k.conn.Options = bytes.Clone(c.Options)
				if left != forDefault {
					k.end = s.now().Add(left)
				}
				i := 0
				if group&encoder.FlagTemplate != 0 {
					i = 1
				}
				later[i] = append(later[i], k)
				return true
			}
			stopped = !yield(withTimeout(c, left))
			return !stopped
		})
		for _, list := range later {
			for i := range list {
				left := forDefault
				if k := &list[i]; !k.end.IsZero() {
					if left = k.end.Sub(s.now()); left <= 0 {
						s.over++
						continue
					}
				}
				if stopped || !yield(withTimeout(&list[i].conn, left)) {
					return
				}
			}
		}
	}
}

func withTimeout(c *encoder.Conn, left time.Duration) ipvsync.Conn {
	conn := *c
	conn.Timeout = 0
	if left != forDefault {
		conn.Timeout = uint32(min((left+time.Second-1)/time.Second, 1<<32-1))
	}
	return conn
}

// procListing is what --from /proc stands for.
const procListing = "/proc/net/ip_vs_conn"

// open finds out what from is.
func (o *resyncOptions) open(ctx context.Context, stdin io.Reader, stderr io.Writer) (*source, error) {
	s := &source{warn: stderr, now: time.Now}
	if tableserver.IsURL(o.from) {
		client, err := tableserver.NewClient(o.from)
		if err != nil {
			return nil, usagef("--from %w", err)
		}
		body, err := client.Get(ctx, "snapshot", nil)
		if err != nil {
			return nil, err
		}
		s.closers = append(s.closers, body)
		// It was taken now, whatever the clock of its host says.
		return s, s.snapshot(body, time.Time{})
	}
	ages := false     // what is read is of this moment, however late it is read
	var file *os.File // that can be read twice
	in := &input{ctx: ctx, r: stdin, flush: func() error { return nil }, live: true}
	name := strings.TrimSuffix(o.from, "/")
	switch {
	case o.from == "-":
		name = "stdin"
	case name == "/proc":
		name = procListing
		fallthrough
	default:
		f, err := openFile(ctx, name)
		if err != nil {
			if name == procListing && errors.Is(err, os.ErrNotExist) {
				return nil, fmt.Errorf("%w: this kernel has no IPVS loaded, or does not show it here (modprobe ip_vs)", err)
			}
			return nil, err
		}
		s.closers = append(s.closers, f)
		in.r = f
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			file, in.live = f, false
			ages = name != procListing // which shows each line as it is when it is read
		}
	}
	buffered := bufio.NewReaderSize(in, 64<<10)
	head, err := buffered.Peek(8)
	if err != nil && err != io.EOF {
		return s, fmt.Errorf("read %s: %w", name, err)
	}
	switch {
	case ipvsync.IsSnapshot(head):
		if file != nil { // nothing is sent of one that is damaged
			if _, err := file.Seek(0, io.SeekStart); err != nil {
				return s, err
			}
			if err := ipvsync.VerifySnapshot(file); err != nil {
				return s, fmt.Errorf("%s: %w", name, err)
			}
			if _, err := file.Seek(0, io.SeekStart); err != nil {
				return s, err
			}
			buffered.Reset(file)
		}
		return s, s.snapshot(buffered, time.Now())
	case bytes.HasPrefix(head, []byte("Pro From")):
		set, err := o.services(name == procListing)
		if err != nil {
			return s, err
		}
		return s, s.listing(buffered, set, o.forward.flags, ages)
	}
	if procconn.Headless(head) {
		return s, fmt.Errorf("%s: %w; without that line, what the columns are is not known", name, procconn.ErrNotListing)
	}
	s.json(buffered, ages)
	return s, nil
}

// snapshot reads one; now is the time on the clock that it was stamped by, zero
// if it is of this moment.
func (s *source) snapshot(r io.Reader, now time.Time) error {
	sr, err := ipvsync.NewSnapshotReader(r)
	if err != nil {
		return err
	}
	var away time.Duration
	if !now.IsZero() {
		if away = now.Sub(sr.Time); away < 0 {
			fmt.Fprintf(s.warn, "ipvsync: the snapshot is of the future, %v: lifetimes are taken as they were then\n", sr.Time)
			away = 0
		}
	}
	gone := s.elapsed(true)
	s.read = func(yield func(*encoder.Conn, time.Duration) bool) {
		var e ipvsync.Entry
		for {
			if err := sr.Read(&e); err != nil {
				if err != io.EOF {
					s.err = err
				}
				return
			}
			if !yield(&e.Conn, lifeLeft(&e, away, gone())) {
				return
			}
		}
	}
	return nil
}

// lifeLeft is what is left of an entry's life after the times since its snapshot
// began, none negative. An entry that was refreshed while the snapshot was written
// ends later than Timeout after the begin, but never later than Timeout from now.
func lifeLeft(e *ipvsync.Entry, since ...time.Duration) time.Duration {
	left := max(0, e.Expires)
	for _, d := range since { // one by one: their sum may be too large
		left = max(0, left-d)
	}
	return min(left, time.Duration(e.Timeout)*time.Second)
}

// elapsed is a clock that starts now, or, for what does not age while it is read,
// stands still.
func (s *source) elapsed(ages bool) func() time.Duration {
	begin := s.now()
	return func() time.Duration {
		if !ages {
			return 0
		}
		return s.now().Sub(begin)
	}
}

func (s *source) listing(r io.Reader, set *services.Set, forward encoder.Flags, ages bool) error {
	pr, err := procconn.NewReader(r)
	if err != nil {
		return err
	}
	gone := s.elapsed(ages)
	s.read = func(yield func(*encoder.Conn, time.Duration) bool) {
		var e procconn.Entry
		for {
			err := pr.Read(&e)
			var le *procconn.LineError
			switch {
			case err == io.EOF:
				return
			case errors.As(err, &le):
				s.badLine(err)
				continue
			case err != nil:
				s.err = err
				return
			}
			if !set.Complete(&e.Conn) {
				s.unknown++
				e.Flags |= forward
				if forward != encoder.FwdMasq {
					e.Flags |= encoder.FlagNoOutput
				}
			}
			if !yield(&e.Conn, max(0, time.Duration(e.Timeout)*time.Second-gone())) {
				return
			}
		}
	}
	return nil
}

func (s *source) json(r io.Reader, ages bool) {
	rr := record.NewReader(r)
	gone := s.elapsed(ages)
	s.read = func(yield func(*encoder.Conn, time.Duration) bool) {
		var c encoder.Conn
		some := false
		for {
			err := rr.Read(&c)
			var le *record.LineError
			switch {
			case err == io.EOF:
				if !some {
					s.err = errNothing
				}
				return
			case errors.As(err, &le):
				some = true
				s.badLine(err)
				continue
			case err != nil:
				s.err = err
				return
			}
			some = true
			left := forDefault
			if c.Timeout > 0 {
				left = max(0, time.Duration(c.Timeout)*time.Second-gone())
			}
			if !yield(&c, left) {
				return
			}
		}
	}
}
