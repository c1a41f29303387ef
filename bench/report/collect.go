package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// A suite is one run of go test.
type suite struct {
	name string
	pkg  string
	env  string
	args func(c *collector) []string
}

var suites = []suite{
	{"bench", "./bench", "", func(c *collector) []string {
		return []string{"-short", "-bench", ".", "-benchtime", c.benchtime, "-count", fmt.Sprint(c.count), "-timeout", "60m"}
	}},
	{"engine", ".", "", func(c *collector) []string {
		return []string{"-short", "-bench", "^Benchmark(Publish|PublishFromTwo|PublishTail|Loop|LoopTransports|Engine|Age|Idle)$",
			"-benchtime", c.benchtime, "-count", fmt.Sprint(c.count)}
	}},
	{"ring", "./ring", "", func(c *collector) []string {
		return []string{"-bench", "^BenchmarkRings$", "-benchtime", c.benchtime, "-count", fmt.Sprint(c.count)}
	}},
	{"encoder", "./encoder", "", func(c *collector) []string {
		return []string{"-bench", "^Benchmark(HotPaths|Kernels)$", "-benchtime", c.benchtime, "-count", fmt.Sprint(c.count)}
	}},
	// Ten million flows take long to fill in.
	{"table", ".", "", func(c *collector) []string {
		return []string{"-bench", "^BenchmarkTable(Apply|Lookup|Add|GC)$", "-benchtime", c.benchtime, "-count", c.slow(), "-timeout", "60m"}
	}},
	// Each repetition boots a machine of its own; a step of the rate is an operation.
	{"kernel", "./bench", "", func(c *collector) []string {
		return []string{"-bench", "^BenchmarkKernel", "-benchtime", "1x", "-count", c.slow(), "-timeout", "60m"}
	}},
}

// collector runs suites and keeps what they print.
type collector struct {
	root, data string
	count      int
	benchtime  string
	progress   io.Writer
}

// slow is the count of suites of which one repetition takes minutes.
func (c *collector) slow() string { return fmt.Sprint(max(1, c.count/2)) }

// collect runs the suites and profiles that only names, or all.
func (c *collector) collect(ctx context.Context, only string) error {
	if err := os.MkdirAll(c.data, 0o755); err != nil {
		return err
	}
	wanted := func(name string) bool { return only == "" || slices.Contains(strings.Split(only, ","), name) }
	for _, s := range suites {
		if wanted(s.name) {
			if err := c.runSuite(ctx, s); err != nil {
				return err
			}
		}
	}
	if wanted("profiles") {
		for _, p := range paths {
			if err := c.runProfile(ctx, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// runSuite leaves data/name.txt: what go test printed, behind lines that say
// where it ran.
func (c *collector) runSuite(ctx context.Context, s suite) error {
	args := append([]string{"test", "-run", "^$"}, append(s.args(c), s.pkg)...)
	out, err := c.goTest(ctx, args, s.env)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "command: %s\n", strings.TrimSpace(s.env+" go "+quoted(args)))
	for _, fact := range machine(ctx, c.root) {
		fmt.Fprintf(&b, "%s: %s\n", fact.key, fact.value)
	}
	b.Write(out)
	return os.WriteFile(filepath.Join(c.data, s.name+".txt"), b.Bytes(), 0o644)
}

// goTest runs go test in the project, shows what it prints, and returns it.
func (c *collector) goTest(ctx context.Context, args []string, env string) ([]byte, error) {
	fmt.Fprintln(c.progress, "go", quoted(args))
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = c.root
	cmd.Env = append(os.Environ(), strings.Fields(env)...)
	var out, errs bytes.Buffer
	cmd.Stdout = io.MultiWriter(&out, c.progress)
	cmd.Stderr = &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", quoted(args), err, errs.Bytes())
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
	return []fact{
		{"kernel", ask("uname", "-r")},
		{"processors", ask("nproc")},
		{"go", ask("go", "env", "GOVERSION")},
		{"revision", ask("git", "describe", "--always", "--dirty", "--exclude", "*")},
		{"date", ask("date", "-u", "+%Y-%m-%d")},
	}
}
