package kernellab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// archive is where the packages of a kernel come from, by way of apt.
type archive struct {
	meta    string   // package that depends on the current build of the kernel
	options []string // for apt, to look elsewhere than this machine does
	private bool     // options say where, and its lists are not the machine's
}

// newestSuite has the newest kernel that Debian supports on a stable release.
const newestSuite = "trixie-backports"

// archiveOf returns the archive of k. For LinuxNewest, lists of its own lie in dir,
// so that this machine's apt never hears of another release.
func archiveOf(ctx context.Context, k Kernel, dir string) (*archive, error) {
	switch k {
	case Linux61:
		return &archive{meta: "linux-image-amd64"}, nil
	case Linux612:
		return &archive{meta: "linux-image-6.12-amd64"}, nil
	case LinuxNewest:
	default:
		return nil, fmt.Errorf("unknown kernel %q", string(k))
	}
	out, err := run(ctx, "", "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian")
	if err != nil {
		return nil, fmt.Errorf("%w: where does apt get Debian's packages: %w", ErrUnavailable, err)
	}
	mirror, _, _ := strings.Cut(out, "\n")
	home := filepath.Join(dir, "apt-"+newestSuite)
	for _, d := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(home, d), 0o755); err != nil {
			return nil, fmt.Errorf("make cache: %w", err)
		}
	}
	list := filepath.Join(home, "sources.list")
	if err := os.WriteFile(list, []byte("deb "+strings.TrimSpace(mirror)+" "+newestSuite+" main\n"), 0o644); err != nil {
		return nil, fmt.Errorf("make cache: %w", err)
	}
	return &archive{meta: "linux-image-amd64", private: true, options: []string{
		"-o", "Dir::Etc::SourceList=" + list, "-o", "Dir::Etc::SourceParts=-",
		"-o", "Dir::State::Lists=" + filepath.Join(home, "lists"), "-o", "Dir::Cache=" + filepath.Join(home, "cache"),
	}}, nil
}

func (a *archive) run(ctx context.Context, dir, tool string, args ...string) (string, error) {
	return run(ctx, dir, tool, slices.Concat(a.options, []string{"-o", "APT::Sandbox::User=root"}, args)...)
}

// update reads the archive's lists anew.
func (a *archive) update(ctx context.Context) error {
	if !a.private && os.Geteuid() != 0 {
		return fmt.Errorf("%w: run: apt-get update", ErrUnavailable)
	}
	if _, err := a.run(ctx, "", "apt-get", "update"); err != nil {
		return fmt.Errorf("%w: apt-get update: %w", ErrUnavailable, err)
	}
	return nil
}

// resolve asks apt for the packages that make up the kernel: an image with
// everything in it, or one that depends on its parts.
func (a *archive) resolve(ctx context.Context) ([]string, error) {
	if a.private {
		if err := a.update(ctx); err != nil {
			return nil, err
		}
	}
	for try := 0; ; try++ {
		deps, err := a.depends(ctx, a.meta)
		for _, image := range deps {
			if !strings.HasPrefix(image, "linux-image-") {
				continue
			}
			version := strings.TrimPrefix(image, "linux-image-")
			parts, err := a.depends(ctx, image)
			if err != nil {
				return nil, err
			}
			parts = slices.DeleteFunc(parts, func(p string) bool {
				return !slices.Contains([]string{"linux-base-" + version, "linux-binary-" + version, "linux-modules-" + version}, p)
			})
			return append(parts, image), nil
		}
		if try == 1 {
			return nil, fmt.Errorf("%w: apt knows no kernel behind %s; run: apt-get update (Debian 12 sources needed): %w",
				ErrUnavailable, a.meta, errors.Join(err, ctx.Err()))
		}
		if err := a.update(ctx); err != nil {
			return nil, err
		}
	}
}

func (a *archive) depends(ctx context.Context, pkg string) (deps []string, err error) {
	out, err := a.run(ctx, "", "apt-cache", "depends", pkg)
	for line := range strings.Lines(out) {
		if dep, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok {
			deps = append(deps, dep)
		}
	}
	return deps, err
}

func (a *archive) download(ctx context.Context, dir string, pkgs ...string) error {
	if _, err := a.run(ctx, dir, "apt-get", append([]string{"download"}, pkgs...)...); err != nil {
		return fmt.Errorf("%w: cannot download %s; run: apt-get update: %w", ErrUnavailable, strings.Join(pkgs, " "), err)
	}
	return nil
}
