package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
)

// The generated part of the page lies between two comments.
const (
	beginMark = "<!-- begin of what make bench-report wrote: changes by hand are lost -->"
	endMark   = "<!-- end of what make bench-report wrote -->"
)

// updatePage replaces what lies between the marks of a file, and leaves the rest.
func updatePage(path, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(old, []byte(beginMark))
	if !ok {
		return fmt.Errorf("%s: no line %q", path, beginMark)
	}
	_, after, ok := bytes.Cut(rest, []byte(endMark))
	if !ok {
		return fmt.Errorf("%s: no line %q behind %q", path, endMark, beginMark)
	}
	var b bytes.Buffer
	b.Write(before)
	b.WriteString(beginMark + "\n\n" + strings.TrimSpace(text) + "\n\n" + endMark)
	b.Write(after)
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// page is the generated part, with links to plots in a directory beside it.
func page(res *results, plots string) string {
	var b strings.Builder
	f := res.facts
	fmt.Fprintf(&b, "## Measured\n\n%s; %s processors; kernel %s; %s; revision %s; %s.\n\n",
		f["cpu"], f["processors"], f["kernel"], f["go"], f["revision"], f["date"])
	fmt.Fprintf(&b, "Medians of the repetitions, with the least and the most in brackets. The two sides of a duel take turns of some\n"+
		"tenths of a second, so that a disturbance meets both. *Ratio* is what to look at: above 1 ours is faster, and a row in\n"+
		"which we lose has its ratio in bold. *Lost* is of what was sent; *CPU* is that of the whole process, both ends and\n"+
		"the kernel's work for it, for each record. Where times are compared, below 1 is faster.\n\n```\n%s\n```\n\n", strings.Join(res.commands, "\n"))
	done := map[string]bool{}
	for _, s := range sections {
		if rows := res.of(s.bench); len(rows) > 0 {
			b.WriteString(s.render(rows, plots))
			done[s.bench] = true
		}
	}
	for _, bench := range res.benches() { // what is new here has a table at least
		if !done[bench] {
			b.WriteString(sectionOf(bench).render(res.of(bench), plots))
		}
	}
	b.WriteString(profileTable(res))
	return b.String()
}
