package kernellab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CacheEnv names the environment variable that moves the cache of kernels
// away from the user's cache directory.
const CacheEnv = "IPVSYNC_CACHE"

// Kernel names a kernel that the lab can boot.
type Kernel string

// The kernels of Debian 12, its own and the newer one it carries beside it; and
// the newest one that there is for Debian 13, whose version moves on.
const (
	Linux61     Kernel = "6.1"
	Linux612    Kernel = "6.12"
	LinuxNewest Kernel = "newest"
)

// Kernels lists the kernels that stay as they are, for tests that range over them.
var Kernels = []Kernel{Linux61, Linux612}

// Layout of the cache:
//
//	lock-<what>                    flock(2) files, never removed
//	linux-<kernel>-<modules hash>/ one unpacked kernel, complete or absent
//	    release                    what uname -r will print
//	    vmlinuz
//	    modules/NNN-name.ko        uncompressed, NNN is the order of insmod
//	    initrd-<recipe hash>       complete or absent
//
// Everything is written under a temporary name, and renamed when complete, by
// the holder of the lock. A reader that finds a name may use it without lock.

// image is what QEMU boots.
type image struct {
	release string
	vmlinuz string
	initrd  string
}

// cacheDir returns the cache's directory and makes it.
func cacheDir() (string, error) {
	dir := os.Getenv(CacheEnv)
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			// A stripped environment without $HOME is no reason to fail.
			base = filepath.Join(os.TempDir(), fmt.Sprintf("cache-%d", os.Geteuid()))
		}
		dir = filepath.Join(base, "ipvsync", "kernellab")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make cache: %w", err)
	}
	return filepath.Abs(dir)
}

// lockCache takes the lock called name, among all processes that share the
// cache, and returns the function that releases it.
func lockCache(ctx context.Context, name string) (func(), error) {
	dir, err := cacheDir()
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock-"+name), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open cache lock: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			f.Close()
			return nil, fmt.Errorf("lock cache: %w", err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock cache: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// fetch returns the bootable image of k, from the cache when it is there.
func fetch(ctx context.Context, k Kernel) (image, error) {
	dir, err := cacheDir()
	if err != nil {
		return image{}, err
	}
	home := filepath.Join(dir, "linux-"+string(k)+"-"+digest(strings.Join(wantModules, " ")))
	recipe, err := newRecipe(ctx)
	if err != nil {
		return image{}, err
	}
	img := image{
		vmlinuz: filepath.Join(home, "vmlinuz"),
		initrd:  filepath.Join(home, "initrd-"+recipe.hash()),
	}
	if !exists(img.initrd) {
		unlock, err := lockCache(ctx, string(k))
		if err != nil {
			return image{}, err
		}
		defer unlock()
		if !exists(home) {
			if err := download(ctx, k, dir, home); err != nil {
				return image{}, err
			}
		}
		if !exists(img.initrd) {
			if err := recipe.build(filepath.Join(home, "modules"), img.initrd); err != nil {
				return image{}, err
			}
			removeStale(home)
		}
	}
	release, err := os.ReadFile(filepath.Join(home, "release"))
	if err != nil {
		return image{}, fmt.Errorf("read cache: %w", err)
	}
	img.release = strings.TrimSpace(string(release))
	return img, nil
}

// staleAfter is when an initramfs that another version of this package built may
// go. A process that started longer ago has loaded it, or builds it again.
const staleAfter = 24 * time.Hour

// removeStale removes old initramfs files of a kernel.
func removeStale(home string) {
	files, _ := filepath.Glob(filepath.Join(home, "initrd-*"))
	for _, f := range files {
		if st, err := os.Stat(f); err == nil && time.Since(st.ModTime()) > staleAfter {
			os.Remove(f)
		}
	}
}

// download gets the packages of k and leaves in home only what a boot needs.
func download(ctx context.Context, k Kernel, dir, home string) error {
	a, err := archiveOf(ctx, k, dir)
	if err != nil {
		return err
	}
	pkgs, err := a.resolve(ctx)
	if err != nil {
		return err
	}
	// What a killed run left behind; the lock is ours, so nobody uses it.
	old, _ := filepath.Glob(filepath.Join(dir, "tmp-"+string(k)+"-*"))
	for _, o := range old {
		os.RemoveAll(o)
	}
	tmp, err := os.MkdirTemp(dir, "tmp-"+string(k)+"-")
	if err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := a.download(ctx, tmp, pkgs...); err != nil {
		return err
	}
	debs, _ := filepath.Glob(filepath.Join(tmp, "*.deb"))
	root := filepath.Join(tmp, "root")
	for _, deb := range debs {
		if _, err := run(ctx, tmp, "dpkg-deb", "-x", deb, root); err != nil {
			return fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
		}
	}
	// Up to Debian 13 lib/modules and boot/vmlinuz-RELEASE, then usr/lib/modules with
	// vmlinuz in it.
	releases, _ := filepath.Glob(filepath.Join(root, "lib/modules/*"))
	more, _ := filepath.Glob(filepath.Join(root, "usr/lib/modules/*"))
	if releases = append(releases, more...); len(releases) != 1 {
		return fmt.Errorf("unpack %v: found %d module trees", pkgs, len(releases))
	}
	release := filepath.Base(releases[0])
	keep := filepath.Join(tmp, "keep")
	if err := os.MkdirAll(filepath.Join(keep, "modules"), 0o755); err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	vmlinuz := filepath.Join(root, "boot/vmlinuz-"+release)
	if !exists(vmlinuz) {
		vmlinuz = filepath.Join(releases[0], "vmlinuz")
	}
	if err := os.Rename(vmlinuz, filepath.Join(keep, "vmlinuz")); err != nil {
		return fmt.Errorf("unpack %v: %w", pkgs, err)
	}
	if err := collectModules(ctx, releases[0], filepath.Join(keep, "modules")); err != nil {
		return fmt.Errorf("unpack %v: %w", pkgs, err)
	}
	if err := os.WriteFile(filepath.Join(keep, "release"), []byte(release+"\n"), 0o644); err != nil {
		return fmt.Errorf("write cache: %w", err)
	}
	if err := os.Rename(keep, home); err != nil {
		return fmt.Errorf("write cache: %w", err)
	}
	return nil
}

// digest is a short name for a content.
func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:6])
}

// exists reports whether path is there.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
