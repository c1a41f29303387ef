package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// A suite is one run of go test.
type suite struct {
	name string
	pkg  string
	env  string
	slow bool // a repetition takes minutes
	args func(c *collector) []string
}

var suites = []suite{
	{"bench", "./bench", "", false, func(c *collector) []string {
		return []string{"-short", "-bench", ".", "-benchtime", c.benchtime, "-timeout", "60m"}
	}},
	{"engine", ".", "", false, func(c *collector) []string {
		return []string{"-short", "-bench", "^Benchmark(Publish|PublishFromTwo|PublishTail|Loop|LoopTransports|Engine|Age|Idle)$",
			"-benchtime", c.benchtime}
	}},
	{"ring", "./ring", "", false, func(c *collector) []string {
		return []string{"-bench", "^BenchmarkRings$", "-benchtime", c.benchtime}
	}},
	{"encoder", "./encoder", "", false, func(c *collector) []string {
		return []string{"-bench", "^Benchmark(HotPaths|Kernels)$", "-benchtime", c.benchtime}
	}},
	// Ten million flows take long to fill in.
	{"table", ".", "", true, func(c *collector) []string {
		return []string{"-bench", "^BenchmarkTable(Apply|Lookup|Add|GC)$", "-benchtime", c.benchtime, "-timeout", "60m"}
	}},
	// Each repetition boots a machine of its own; a step of the rate is an operation.
	{"kernel", "./bench", "", true, func(c *collector) []string {
		return []string{"-bench", "^BenchmarkKernel", "-benchtime", "1x", "-timeout", "60m"}
	}},
}

// collector runs suites and keeps what they print.
type collector struct {
	root, data string
	count      int
	benchtime  string
	progress   io.Writer
}

// repetitions of a suite: fewer where one takes minutes.
func (c *collector) repetitions(s suite) int {
	if s.slow {
		return max(1, c.count/2)
	}
	return c.count
}

// names are the parts of a whole run: the suites, and all profiles together.
func names() (all []string) {
	for _, s := range suites {
		all = append(all, s.name)
	}
	return append(all, profilesName)
}

const profilesName = "profiles"

// parseOnly reads the list of -only; an empty one is all.
func parseOnly(list string) ([]string, error) {
	if list == "" {
		return names(), nil
	}
	var only []string
	for _, name := range strings.Split(list, ",") {
		name = strings.TrimSpace(name)
		if !slices.Contains(names(), name) {
			return nil, fmt.Errorf("-only: no suite %q; there are %s", name, strings.Join(names(), ", "))
		}
		only = append(only, name)
	}
	return only, nil
}

// collect runs the suites, and the profiles, that only names. One that fails does
// not keep the others from being run.
func (c *collector) collect(ctx context.Context, only []string) error {
	if err := os.MkdirAll(c.data, 0o755); err != nil {
		return err
	}
	var errs []error
	var again []string // failed, or not begun
	try := func(name string, run func() error) {
		if !slices.Contains(only, name) {
			return
		}
		err := ctx.Err()
		if err == nil {
			if err = run(); err == nil {
				return
			}
			err = fmt.Errorf("%s: %w", name, err)
			fmt.Fprintln(c.progress, err)
			errs = append(errs, err)
		}
		if !slices.Contains(again, name) {
			again = append(again, name)
		}
	}
	for _, s := range suites {
		try(s.name, func() error { return c.runSuite(ctx, s) })
	}
	for _, p := range paths {
		try(profilesName, func() error { return c.runProfile(ctx, p) })
	}
	if again == nil {
		return nil
	}
	return fmt.Errorf("%w\nwhat else ran is kept; to go on: %s", errors.Join(append(errs, ctx.Err())...), command(again))
}

// command is how to run these parts.
func command(parts []string) string {
	return fmt.Sprintf("make bench-report REPORT='-only %s'", strings.Join(parts, ","))
}

// runSuite leaves data/name.txt: what go test printed, behind lines that say
// where it ran. Each repetition is a process of its own: where memory and threads
// come to lie is part of the spread, and within one process they stay there.
func (c *collector) runSuite(ctx context.Context, s suite) error {
	args := append([]string{"test", "-run", "^$"}, append(s.args(c), s.pkg)...)
	var b bytes.Buffer
	n := c.repetitions(s)
	fmt.Fprintf(&b, "command: %s # %d times\n", strings.TrimSpace(s.env+" go "+quoted(args)), n)
	for _, fact := range machine(ctx, c.root) {
		fmt.Fprintf(&b, "%s: %s\n", fact.key, fact.value)
	}
	for range n {
		out, err := c.goTest(ctx, args, s.env)
		b.Write(out)
		if err != nil {
			return c.keepFailed(s.name, b.Bytes(), err)
		}
	}
	if err := os.WriteFile(c.path(s.name+resultEnd), b.Bytes(), 0o644); err != nil {
		return err
	}
	return c.forgetFailed(s.name)
}

// goTest runs go test in the project, shows what it prints, and returns it; if it
// fails, with what the compiler said behind.
func (c *collector) goTest(ctx context.Context, args []string, env string) ([]byte, error) {
	fmt.Fprintln(c.progress, "go", quoted(args))
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = c.root
	cmd.Env = append(os.Environ(), strings.Fields(env)...)
	var out, errs bytes.Buffer
	cmd.Stdout = io.MultiWriter(&out, c.progress)
	cmd.Stderr = &errs
	if err := cmd.Run(); err != nil {
		return append(out.Bytes(), errs.Bytes()...), fmt.Errorf("go %s: %w\n%s", quoted(args), err, errs.Bytes())
	}
	return out.Bytes(), nil
}

func quoted(args []string) string {
	words := slices.Clone(args)
	for i, w := range words {
		if strings.ContainsAny(w, "^$|*() ") || w == "" {
			words[i] = "'" + w + "'"
		}
	}
	return strings.Join(words, " ")
}

type fact struct{ key, value string }

// machine says where benchmarks ran, as far as go test does not say itself.
func machine(ctx context.Context, dir string) []fact {
	ask := func(name string, args ...string) string {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			return "unknown"
		}
		return strings.TrimSpace(string(out))
	}
	revision := ask("git", "rev-parse", "--short", "HEAD")
	if ask("git", "status", "--porcelain", "-uno", "--", ".", ":!docs") != "" { // the report itself writes to docs
		revision += "-dirty"
	}
	return []fact{
		{"kernel", ask("uname", "-r")},
		{"processors", ask("nproc")},
		{"go", ask("go", "env", "GOVERSION")},
		{"revision", revision},
		{"date", ask("date", "-u", "+%Y-%m-%d")},
	}
}
