package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
)

// row is one benchmark, all its repetitions.
type row struct {
	bench  string // the function's name without Benchmark
	name   string // the sub-benchmark, in words
	values map[string][]float64
}

// results are what a run printed, in its order.
type results struct {
	rows     []*row
	commands []string
	facts    map[string]string
	profiles []profiled
}

// readResults reads what collect left in a directory.
func readResults(dir string) (*results, error) {
	res := &results{facts: map[string]string{}}
	files, err := filepath.Glob(filepath.Join(dir, "*"+resultEnd))
	if err != nil {
		return nil, err
	}
	files = slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, failedEnd) })
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: no results; run this without -render", dir)
	}
	slices.Sort(files)
	for _, f := range files {
		if err := res.readFile(f); err != nil {
			return nil, err
		}
	}
	for _, p := range paths {
		got, err := p.read(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.file(), err)
		}
		res.profiles = append(res.profiles, got)
	}
	return res, nil
}

func (r *results) readFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	reader := benchfmt.NewReader(f, path)
	before := len(r.rows)
	for reader.Scan() {
		switch rec := reader.Result().(type) {
		case *benchfmt.SyntaxError:
			return rec
		case *benchfmt.Result:
			r.add(rec)
		}
	}
	if err := reader.Err(); err != nil {
		return err
	}
	if len(r.rows) == before {
		return fmt.Errorf("%s: no benchmark in it", path)
	}
	return nil
}

func (r *results) add(rec *benchfmt.Result) {
	for _, key := range []string{"command", "kernel", "processors", "go", "revision", "date", "cpu"} {
		v := rec.GetConfig(key)
		if key == "command" {
			if !slices.Contains(r.commands, v) {
				r.commands = append(r.commands, v)
			}
		} else if was := r.facts[key]; was == "" || v == "" {
			r.facts[key] = was + v
		} else if !slices.Contains(strings.Split(was, ", "), v) {
			r.facts[key] = was + ", " + v // suites that were run apart
		}
	}
	bench, name, _ := strings.Cut(string(rec.Name), "/")
	if i := strings.LastIndexByte(name, '-'); i >= 0 {
		name = name[:i] // the number of processors
	}
	name = strings.NewReplacer("AF_XDP", "AF_XDP", "UDP_SEGMENT", "UDP_SEGMENT", "UDP_GRO", "UDP_GRO", "_", " ").Replace(name)
	row := r.find(bench, name)
	if row == nil {
		row = newRow(bench, name)
		r.rows = append(r.rows, row)
	}
	for _, v := range rec.Values {
		unit, value := v.Unit, v.Value
		if v.OrigUnit != "" { // as it was printed
			unit, value = v.OrigUnit, v.OrigValue
		}
		row.values[unit] = append(row.values[unit], value)
	}
}

func newRow(bench, name string) *row {
	return &row{bench: bench, name: name, values: map[string][]float64{}}
}

func (r *results) find(bench, name string) *row {
	for _, row := range r.rows {
		if row.bench == bench && row.name == name {
			return row
		}
	}
	return nil
}

// of returns the rows of a benchmark function.
func (r *results) of(bench string) (rows []*row) {
	for _, row := range r.rows {
		if row.bench == bench {
			rows = append(rows, row)
		}
	}
	return rows
}

// benches are the names of all benchmark functions, in their order.
func (r *results) benches() (names []string) {
	for _, row := range r.rows {
		if !slices.Contains(names, row.bench) {
			names = append(names, row.bench)
		}
	}
	return names
}

// spread is the median of the repetitions, and their least and most.
type spread struct {
	median, least, most float64
	n                   int
}

func (r *row) spread(unit string) (s spread, ok bool) {
	v := slices.Clone(r.values[unit])
	if len(v) == 0 {
		return s, false
	}
	slices.Sort(v)
	m := v[len(v)/2]
	if len(v)%2 == 0 {
		m = (m + v[len(v)/2-1]) / 2
	}
	return spread{m, v[0], v[len(v)-1], len(v)}, true
}

func (r *row) median(unit string) float64 {
	s, _ := r.spread(unit)
	return s.median
}
