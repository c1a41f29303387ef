package ipvsync

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkSnapshot writes a snapshot to a file; its opponent writes the very same
// bytes there through a bufio.Writer, an entry at a time.
func BenchmarkSnapshot(b *testing.B) {
	for _, flows := range []int{1_000_000, 10_000_000} {
		flows := benchFlows(flows)
		b.Run(name(flows), func(b *testing.B) {
			table := fill(b, flows, "table").(*Table)
			path := filepath.Join(b.TempDir(), "snapshot")
			var st SnapshotStats
			toFile := func(b *testing.B, write func(io.Writer) error) {
				for b.Loop() {
					f, err := os.Create(path)
					if err != nil {
						b.Fatal(err)
					}
					if err := write(f); err != nil {
						b.Fatal(err)
					}
					f.Close()
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(flows), "ns/entry")
			}
			b.Run("Snapshot", func(b *testing.B) {
				toFile(b, func(w io.Writer) (err error) {
					st, err = table.Snapshot(w)
					return err
				})
				if st.Entries != uint64(flows) {
					b.Fatalf("%+v, want %d entries", st, flows)
				}
			})
			b.Run("bufio", func(b *testing.B) {
				var all bytes.Buffer
				if _, err := table.Snapshot(&all); err != nil {
					b.Fatal(err)
				}
				toFile(b, func(w io.Writer) error {
					bw := bufio.NewWriterSize(w, snapBlockFill)
					for rest := all.Bytes(); len(rest) > 0; {
						n := min(snapEntry4, len(rest))
						if _, err := bw.Write(rest[:n]); err != nil {
							return err
						}
						rest = rest[n:]
					}
					return bw.Flush()
				})
			})
			b.Run("Restore", func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					other, err := NewTable(TableConfig{MaxEntries: flows + flows/8})
					if err != nil {
						b.Fatal(err)
					}
					if _, err := table.SnapshotFile(path); err != nil {
						b.Fatal(err)
					}
					f, err := os.Open(path)
					if err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
					if st, err := other.restore(f, time.Now()); err != nil {
						b.Fatal(st, err)
					}
					b.StopTimer()
					f.Close()
					other.Close()
					b.StartTimer()
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(flows), "ns/entry")
			})
		})
	}
}
