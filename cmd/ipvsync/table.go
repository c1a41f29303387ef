package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/filelock"
	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/tableserver"
)

// tableFlags make backup keep a table.
type tableFlags struct {
	on       bool
	entries  int
	snapshot string
	interval time.Duration
	listen   string
}

const defaultSocket = "/run/ipvsync.sock"

func (f *tableFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.BoolVar(&f.on, "table", false, "keep the connections in a table, as a kernel backup does, instead of printing them")
	fs.IntVar(&f.entries, "table-entries", ipvsync.DefaultTableEntries, "with --table: most connections `N` that the table holds")
	fs.StringVar(&f.snapshot, "snapshot", "", "with --table: restore the table from `FILE` at the start, and save it there at the end and every --snapshot-interval")
	fs.DurationVar(&f.interval, "snapshot-interval", 30*time.Second, "with --snapshot: `TIME` between snapshots; 0: only at the end")
	fs.StringVar(&f.listen, "listen", "", "with --table: show the table on a unix socket at `PATH`, such as "+defaultSocket+" (ipvsync show, ipvsync resync)")
}

// check says what makes no sense; given says whether a flag was given.
func (f *tableFlags) check(given func(name string) bool) error {
	if !f.on {
		for _, name := range []string{"table-entries", "snapshot", "snapshot-interval", "listen"} {
			if given(name) {
				return usagef("--%s belongs to --table", name)
			}
		}
		return nil
	}
	switch {
	case given("count") || given("format"):
		return usagef("--count and --format are about printed records; with --table none are: ipvsync show prints the table")
	case f.snapshot == "" && given("snapshot-interval"):
		return usagef("--snapshot-interval belongs to --snapshot FILE")
	case f.interval < 0:
		return usagef("--snapshot-interval %v: want 0 or more", f.interval)
	case f.entries < 1 || f.entries > ipvsync.MaxTableEntries:
		return usagef("--table-entries %d: want 1 to %d", f.entries, ipvsync.MaxTableEntries)
	}
	return nil
}

// keeper keeps a table: restored, served, saved.
type keeper struct {
	table  *ipvsync.Table
	flags  tableFlags
	log    *slog.Logger
	lock   *filelock.Lock // of the snapshot, if there is one
	server *http.Server
	end    context.CancelFunc
	work   sync.WaitGroup
}

// start makes the table and serves it.
func (f *tableFlags) start(log *slog.Logger) (*keeper, error) {
	k := &keeper{flags: *f, log: log}
	ctx, end := context.WithCancel(context.Background())
	k.end = end
	if err := k.open(ctx); err != nil {
		end()
		return nil, errors.Join(err, k.close())
	}
	return k, nil
}

// open opens everything; what is open when it fails is for close.
func (k *keeper) open(ctx context.Context) (err error) {
	f, log := &k.flags, k.log
	if f.snapshot != "" {
		if k.lock, err = openSnapshot(&f.snapshot); err != nil {
			return err
		}
	}
	table, err := ipvsync.NewTable(ipvsync.TableConfig{MaxEntries: f.entries})
	if err != nil {
		return err
	}
	k.table = table
	if err := k.restore(); err != nil {
		return err
	}
	if f.listen != "" {
		l, err := tableserver.Listen(f.listen)
		if err != nil {
			return err
		}
		k.server = &http.Server{Handler: tableserver.Handler(table), ReadHeaderTimeout: 10 * time.Second,
			ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
		k.work.Go(func() {
			if err := k.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				log.Error("the table is no longer shown", "error", err)
			}
		})
	}
	k.work.Go(func() { _ = table.Run(ctx) })
	if f.snapshot != "" && f.interval > 0 {
		k.work.Go(func() { k.saveRegularly(ctx) })
	}
	return nil
}

// close closes what open has opened.
func (k *keeper) close() (err error) {
	if k.table != nil {
		err = k.table.Close()
	}
	if k.lock != nil {
		err = errors.Join(err, k.lock.Close())
	}
	return err
}

// handle is the handler of the receiver.
func (k *keeper) handle(m *ipvsync.Message) { k.table.Apply(m.Conns) }

func (k *keeper) saveRegularly(ctx context.Context) {
	tick := time.NewTicker(k.flags.interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if _, err := k.table.SnapshotFile(k.flags.snapshot); err != nil {
				k.log.Error("the table was not saved", "error", err)
			}
		}
	}
}

// stop ends the serving, saves the table and reports. The receiver has ended.
func (k *keeper) stop(stderr io.Writer) error {
	k.end()
	if k.server != nil {
		k.server.Close()
	}
	k.work.Wait()
	var err error
	n := k.table.Len()
	if k.flags.snapshot != "" {
		var st ipvsync.SnapshotStats
		if st, err = k.table.SnapshotFile(k.flags.snapshot); err == nil {
			fmt.Fprintf(stderr, "table: %d entries saved in %s, %d bytes\n", st.Entries, k.flags.snapshot, st.Bytes)
		}
	}
	st := k.table.Stats()
	fmt.Fprint(stderr, tableSummary(&st, n))
	return errors.Join(err, k.close())
}

func tableSummary(st *ipvsync.TableStats, entries int) string {
	var t, ignored tally
	t.add(st.Added, "added")
	t.add(st.Updated, "updated")
	t.add(st.Replaced, "replaced")
	t.add(st.Expired, "expired")
	t.add(st.Loaded, "restored")
	t.add(st.Refused, "refused because the table is full (--table-entries)")
	for r := range ipvsync.IgnoreReason(ipvsync.NumIgnoreReasons) {
		ignored.add(st.Ignored[r], r.String())
	}
	return fmt.Sprintf("table: %d entries; %d records applied\n", entries, st.Applied) +
		t.string("table: ") + ignored.string("table, records ignored: ")
}
