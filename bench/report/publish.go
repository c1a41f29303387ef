package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// publish makes the page and plots of docs of the results in data. If they are not
// whole, docs stays as it is, since it would lose what is not in them: their page
// and plots are then made in data.
func publish(docs, data string, out io.Writer) error {
	res, err := readResults(data)
	if err != nil {
		return err
	}
	lacks := res.lacks(data)
	whole := lacks == ""
	text, dir, file := page(res, "plots"), docs, filepath.Join(docs, "benchmarks.md")
	if !whole {
		dir, file = data, filepath.Join(data, "page.md")
	}
	if err := drawPlots(res, filepath.Join(dir, "plots")); err != nil {
		return err
	}
	if whole {
		err = updatePage(file, text)
	} else {
		err = os.WriteFile(file, []byte(text), 0o644)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "wrote %s and %s\n", file, filepath.Join(dir, "plots"))
	if !whole {
		fmt.Fprintf(out, "%s is as it was: %s\n", docs, lacks)
	}
	return nil
}

// lacks says what the results in data need to be whole, and how to get it; nothing
// if they are.
func (r *results) lacks(data string) string {
	bad := func(stem, end string) bool {
		return !exists(filepath.Join(data, stem+end)) || exists(filepath.Join(data, stem+failedEnd))
	}
	var parts []string
	for _, s := range suites {
		if bad(s.name, resultEnd) {
			parts = append(parts, s.name)
		}
	}
	for _, p := range paths {
		if bad(p.stem(), profileEnd) {
			parts = append(parts, profilesName)
			break
		}
	}
	if parts != nil {
		return fmt.Sprintf("of %s there are no results, or the last run failed. For the whole: %s", strings.Join(parts, ", "), command(parts))
	}
	var empty []string
	for _, s := range sections {
		if len(r.of(s.bench)) == 0 {
			empty = append(empty, "Benchmark"+s.bench)
		}
	}
	if empty != nil {
		return fmt.Sprintf("the suites ran, but without %s, which are skipped where they cannot run. Run all again as root", strings.Join(empty, ", "))
	}
	return ""
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
