// Command report runs the benchmarks of this project, and makes tables, plots and
// the generated part of docs/benchmarks.md of what they print:
//
//	cd bench/report && go run . -root ../..                  # run everything
//	cd bench/report && go run . -root ../.. -only engine     # a part
//	cd bench/report && go run . -root ../.. -render          # tables and plots of the last run again
//
// Parts may be run one after the other: the last one completes the page. Until
// then, their tables are in bin/bench/page.md, and docs stays as it is.
//
// What the benchmarks print stays in bin/bench, in the format of go test, for
// benchstat and for people. Nothing on the page comes from anywhere else.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("report", flag.ContinueOnError)
	flags.SetOutput(stderr)
	root := flags.String("root", "../..", "`directory` of the project")
	render := flags.Bool("render", false, "run nothing: use what the last run left in bin/bench")
	count := flags.Int("count", 5, "repetitions of each benchmark")
	benchtime := flags.String("benchtime", "300ms", "time of each repetition")
	only := flags.String("only", "", "run these suites only, of what the `list` names, with commas: "+strings.Join(names(), ", "))
	if err := flags.Parse(args); err != nil {
		return err
	}
	parts, err := parseOnly(*only)
	if err != nil {
		return err
	}
	data, err := filepath.Abs(filepath.Join(*root, "bin", "bench")) // go test runs elsewhere
	if err != nil {
		return err
	}
	if !*render {
		c := collector{root: *root, data: data, count: *count, benchtime: *benchtime, progress: stdout}
		if err := c.collect(ctx, parts); err != nil {
			return err
		}
	}
	return publish(filepath.Join(*root, "docs"), data, stdout)
}
