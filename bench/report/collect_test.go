package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/pprof/profile"
)

// A toy is a project with two suites that take no time.
type toy struct {
	*testing.T
	root string
}

const toyPage = "by hand\n" + beginMark + "\nof an earlier run\n" + endMark + "\n"

func newToy(t *testing.T) toy {
	p := toy{t, t.TempDir()}
	p.write("go.mod", "module toy\n\ngo 1.24\n")
	p.write("docs/benchmarks.md", toyPage)
	p.benchmarks("toy_test.go", "package toy", `func BenchmarkPublish(b *testing.B) { b.Run("Shard.Publish", spin); b.Run("other", spin) }`)
	p.benchmarks("encoder/toy_test.go", "package encoder", `func BenchmarkHotPaths(b *testing.B) { b.Run("Writer", spin) }`)
	return p
}

func (p toy) benchmarks(name, pkg, code string) {
	p.Helper()
	p.write(name, pkg+"\nimport \"testing\"\nfunc spin(b *testing.B) { for range b.N {} }\n"+code+"\n")
}

func (p toy) write(name, text string) {
	p.Helper()
	path := filepath.Join(p.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		p.Fatal(err)
	}
}

// read is a file, or nothing.
func (p toy) read(name string) string {
	p.Helper()
	b, err := os.ReadFile(filepath.Join(p.root, name))
	if err != nil && !os.IsNotExist(err) {
		p.Fatal(err)
	}
	return string(b)
}

// report runs the command and returns what it says.
func (p toy) report(args ...string) (string, error) {
	var out bytes.Buffer
	err := run(p.Context(), append([]string{"-root", p.root, "-count", "2", "-benchtime", "1x"}, args...), &out, &out)
	return out.String(), err
}

// others puts results of all that a toy does not have in place, with a row for
// every section but those of one benchmark.
func (p toy) others(but string) {
	p.Helper()
	var b strings.Builder
	for _, s := range sections {
		if s.bench != but && s.bench != "Publish" && s.bench != "HotPaths" {
			for _, n := range []int{1, 10} {
				fmt.Fprintf(&b, "Benchmark%s/%s=%d 1 5 ns/op 5 ns/rec\n", s.bench, strings.ToLower(strings.TrimPrefix(s.bench, "Scale")), n)
			}
		}
	}
	for _, s := range suites {
		if s.name != "engine" && s.name != "encoder" {
			p.write("bin/bench/"+s.name+".txt", b.String()+"BenchmarkOf/"+s.name+" 1 5 ns/op\n")
		}
	}
	empty := profile.Profile{SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}}}
	for _, path := range paths {
		var b bytes.Buffer
		if err := empty.Write(&b); err != nil {
			p.Fatal(err)
		}
		p.write("bin/bench/"+path.file(), b.String())
	}
}

func wantWords(t *testing.T, what, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%s: no %q in\n%s", what, w, text)
		}
	}
}

// A part of the results never replaces a page of all; the last part completes it.
func TestParts(t *testing.T) {
	p := newToy(t)
	said, err := p.report("-only", "engine")
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	untouched := func() {
		t.Helper()
		if got := p.read("docs/benchmarks.md"); got != toyPage {
			t.Fatalf("the page is now\n%s", got)
		}
		if exists(filepath.Join(p.root, "docs", "plots")) {
			t.Fatal("there are new plots")
		}
	}
	untouched()
	wantWords(t, "said", said, "bin/bench/page.md", "as it was", "REPORT='-only bench,ring,encoder,table,kernel,profiles'")
	wantWords(t, "page of the part", p.read("bin/bench/page.md"), "### Publishing", "| Shard.Publish |")

	// The others come from other runs, but for one benchmark, which was skipped.
	p.others("XDPTx")
	if said, err = p.report("-only", "encoder"); err != nil {
		t.Fatal(err)
	}
	untouched()
	wantWords(t, "said", said, "without BenchmarkXDPTx,", "as root")

	p.others("")
	if err := os.Remove(filepath.Join(p.root, "bin", "bench", "encoder.txt")); err != nil {
		t.Fatal(err)
	}
	if said, err = p.report("-render"); err != nil {
		t.Fatal(err)
	}
	untouched()
	wantWords(t, "said", said, "REPORT='-only encoder'")
	if said, err = p.report("-only", "encoder"); err != nil || strings.Contains(said, "as it was") {
		t.Fatalf("%v\n%s", err, said)
	}
	wantWords(t, "whole page", p.read("docs/benchmarks.md"), "by hand\n", "### Publishing", "### Records of every kind", "| Writer |")
	if !exists(filepath.Join(p.root, "docs", "plots", "flows.svg")) {
		t.Error("no plots beside the whole page")
	}
}

// A name that is none stops everything before anything runs.
func TestOnlyUnknown(t *testing.T) {
	p := newToy(t)
	_, err := p.report("-only", "engine,nosuch")
	if err == nil {
		t.Fatal("no error")
	}
	wantWords(t, "error", err.Error(), `"nosuch"`, "bench, engine, ring, encoder, table, kernel, profiles")
	if exists(filepath.Join(p.root, "bin")) {
		t.Error("something was run")
	}
	if only, err := parseOnly("engine, table"); err != nil || strings.Join(only, ",") != "engine,table" {
		t.Errorf("%q, %v", only, err)
	}
}

// One benchmark that fails costs its row: what its suite printed is kept, the
// other suites run, and the page waits for a run that succeeds.
func TestFailedSuite(t *testing.T) {
	p := newToy(t)
	if said, err := p.report("-only", "engine,encoder"); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	earlier := p.read("bin/bench/engine.txt")
	if err := os.Remove(filepath.Join(p.root, "bin", "bench", "encoder.txt")); err != nil {
		t.Fatal(err)
	}
	p.others("")
	p.benchmarks("toy_test.go", "package toy", `func BenchmarkPublish(b *testing.B) {
		b.Run("Shard.Publish", spin)
		b.Run("from two", func(b *testing.B) { b.Fatal("it did not work") })
		b.Run("other", spin)
	}`)
	_, err := p.report("-only", "engine,encoder")
	if err == nil {
		t.Fatal("no error")
	}
	const failed = "bin/bench/engine.failed.txt"
	wantWords(t, "error", err.Error(), "engine: go test", "BenchmarkPublish/from_two\n", failed, "REPORT='-only engine'")
	wantWords(t, "what was printed", p.read(failed), "command: go test", "it did not work", "BenchmarkPublish/Shard.Publish", "BenchmarkPublish/other")
	if got := p.read("bin/bench/engine.txt"); got != earlier {
		t.Errorf("the earlier results are now\n%s", got)
	}
	if p.read("bin/bench/encoder.txt") == "" {
		t.Error("the next suite did not run")
	}

	said, err := p.report("-render")
	if err != nil || p.read("docs/benchmarks.md") != toyPage {
		t.Errorf("rendered without the failed suite: %v\n%s", err, said)
	}
	p.benchmarks("toy_test.go", "package toy", `func BenchmarkPublish(b *testing.B) { b.Run("now", spin) }`)
	if said, err = p.report("-only", "engine"); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	if p.read(failed) != "" {
		t.Error("the failed run is still there")
	}
	wantWords(t, "whole page", p.read("docs/benchmarks.md"), "| now |")
}

// A profile of a run that failed is none.
func TestFailedProfile(t *testing.T) {
	p := newToy(t)
	p.benchmarks("toy_test.go", "package toy", `func BenchmarkBad(b *testing.B) { b.Fatal("it did not work") }`)
	c := collector{root: p.root, data: p.TempDir(), progress: &bytes.Buffer{}}
	bad := path{name: "toy", pkg: ".", bench: "^BenchmarkBad$"}
	err := c.runProfile(p.Context(), bad)
	if err == nil {
		t.Fatal("no error")
	}
	wantWords(t, "error", err.Error(), "BenchmarkBad\n", "toy.failed.txt")
	if exists(c.path(bad.file())) || !exists(c.path("toy.failed.txt")) {
		t.Error("the failed run left a profile, or not what it printed")
	}
	if err := c.runProfile(p.Context(), path{name: "toy", pkg: ".", bench: "^None$"}); err != nil {
		t.Fatal(err)
	}
	if !exists(c.path(bad.file())) || exists(c.path("toy.failed.txt")) {
		t.Error("the run that succeeded left no profile, or what the failed one printed")
	}
}

// Whoever interrupts a run is told how to go on.
func TestInterrupted(t *testing.T) {
	p := newToy(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := collector{root: p.root, data: p.TempDir(), progress: &bytes.Buffer{}}
	err := c.collect(ctx, names())
	if err == nil {
		t.Fatal("no error")
	}
	wantWords(t, "error", err.Error(), context.Canceled.Error(), "REPORT='-only bench,engine,ring,encoder,table,kernel,profiles'")
}

func TestCulprits(t *testing.T) {
	const printed = "BenchmarkA/good-2 1 5 ns/op\n--- FAIL: BenchmarkA/bad\n    x_test.go:3: no\n--- FAIL: BenchmarkA/bad\n--- FAIL: BenchmarkA\n" +
		"panic: y\n\ngoroutine 7 [running]:\n"
	if got := strings.Join(culprits([]byte(printed)), ", "); got != "BenchmarkA/bad, panic: y" {
		t.Error(got)
	}
	if got := strings.Join(culprits([]byte("FAIL\ttoy [build failed]\n")), ", "); !strings.Contains(got, "no benchmark by name") {
		t.Error(got)
	}
}

// Each section has a benchmark that some suite runs: a section without one would
// keep the page from ever being whole.
func TestSectionsAreRun(t *testing.T) {
	c := collector{count: 2, benchtime: "1x"}
	run := map[string]bool{}
	for _, s := range suites {
		args := s.args(&c)
		var wanted *regexp.Regexp
		for i := range args {
			if args[i] == "-bench" {
				wanted = regexp.MustCompile(args[i+1])
			}
		}
		files, err := filepath.Glob(filepath.Join("../..", s.pkg, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`(?m)^func (Benchmark\w+)\(`).FindAllSubmatch(text, -1) {
				if wanted.Match(m[1]) {
					run[string(m[1])] = true
				}
			}
		}
	}
	for _, s := range sections {
		if !run["Benchmark"+s.bench] {
			t.Errorf("no suite runs Benchmark%s", s.bench)
		}
	}
}
