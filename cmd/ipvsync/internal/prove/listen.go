package prove

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/xsk"
)

// ListenConfig describes the listener.
type ListenConfig struct {
	Interface string
	Port      uint16        // TCP, and UDP for the messages
	Timeout   time.Duration // how long it waits for a prover, and a prover may take
	Log       *slog.Logger
}

// Listen serves one prover, then returns. It must be called on a thread that
// stays in the network namespace of the interface.
func Listen(ctx context.Context, cfg ListenConfig) error {
	host, err := hostNow(cfg.Interface, ipvsync.DefaultMaxSize(cfg.Interface, netip.Addr{}, nil))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	lc := net.ListenConfig{Control: bound(cfg.Interface)}
	ln, err := lc.Listen(ctx, "tcp", fmt.Sprintf(":%d", cfg.Port))
	if err != nil {
		return fmt.Errorf("listen for a prover: %w (--prove-port)", err)
	}
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	cfg.Log.Info("listening", "interface", cfg.Interface, "port", cfg.Port)
	c, err := ln.Accept()
	ln.Close() // one prover: a second would disturb the figures of the first
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("no prover came: %w", context.Cause(ctx))
		}
		return fmt.Errorf("wait for a prover: %w", err)
	}
	defer c.Close()
	stopConn := context.AfterFunc(ctx, func() { c.Close() })
	defer stopConn()
	cfg.Log.Info("prover", "address", c.RemoteAddr().String())
	s := session{cfg: cfg, host: host, lines: newLines(c), local: c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()}
	defer s.close()
	if err := s.serve(); !errors.Is(err, errLeft) && !errors.Is(err, io.EOF) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("serve the prover: %w", err)
	}
	return nil
}

// session is what the listener does for its prover.
type session struct {
	cfg   ListenConfig
	host  Host
	lines *lines
	local netip.Addr // to which the messages come
	run   *receiving // nil: no receiver is open
	runs  int
}

// serve answers requests until the prover leaves.
func (s *session) serve() error {
	for {
		var q request
		if err := s.lines.read(&q, s.cfg.Timeout); err != nil {
			return err
		}
		a := s.answer(&q)
		if a.Error != "" {
			s.cfg.Log.Info(q.Do, "mode", q.Mode, "error", a.Error)
		}
		if err := s.lines.write(a); err != nil {
			return err
		}
	}
}

func (s *session) answer(q *request) answer {
	no := func(format string, args ...any) answer { return answer{Error: fmt.Sprintf(format, args...)} }
	switch q.Do {
	case "hello":
		if q.Version != version {
			return no("this listener speaks version %d of the protocol, not %d: use the same ipvsync at both ends", version, q.Version)
		}
		return answer{Version: version, Host: &s.host}
	case "open":
		s.close()
		return s.open(q)
	case "pilot", "count":
		if s.run == nil {
			return no("%s: no receiver is open", q.Do)
		}
		if q.Do == "pilot" {
			return answer{Count: s.run.wait(pilotWait, func(c *Count) bool { return c.Pilots > 0 })}
		}
		c := s.run.wait(silence, func(c *Count) bool { return c.Arrived >= q.Sent })
		s.cfg.Log.Info("counted", "sent", q.Sent, "arrived", c.Arrived)
		return answer{Count: c}
	case "close":
		s.close()
		return answer{}
	}
	return no("%q: want hello, open, pilot, count or close", q.Do)
}

func (s *session) open(q *request) answer {
	mode, err := xsk.ParseMode(q.Mode)
	switch {
	case err != nil:
		return answer{Error: err.Error()}
	case q.SyncID == 0:
		return answer{Error: "syncid 0: want 1 to 255"}
	case q.Messages > MaxMessages:
		return answer{Error: fmt.Sprintf("%d messages: want up to %d", q.Messages, MaxMessages)}
	case s.runs >= maxRuns:
		return answer{Error: fmt.Sprintf("want up to %d runs", maxRuns)}
	}
	s.runs++
	x := xsk.XDPConfig{Interface: s.cfg.Interface, Port: int(s.cfg.Port), Group: q.Group}
	if !q.Group.IsValid() {
		x.Local = s.local
	}
	rx, choice, err := xsk.OpenRx(mode, xsk.Config{XDPConfig: x, RcvBuf: 8 << 20})
	if err != nil {
		return answer{Error: err.Error()}
	}
	s.run = receive(rx, newTally(q.SyncID, q.Messages))
	a := answer{Mode: choice.Mode.String()}
	if x, ok := rx.(*xsk.XDPRx); ok {
		a.ZeroCopy = x.Info().ZeroCopy
	}
	s.cfg.Log.Info("receiving", "mode", a.Mode)
	return a
}

func (s *session) close() {
	if s.run != nil {
		s.run.close()
		s.run = nil
	}
}

// receiving is a receiver at work.
type receiving struct {
	rx       xsk.Rx
	ended    chan struct{}
	progress chan struct{} // something has arrived

	mu    sync.Mutex
	tally *tally
}

func receive(rx xsk.Rx, t *tally) *receiving {
	r := &receiving{rx: rx, tally: t, ended: make(chan struct{}), progress: make(chan struct{}, 1)}
	go r.loop()
	return r
}

func (r *receiving) loop() {
	defer close(r.ended)
	for {
		batch, err := r.rx.Receive(-1)
		if len(batch) > 0 {
			r.mu.Lock()
			r.tally.add(batch, time.Now())
			r.mu.Unlock()
			select {
			case r.progress <- struct{}{}:
			default:
			}
		}
		r.rx.Release()
		if err != nil && !errors.Is(err, xsk.ErrLinkDown) {
			return // closed, or nothing will ever come
		}
	}
}

// wait waits until enough is there, or nothing has come for quiet.
func (r *receiving) wait(quiet time.Duration, enough func(*Count) bool) *Count {
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	for {
		r.mu.Lock()
		c := r.tally.result()
		r.mu.Unlock()
		c.Stats = r.rx.Stats()
		if enough(&c) {
			return &c
		}
		select {
		case <-r.progress:
			timer.Reset(quiet)
		case <-timer.C:
			return &c
		case <-r.ended:
			return &c
		}
	}
}

func (r *receiving) close() {
	_ = r.rx.Close() // what matters was counted
	<-r.ended
}
