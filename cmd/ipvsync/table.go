package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/ipvsync/ipvsync"
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
	fs.IntVar(&f.entries, "table-entries", ipvsync.DefaultTableEntries, "most connections `N` that the table holds")
	fs.StringVar(&f.snapshot, "snapshot", "", "with --table: restore the table from `FILE` at the start, and save it there at the end and every --snapshot-interval")
	fs.DurationVar(&f.interval, "snapshot-interval", 30*time.Second, "`TIME` between snapshots; 0: only at the end")
	fs.StringVar(&f.listen, "listen", "", "with --table: show the table on a unix socket at `PATH`, such as "+defaultSocket+" (ipvsync show, ipvsync resync)")
}

// check says what makes no sense; output is whether flags about printed records
// were given.
func (f *tableFlags) check(output bool) error {
	switch {
	case !f.on && (f.snapshot != "" || f.listen != ""):
		return usagef("--snapshot and --listen are for --table")
	case f.on && output:
		return usagef("--count and --format are about printed records; with --table none are: ipvsync show prints the table")
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
	server *http.Server
	end    context.CancelFunc
	work   sync.WaitGroup
}

// start makes the table and serves it.
func (f *tableFlags) start(log *slog.Logger) (k *keeper, err error) {
	table, err := ipvsync.NewTable(ipvsync.TableConfig{MaxEntries: f.entries})
	if err != nil {
		return nil, err
	}
	k = &keeper{table: table, flags: *f, log: log}
	if err := k.restore(); err != nil {
		table.Close()
		return nil, err
	}
	ctx, end := context.WithCancel(context.Background())
	k.end = end
	if f.listen != "" {
		l, err := tableserver.Listen(f.listen)
		if err != nil {
			end()
			table.Close()
			return nil, err
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
	return k, nil
}

// restore fills the table from its snapshot. One that is damaged is kept under
// another name, for whoever wants to look into it, and the table starts empty; what cannot
// be read at all ends the command, as it would be overwritten.
func (k *keeper) restore() error {
	path := k.flags.snapshot
	if path == "" {
		return nil
	}
	st, err := k.table.RestoreFile(path)
	switch {
	case err == nil:
		k.log.Info("table restored", "file", path, "entries", st.Entries, "loaded", st.Loaded, "over", st.Over, "full", st.Full,
			"refused", st.Refused+st.Kept, "away", st.Away.Round(time.Millisecond), "clock_back", st.ClockBack)
		return nil
	case errors.Is(err, fs.ErrNotExist):
		k.log.Info("no snapshot yet, the table starts empty", "file", path)
		return nil
	case !errors.Is(err, ipvsync.ErrSnapshot):
		return err
	}
	aside := fmt.Sprintf("%s.damaged-%s", path, time.Now().UTC().Format("20060102T150405.000Z"))
	if renameErr := os.Rename(path, aside); renameErr != nil {
		return errors.Join(err, renameErr)
	}
	k.log.Error("snapshot is damaged, the table starts empty", "error", err, "kept_as", aside)
	return nil
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
	return errors.Join(err, k.table.Close())
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
