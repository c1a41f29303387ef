package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/ipvsync/ipvsync"
)

// Config of a run.
type Config struct {
	Duration    time.Duration // of the traffic
	Rate        int           // updates per second, of all workers together
	Workers     int
	Connections int // of all workers together
	Out         io.Writer
	// Summary prints the counters of both sides.
	Summary func(io.Writer, *ipvsync.SenderStats, *ipvsync.ReceiverStats)
}

// ErrIncomplete says that not everything arrived.
var ErrIncomplete = errors.New("not everything arrived")

const (
	syncID        = 7
	reportEvery   = 500 * time.Millisecond
	paceEvery     = 2 * time.Millisecond
	arriveTimeout = 5 * time.Second
	sampleSize    = 5
)

// Run runs the demo until its time is over or ctx is done, prints as it goes,
// and returns ErrIncomplete if the verdict is not that everything arrived.
func Run(ctx context.Context, cfg Config) error {
	p, err := newPath()
	if err != nil {
		return err
	}
	defer p.close()
	out := cfg.Out
	fmt.Fprintf(out, "path: %s\n", p.name)
	fmt.Fprintf(out, "%d workers publish updates of %d connections, %d a second in all, for %v\n",
		cfg.Workers, cfg.Connections, cfg.Rate, cfg.Duration)

	j := newJudge()
	p.receiver.SyncID, p.receiver.SocketBuffer = syncID, 8<<20
	var receiver *ipvsync.Receiver
	err = p.inBackup(func() (err error) { receiver, err = ipvsync.NewReceiver(p.receiver, j.handle); return err })
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	ran := make(chan error, 1)
	go func() { ran <- receiver.Run(context.WithoutCancel(ctx)) }()

	p.sender.SyncID, p.sender.Shards = syncID, cfg.Workers
	var sender *ipvsync.Sender
	err = p.inMaster(func() (err error) { sender, err = ipvsync.NewSender(p.sender); return err })
	if err != nil {
		receiver.Close()
		return fmt.Errorf("master: %w", err)
	}
	fmt.Fprintf(out, "master sends by %s\nbackup receives by %s\n\n", describe(sender.Modes()[0]), describe(receiver.Mode()))
	workers := run(ctx, cfg, sender, j)
	sendErr := sender.Close()
	st := sender.Stats()
	waitFor(receiver, st.Sent)
	receiver.Close()
	if err := <-ran; err != nil && !errors.Is(err, ipvsync.ErrClosed) {
		return fmt.Errorf("backup: %w", err)
	}
	rst := receiver.Stats()
	fmt.Fprintln(out)
	cfg.Summary(out, &st, &rst)
	return judgement(out, j, workers, &st, &rst, sendErr)
}

// run makes the traffic and reports on it.
func run(ctx context.Context, cfg Config, s *ipvsync.Sender, j *judge) []*traffic {
	ctx, cancel := context.WithTimeout(ctx, cfg.Duration)
	defer cancel()
	var wg sync.WaitGroup
	var workers []*traffic
	for i := range cfg.Workers {
		t := newTraffic(i, max(cfg.Connections/cfg.Workers, 1))
		workers = append(workers, t)
		wg.Go(func() { work(ctx, t, s.Shard(i), cfg.Rate/cfg.Workers) })
	}
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	start, before := time.Now(), time.Now()
	var lastSent, lastReceived uint64
	j.takeSample(sampleSize)
	for {
		select {
		case <-ctx.Done():
			wg.Wait()
			return workers
		case <-tick.C:
		}
		now := time.Now()
		st := s.Stats()
		messages, records := j.counts()
		seconds := now.Sub(before).Seconds()
		fmt.Fprintf(cfg.Out, "%5.1f s   sent %9.0f/s   received %9.0f/s   %d messages, %d records so far, %d dropped\n",
			now.Sub(start).Seconds(), float64(st.Sent-lastSent)/seconds, float64(records-lastReceived)/seconds,
			messages, records, st.DroppedTotal())
		before, lastSent, lastReceived = now, st.Sent, records
		for _, line := range j.takeSample(0) {
			fmt.Fprintf(cfg.Out, "            %s\n", line)
		}
	}
}

// work publishes at a steady rate until ctx is done.
func work(ctx context.Context, t *traffic, shard *ipvsync.Shard, rate int) {
	tick := time.NewTicker(paceEvery)
	defer tick.Stop()
	start, published := time.Now(), 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for due := int(time.Since(start).Seconds() * float64(rate)); published < due; published++ {
			if published%1024 == 0 && ctx.Err() != nil {
				return // behind a rate that no machine keeps
			}
			_ = shard.Publish(t.next()) // what is refused is counted, and the judge misses it
		}
	}
}

// waitFor waits until everything sent has arrived, or nothing more comes.
func waitFor(r *ipvsync.Receiver, sent uint64) {
	tick := time.NewTicker(paceEvery)
	defer tick.Stop()
	last, quiet := uint64(0), time.Now()
	for range tick.C {
		n := r.Stats().Accepted
		if n != last {
			last, quiet = n, time.Now()
		}
		if n >= sent || time.Since(quiet) > arriveTimeout {
			return
		}
	}
}

func judgement(out io.Writer, j *judge, workers []*traffic, st *ipvsync.SenderStats, rst *ipvsync.ReceiverStats, sendErr error) error {
	connections, faults := j.verdict(workers)
	if n := st.DroppedTotal(); n > 0 {
		faults = append(faults, fmt.Sprintf("%d updates were dropped before they were sent", n))
	}
	if rst.Accepted < st.Sent {
		faults = append(faults, fmt.Sprintf("%d updates were lost on the way", st.Sent-rst.Accepted))
	}
	if sendErr != nil {
		faults = append(faults, sendErr.Error())
	}
	if len(faults) > 0 {
		fmt.Fprintf(out, "\nVERDICT: not everything arrived: %s\n", strings.Join(faults, "; "))
		return ErrIncomplete
	}
	fmt.Fprintf(out, "\nVERDICT: all %d updates of %d connections arrived, each connection's in order; nothing was dropped\n",
		rst.Accepted, connections)
	return nil
}
