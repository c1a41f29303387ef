package filelock

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestTake(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	l, err := Take(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Take(path); !errors.Is(err, ErrHeld) {
		t.Errorf("twice: %v", err)
	}
	if other, err := Take(path + "y"); err != nil {
		t.Errorf("another: %v", err)
	} else {
		other.Close()
	}
	l.Close()
	if l, err = Take(path); err != nil {
		t.Fatalf("given back: %v", err)
	}
	l.Close()
	if _, err := Take(filepath.Join(path, "missing")); !errors.Is(err, os.ErrNotExist) || errors.Is(err, ErrHeld) {
		t.Errorf("no directory: %v", err)
	}
}
