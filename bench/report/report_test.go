package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/pprof/profile"
)

var update = flag.Bool("update", false, "write testdata/page.md anew")

func recorded(t *testing.T) *results {
	t.Helper()
	res, err := readResults("testdata")
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// What was printed once becomes the same page for ever.
func TestPage(t *testing.T) {
	got := page(recorded(t), "plots")
	golden := filepath.Join("testdata", "page.md")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the page differs from %s; if it should, run: go test -run TestPage -update .\n%s", golden, got)
	}
}

// The values of repetitions are put together by name, and nothing is lost.
func TestResults(t *testing.T) {
	res := recorded(t)
	r := res.find("XDPTx", "engine against bare loop")
	if r == nil {
		t.Fatal("no row of the engine against the bare loop")
	}
	s, ok := r.spread("x")
	if !ok || s.n != 3 || s.least > s.median || s.median > s.most {
		t.Errorf("spread %+v, %v", s, ok)
	}
	for _, unit := range []string{"Mrec/s", "opponent-Mrec/s", "lost-%", "cpu-ns/rec"} {
		if len(r.values[unit]) != 3 {
			t.Errorf("%s: %v", unit, r.values[unit])
		}
	}
	text, err := os.ReadFile("testdata/bench.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines, values := strings.Count("\n"+string(text), "\nBenchmark"), 0
	for _, row := range res.rows {
		if !strings.HasPrefix(row.bench, "Kernel") {
			values += len(row.values["lost-%"])
		}
	}
	if values != lines {
		t.Errorf("%d lines, %d values of lost-%%", lines, values)
	}
	if res.facts["go"] == "" || res.facts["cpu"] == "" || len(res.commands) != 2 {
		t.Errorf("facts %v, commands %q", res.facts, res.commands)
	}
}

func TestSpread(t *testing.T) {
	for _, tc := range []struct {
		values              []float64
		median, least, most float64
	}{
		{[]float64{3}, 3, 3, 3},
		{[]float64{5, 1, 3}, 3, 1, 5},
		{[]float64{4, 1, 3, 2}, 2.5, 1, 4},
	} {
		r := newRow("a", "b")
		r.values["u"] = tc.values
		if s, ok := r.spread("u"); !ok || s.median != tc.median || s.least != tc.least || s.most != tc.most {
			t.Errorf("%v: %+v", tc.values, s)
		}
	}
	if _, ok := newRow("a", "b").spread("u"); ok {
		t.Error("a spread of nothing")
	}
}

func TestNumber(t *testing.T) {
	for want, x := range map[string]float64{"0": 0, "123000": 123456, "123": 123.4, "12.3": 12.34, "1.23": 1.234, "0.123": 0.1234, "0.0001": 0.0001234, "100": 99.96, "-2.50": -2.5} {
		if got := number(x); got != want {
			t.Errorf("%v: %s, want %s", x, got, want)
		}
	}
}

// Every link of the page to a plot finds one, and each plot is linked to.
func TestPlots(t *testing.T) {
	res, dir := recorded(t), t.TempDir()
	if err := drawPlots(res, dir); err != nil {
		t.Fatal(err)
	}
	text := page(res, "plots")
	linked := map[string]bool{}
	for _, part := range strings.Split(text, "](plots/")[1:] {
		name, _, _ := strings.Cut(part, ")")
		linked[name] = true
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		} else if !strings.Contains(string(b), "</svg>") {
			t.Errorf("%s is no whole SVG", name)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 8 {
		t.Errorf("%d plots", len(files))
	}
	for _, f := range files {
		if !linked[f.Name()] {
			t.Errorf("%s is not on the page", f.Name())
		}
	}
}

// What people wrote around the generated part stays; a page without marks is
// left alone.
func TestUpdatePage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read := func() string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	write("above\n" + beginMark + "\nold\n" + endMark + "\nbelow\n")
	for _, text := range []string{"new", "newer"} {
		if err := updatePage(path, text); err != nil {
			t.Fatal(err)
		}
		if got, want := read(), "above\n"+beginMark+"\n\n"+text+"\n\n"+endMark+"\nbelow\n"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for _, bad := range []string{"nothing", beginMark, endMark + beginMark} {
		write(bad)
		if err := updatePage(path, "new"); err == nil || read() != bad {
			t.Errorf("%q: %v, now %q", bad, err, read())
		}
	}
}

// A sample belongs to its innermost function of a known kind, within the path.
func TestProfile(t *testing.T) {
	const module = "github.com/ipvsync/ipvsync"
	var prof profile.Profile
	functions := map[string]*profile.Location{}
	sample := func(n int64, stack ...string) {
		s := &profile.Sample{Value: []int64{n}}
		for _, name := range stack {
			l := functions[name]
			if l == nil {
				id := uint64(len(functions) + 1)
				l = &profile.Location{ID: id, Line: []profile.Line{{Function: &profile.Function{ID: id, Name: name}}}}
				functions[name] = l
			}
			s.Location = append(s.Location, l)
		}
		prof.Sample = append(prof.Sample, s)
	}
	loop := module + ".(*port).run"
	sample(50, "internal/runtime/syscall/linux.Syscall6", "golang.org/x/sys/unix.Sendto", module+"/xsk.(*TxQueue).Flush", loop)
	sample(20, "runtime.memmove", module+"/encoder.(*Writer).AppendRaw", loop)
	sample(10, module+"/ring.(*Run).PeekMany", loop)
	sample(10, "runtime.mallocgc", module+".(*port).collect", loop)
	sample(10, module+"/xsk.checksum", module+"/xsk.(*XDPTx).Commit", loop)
	sample(99, "runtime.memmove", module+".(*Shard).Publish") // another path
	for _, p := range paths {
		if p.name != "transmit loop" {
			continue
		}
		got := p.takeApart(&prof)
		if got.samples != 100 {
			t.Errorf("%d samples", got.samples)
		}
		for kind, want := range map[string]float64{"kernel": 0.5, "copy": 0.2, "ring": 0.1, "engine": 0.1, "checksum": 0.1} {
			if got.shares[kind] != want {
				t.Errorf("%s: %v, want %v", kind, got.shares[kind], want)
			}
		}
	}
}

func TestBaselines(t *testing.T) {
	of := func(name string, ns ...float64) *row {
		r := newRow("TableApply", name)
		r.values["ns/op"] = ns
		return r
	}
	rows := []*row{of("1M/table", 80, 90, 70), of("1M/map", 800), of("10M/table", 100), of("10M/map", 1000), of("other", 5)}
	for i, want := range []string{"0.100", "", "0.100", "", ""} {
		if got := against(rows, rows[i], "map"); got != want {
			t.Errorf("%s: %q, want %q", rows[i].name, got, want)
		}
	}
	table := plainTable(rows, []string{"ns/op"}, []string{"map"})
	if !strings.Contains(table, "| time by that of *map* |") || !strings.Contains(table, "| 1M/table | 80.0 (70.0–90.0) | 0.100 |") {
		t.Error(table)
	}
}

func TestLost(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   string
	}{{nil, "0"}, {[]float64{0, 0}, "0"}, {[]float64{0, 5, 0}, "0 %, at worst 5.00 %"}, {[]float64{2}, "2.00 %"}} {
		r := newRow("XDPRx", "x")
		r.values["lost-%"] = c.values
		if got := lost(r, "lost-%"); got != c.want {
			t.Errorf("%v: %q, want %q", c.values, got, c.want)
		}
	}
}
