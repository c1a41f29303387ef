package prove

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/xsk"
)

// Config describes the prover.
type Config struct {
	Interface string
	Peer      netip.AddrPort // the listener
	Group     netip.Addr     // to send to; not valid: to the peer by unicast
	Messages  uint64         // in each mode, at most
	Time      time.Duration  // in each mode, at most
	Rate      uint64         // messages per second; 0: as many as go
	Log       *slog.Logger
}

const (
	pilotPatience = 10 * time.Second // for a link that a driver has set up anew
	patience      = 5 * time.Second  // for an answer while a socket is open
	openPatience  = 30 * time.Second // for the listener to open a receiver
	burst         = 64               // messages between two calls of Flush
)

// errStarved: the queue of a zero-copy sender is, with some drivers, lost for
// whatever else arrives on it.
var errStarved = errors.New("nothing was heard from the listener until the socket to send was closed: " +
	"this mode takes its queue away from other traffic; steer that to other queues (docs/operating.md)")

// prover is one end of the protocol.
type prover struct {
	cfg    Config
	lines  *lines
	result Result
	max    int // bytes of a message
	run    uint8

	starved bool // an answer came only when the socket was closed
}

// Prove tries each mode, from the best down, and returns what was found. It must
// be called on a thread that stays in the network namespace of the interface.
func Prove(ctx context.Context, cfg Config) (*Result, error) {
	here, err := hostNow(cfg.Interface, ipvsync.DefaultMaxSize(cfg.Interface, cfg.Group, []netip.AddrPort{cfg.Peer}))
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: openPatience, Control: bound(cfg.Interface)}
	c, err := d.DialContext(ctx, "tcp", cfg.Peer.String())
	if err != nil {
		return nil, fmt.Errorf("reach the listener: %w (there: ipvsync doctor --prove -i IF --listen; does a firewall let TCP and UDP port %d through?)", err, cfg.Peer.Port())
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	p := prover{cfg: cfg, lines: newLines(c), result: Result{Here: here, To: cfg.Peer.String()}}
	if cfg.Group.IsValid() {
		p.result.To += ", by group " + cfg.Group.String()
	}
	a, err := p.ask(request{Do: "hello", Version: version}, patience, nil)
	if err != nil {
		return nil, fmt.Errorf("greet the listener: %w", err)
	}
	if a.Host == nil {
		return nil, errors.New("greet the listener: it does not say who it is")
	}
	p.result.Peer = *a.Host
	p.max = min(here.MaxPayload, a.Host.MaxPayload)
	for m := xsk.ModeZeroCopy; m <= xsk.ModeUDP; m++ {
		if err := ctx.Err(); err != nil {
			return &p.result, err
		}
		run, err := p.prove(ctx, m)
		p.result.Runs = append(p.result.Runs, run)
		if err != nil {
			return &p.result, fmt.Errorf("in mode %s: %w", m, err)
		}
	}
	return &p.result, nil
}

// refused is an answer that says no.
type refused string

func (r refused) Error() string { return string(r) }

// ask asks for one thing. If the answer does not come while tx is open, tx is
// closed, since it may be what keeps the answer away.
func (p *prover) ask(q request, wait time.Duration, tx xsk.Tx) (a answer, err error) {
	if err := p.lines.write(q); err != nil {
		return a, err
	}
	if tx != nil {
		closed := make(chan struct{})
		timer := time.AfterFunc(wait, func() { tx.Close(); close(closed) })
		defer func() {
			if p.starved = !timer.Stop(); p.starved {
				<-closed
			}
		}()
		wait += openPatience
	}
	if err := p.lines.read(&a, wait); err != nil {
		return a, err
	}
	if a.Error != "" {
		return a, refused(a.Error)
	}
	return a, nil
}

// prove sends in one mode. If only one end can have it, the other takes the next
// one that it can have. The error is one of the connection: then there is no more
// to be found out.
func (p *prover) prove(ctx context.Context, mode xsk.Mode) (r Run, err error) {
	r.Mode = mode.String()
	p.run++
	p.cfg.Log.Info("proving", "mode", r.Mode)
	for m := mode; m <= xsk.ModeUDP && r.Receive.Mode == ""; m++ {
		a, err := p.ask(request{Do: "open", Mode: m.String(), SyncID: p.run, Messages: p.cfg.Messages, Group: p.cfg.Group}, openPatience, nil)
		var no refused
		switch {
		case errors.As(err, &no) && m == mode:
			r.Receive.Why = err.Error()
		case errors.As(err, &no):
		case err != nil:
			return r, err
		default:
			r.Receive.Mode, r.Receive.ZeroCopy = a.Mode, a.ZeroCopy
		}
	}
	tx, err := p.openTx(mode, &r.Send)
	if err != nil {
		r.Error = err.Error()
		return r, nil
	}
	defer tx.Close()
	switch {
	case r.Receive.Mode == "":
		r.Error = "the listener can receive in no mode"
	case r.Send.Why != "" && r.Receive.Why != "":
		r.Error = "neither end can have this mode"
		r.Send.Mode, r.Receive.Mode = "", ""
	default:
		if err := p.send(ctx, tx, &r); err != nil {
			return r, err
		}
	}
	_, err = p.ask(request{Do: "close"}, patience, nil)
	return r, err
}

// openTx opens a sender in the mode, or the next one that can be had.
func (p *prover) openTx(mode xsk.Mode, e *End) (tx xsk.Tx, err error) {
	cfg := xsk.Config{XDPConfig: xsk.XDPConfig{Interface: p.cfg.Interface, Port: int(p.cfg.Peer.Port()), MaxPayload: p.max}}
	if cfg.Group = p.cfg.Group; !cfg.Group.IsValid() {
		cfg.Peers = []netip.AddrPort{p.cfg.Peer}
	}
	for m := mode; m <= xsk.ModeUDP; m++ {
		tx, choice, err := xsk.OpenTx(m, cfg)
		if err == nil {
			e.Mode = choice.Mode.String()
			if x, ok := tx.(*xsk.XDPTx); ok {
				e.ZeroCopy = x.Info().ZeroCopy
			}
			return tx, nil
		}
		if m == mode {
			e.Why = err.Error()
		}
	}
	return nil, errors.New("this end can send in no mode")
}

// send sends pilots until one arrives, then the messages, and has them counted.
func (p *prover) send(ctx context.Context, tx xsk.Tx, r *Run) error {
	m := newMaker(p.run)
	pilots := uint64(0)
	for end := time.Now().Add(pilotPatience); ; {
		n, _, err := p.burst(tx, m, 0, 1)
		if err != nil {
			r.Error = err.Error()
			return nil
		}
		pilots += n
		a, err := p.ask(request{Do: "pilot"}, patience, tx)
		if err != nil {
			return err
		}
		if p.starved {
			r.Error = errStarved.Error()
			return nil
		}
		if a.Count != nil && a.Count.Pilots > 0 {
			break
		}
		if time.Now().After(end) || ctx.Err() != nil {
			tx.Close()
			r.Stats = tx.Stats()
			r.Error = fmt.Sprintf("none of %d messages arrived in %v: does a firewall let UDP port %d through?", pilots, pilotPatience, p.cfg.Peer.Port())
			return nil
		}
	}
	before := tx.Stats().Packets
	start := time.Now()
	end := start.Add(p.cfg.Time)
	records := uint64(0)
	for n := uint64(0); n < p.cfg.Messages && ctx.Err() == nil; {
		now := time.Now()
		if now.After(end) {
			break
		}
		if p.cfg.Rate > 0 {
			due := start.Add(time.Duration(float64(n) / float64(p.cfg.Rate) * float64(time.Second)))
			if d := due.Sub(now); d > 0 {
				time.Sleep(d)
			}
		}
		done, recs, err := p.burst(tx, m, uint32(n+1), min(burst, p.cfg.Messages-n))
		if err != nil {
			r.Error = err.Error()
			break
		}
		n, records = n+done, records+recs
	}
	p.drain(tx)
	r.Seconds = time.Since(start).Seconds()
	r.Sent, r.Records = tx.Stats().Packets-before, records
	a, err := p.ask(request{Do: "count", Sent: r.Sent}, p.countPatience(), tx)
	tx.Close()
	r.Stats = tx.Stats()
	if err != nil {
		return err
	}
	if a.Count == nil {
		return errors.New("the listener's answer has no count")
	}
	r.Count = *a.Count
	if p.starved {
		r.Error = errStarved.Error()
	}
	r.Lost = r.Sent - min(r.Sent, r.Count.Arrived)
	if r.Seconds > 0 {
		r.SendRate = float64(records) / r.Seconds
	}
	if r.Count.Seconds > 0 {
		r.ArriveRate = float64(r.Count.Records) / r.Count.Seconds
	}
	return nil
}

// countPatience is how long the listener may take to count: what it has in its
// buffers comes first.
func (p *prover) countPatience() time.Duration { return patience + p.cfg.Time }

// burst commits up to most messages, numbered from first on, or all with the
// number 0, and hands them over. It returns how many, and their records.
func (p *prover) burst(tx xsk.Tx, m *maker, first uint32, most uint64) (n, records uint64, err error) {
	for n < most {
		buf, err := tx.Next()
		if errors.Is(err, xsk.ErrNoFrame) {
			break
		}
		if err != nil {
			return n, records, err
		}
		number := first
		if first > 0 {
			number += uint32(n)
		}
		size, recs, err := m.fill(buf, number)
		if err != nil {
			return n, records, err
		}
		tx.Commit(size)
		n, records = n+1, records+uint64(recs)
	}
	if err := tx.Flush(); err != nil && stops(err) {
		return n, records, err
	}
	if tx.Pending() > 0 || n == 0 {
		err = tx.Wait(time.Millisecond)
	}
	return n, records, err
}

// stops says whether an error of Flush is the end of it; others are counted.
func stops(err error) bool {
	return errors.Is(err, xsk.ErrDeviceGone) || errors.Is(err, xsk.ErrBroken) || errors.Is(err, xsk.ErrClosed)
}

// drain hands over what is left.
func (p *prover) drain(tx xsk.Tx) {
	for end := time.Now().Add(patience); tx.Pending() > 0 && time.Now().Before(end); {
		if err := tx.Flush(); err != nil && stops(err) {
			return
		}
		if tx.Wait(time.Millisecond) != nil {
			return
		}
	}
}
