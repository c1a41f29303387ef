package kernellab

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// TestCacheShared fills an empty cache from two sides at once.
func TestCacheShared(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads a kernel; run without -short")
	}
	if err := Setup(t.Context()); err != nil {
		xsktest.SkipOrFail(t, "%v", err)
	}
	dir := t.TempDir()
	t.Setenv(CacheEnv, dir)
	var wg sync.WaitGroup
	var images [2]image
	var errs [2]error
	for i := range images {
		wg.Go(func() { images[i], errs[i] = fetch(t.Context(), Linux61) })
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); errors.Is(err, ErrUnavailable) {
		xsktest.SkipOrFail(t, "%v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	if images[0] != images[1] || !exists(images[0].vmlinuz) || !exists(images[0].initrd) {
		t.Errorf("images %+v", images)
	}
	if !strings.HasPrefix(images[0].release, "6.1.") {
		t.Errorf("release %q", images[0].release)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "tmp-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestLockCache(t *testing.T) {
	t.Setenv(CacheEnv, t.TempDir())
	unlock, err := lockCache(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := lockCache(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second lock: %v, want a timeout", err)
	}
	unlock()
	unlock, err = lockCache(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

// TestSetupNamesFix checks the message for a machine that lacks everything.
func TestSetupNamesFix(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	defer func(dirs []string) { sbin = dirs }(sbin)
	sbin = nil
	err := Setup(t.Context())
	if !errors.Is(err, ErrUnavailable) {
		t.Fatalf("Setup = %v, want ErrUnavailable", err)
	}
	for _, pkg := range []string{"qemu-system-x86", "busybox-static", "ipvsadm"} {
		if !strings.Contains(err.Error(), pkg) {
			t.Errorf("%q does not name %s", err, pkg)
		}
	}
}
