package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// The results of a suite are in name.txt. What a run printed that failed is kept in
// name.failed.txt until one succeeds: it lacks rows, so the page does not show it.
const (
	resultEnd = ".txt"
	failedEnd = ".failed.txt"
)

func (c *collector) path(name string) string { return filepath.Join(c.data, name) }

// keepFailed keeps what a run printed that ended with err, and returns err with
// what failed and where it is to be read.
func (c *collector) keepFailed(name string, printed []byte, err error) error {
	file := c.path(name + failedEnd)
	if errWrite := os.WriteFile(file, printed, 0o644); errWrite != nil {
		return errors.Join(err, errWrite)
	}
	return fmt.Errorf("%w\nfailed: %s\nall that was printed is in %s", err, strings.Join(culprits(printed), ", "), file)
}

func (c *collector) forgetFailed(name string) error {
	if err := os.Remove(c.path(name + failedEnd)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

var culprit = regexp.MustCompile(`(?m)^\s*--- FAIL: (Benchmark\S+)|^(panic: .*)`)

// culprits are the benchmarks that failed, without those that failed because a
// part of them did, and the panic that ended the run.
func culprits(printed []byte) (found []string) {
	for _, m := range culprit.FindAllSubmatch(printed, -1) {
		name := string(bytes.Join(m[1:], nil))
		isPart := func(s string) bool { return strings.HasPrefix(s, name+"/") }
		if !slices.Contains(found, name) && !slices.ContainsFunc(found, isPart) {
			found = append(found, name)
		}
	}
	if found == nil {
		return []string{"no benchmark by name (the end says why)"}
	}
	return found
}
