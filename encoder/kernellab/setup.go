package kernellab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// ErrUnavailable says that this machine cannot run the lab as it is. The
// text of the error names the command that would change that.
var ErrUnavailable = errors.New("kernel lab unavailable")

// tool is a program of the host that the lab runs or copies into the guest.
type tool struct {
	name string // as in $PATH
	pkg  string // Debian package that has it
}

// hostTools is everything the lab needs from the machine it runs on.
// tcpdump and tshark are handy beside a lab and deliberately not here.
var hostTools = []tool{
	{"qemu-system-x86_64", "qemu-system-x86"},
	{"busybox", "busybox-static"},
	{"dash", "dash"},
	{"ipvsadm", "ipvsadm"},
	{"ip", "iproute2"},
	{"tc", "iproute2"},
	{"xz", "xz-utils"},
	{"dpkg-deb", "dpkg"},
	{"ldd", "libc-bin"},
}

// sbin is searched besides $PATH: a test run by hand often lacks it.
var sbin = []string{"/usr/sbin/", "/sbin/", "/usr/local/sbin/"}

// look finds a program in $PATH or in one of the sbin directories.
func look(name string) (string, error) {
	p, err := exec.LookPath(name)
	if err == nil {
		return p, nil
	}
	for _, dir := range sbin {
		if p, e := exec.LookPath(dir + name); e == nil {
			return p, nil
		}
	}
	return "", err
}

// missing lists, without repeats, the packages whose tools are not installed.
func missing() []string {
	var pkgs []string
	seen := map[string]bool{}
	for _, t := range hostTools {
		if _, err := look(t.name); err != nil && !seen[t.pkg] {
			seen[t.pkg] = true
			pkgs = append(pkgs, t.pkg)
		}
	}
	return pkgs
}

// Setup makes the tools of the lab available. What is missing is installed
// when the process is root and apt-get exists; otherwise the error wraps
// [ErrUnavailable] and names the one command to run. It is safe to call from
// several processes at once, and cheap when there is nothing to do.
func Setup(ctx context.Context) error {
	pkgs := missing()
	if len(pkgs) == 0 {
		return nil
	}
	fix := "apt-get install -y --no-install-recommends " + strings.Join(pkgs, " ")
	apt, err := look("apt-get")
	if err != nil {
		return fmt.Errorf("%w: no apt-get here; install by other means what Debian calls %s",
			ErrUnavailable, strings.Join(pkgs, " "))
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: run: sudo %s", ErrUnavailable, fix)
	}
	unlock, err := lockCache(ctx, "setup")
	if err != nil {
		return err
	}
	defer unlock()
	if pkgs = missing(); len(pkgs) == 0 { // another process was faster
		return nil
	}
	args := append([]string{"install", "-y", "--no-install-recommends"}, pkgs...)
	if _, err := run(ctx, "", apt, args...); err == nil {
		return nil
	}
	// Package lists may be absent or stale: refresh them once.
	if _, err := run(ctx, "", apt, "update"); err != nil {
		return fmt.Errorf("%w: run: apt-get update && %s: %w", ErrUnavailable, fix, err)
	}
	if _, err := run(ctx, "", apt, args...); err != nil {
		return fmt.Errorf("%w: run: %s: %w", ErrUnavailable, fix, err)
	}
	return nil
}

// run executes a program of the host in dir and returns its standard output.
// The error carries the end of what it wrote to standard error.
func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	path, err := look(name)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("run %s %s: %w: %s", name, strings.Join(args, " "), err, tail(errs.String(), 5))
	}
	return out.String(), nil
}

// tail returns the last n lines of s.
func tail(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\r\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}
