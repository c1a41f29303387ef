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

// The kernels of Debian 12: its own and the newer one it carries beside it.
const (
	Linux61  Kernel = "6.1"
	Linux612 Kernel = "6.12"
)

// Kernels lists every [Kernel], for tests that range over them.
var Kernels = []Kernel{Linux61, Linux612}

// meta is the package that depends on the current build of the kernel.
func (k Kernel) meta() (string, error) {
	switch k {
	case Linux61:
		return "linux-image-amd64", nil
	case Linux612:
		return "linux-image-6.12-amd64", nil
	}
	return "", fmt.Errorf("unknown kernel %q", string(k))
}

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

// download gets the package of k and leaves in home only what a boot needs.
func download(ctx context.Context, k Kernel, dir, home string) error {
	pkg, err := resolve(ctx, k)
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
	if _, err := run(ctx, tmp, "apt-get", "-o", "APT::Sandbox::User=root", "download", pkg); err != nil {
		return fmt.Errorf("%w: cannot download %s; run: apt-get update: %w", ErrUnavailable, pkg, err)
	}
	debs, _ := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if len(debs) != 1 {
		return fmt.Errorf("download %s: found %d packages", pkg, len(debs))
	}
	root := filepath.Join(tmp, "root")
	if _, err := run(ctx, tmp, "dpkg-deb", "-x", debs[0], root); err != nil {
		return fmt.Errorf("unpack %s: %w", pkg, err)
	}
	releases, _ := filepath.Glob(filepath.Join(root, "lib/modules/*"))
	if len(releases) != 1 {
		return fmt.Errorf("unpack %s: found %d module trees", pkg, len(releases))
	}
	release := filepath.Base(releases[0])
	keep := filepath.Join(tmp, "keep")
	if err := os.MkdirAll(filepath.Join(keep, "modules"), 0o755); err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	if err := os.Rename(filepath.Join(root, "boot/vmlinuz-"+release), filepath.Join(keep, "vmlinuz")); err != nil {
		return fmt.Errorf("unpack %s: %w", pkg, err)
	}
	if err := collectModules(ctx, releases[0], filepath.Join(keep, "modules")); err != nil {
		return fmt.Errorf("unpack %s: %w", pkg, err)
	}
	if err := os.WriteFile(filepath.Join(keep, "release"), []byte(release+"\n"), 0o644); err != nil {
		return fmt.Errorf("write cache: %w", err)
	}
	if err := os.Rename(keep, home); err != nil {
		return fmt.Errorf("write cache: %w", err)
	}
	return nil
}

// resolve asks apt which package the meta package of k depends on.
func resolve(ctx context.Context, k Kernel) (string, error) {
	meta, err := k.meta()
	if err != nil {
		return "", err
	}
	for try := 0; ; try++ {
		out, err := run(ctx, "", "apt-cache", "depends", meta)
		for line := range strings.Lines(out) {
			if dep, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok {
				return dep, nil
			}
		}
		if try == 1 || os.Geteuid() != 0 {
			return "", fmt.Errorf("%w: apt knows no kernel behind %s; run: apt-get update (Debian 12 sources needed): %w",
				ErrUnavailable, meta, errors.Join(err, ctx.Err()))
		}
		if _, err := run(ctx, "", "apt-get", "update"); err != nil {
			return "", fmt.Errorf("%w: run: apt-get update: %w", ErrUnavailable, err)
		}
	}
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
