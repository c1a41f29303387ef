package kernellab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The control channel is an HTTP server in the guest with two CGI programs:
// run executes a posted shell script, put stores posted bytes (init.sh,
// run.cgi, put.cgi). A call takes some ten milliseconds.
const (
	controlURL = "http://10.87.0.2/cgi-bin/"
	runTimeout = 60 * time.Second
	exitMark   = "\nX-Exit: " // begins the end of each answer
)

// RunErr runs a shell script in the guest, in the namespace of its IPVS, and returns what it wrote to standard
// output and standard error, and its exit status. err is not nil when the guest
// could not be asked; a script that fails is no error. What the script leaves
// running in the background must have its output redirected, as [Guest.Start]
// does: the call returns when the last writer is gone. To reach the NIC itself
// instead of the lab's own interface on it, a script may start programs with
// nsenter --net=/proc/1/ns/net.
func (g *Guest) RunErr(ctx context.Context, script string) (out string, code int, err error) {
	return g.post(ctx, "run?lab", []byte(script))
}

// Run is [Guest.RunErr] for scripts that must succeed: the test fails on an exit
// status other than 0.
func (g *Guest) Run(tb testing.TB, script string) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), runTimeout)
	defer cancel()
	out, code, err := g.RunErr(ctx, script)
	if err != nil {
		tb.Fatalf("run in guest: %v\nscript: %s\nconsole:\n%s", err, script, g.console.tail())
	}
	if code != 0 {
		tb.Fatalf("run in guest: exit status %d\nscript: %s\noutput: %s", code, script, out)
	}
	return out
}

// plainPath is what Put accepts: nothing a shell or an URL would change.
var plainPath = regexp.MustCompile(`^/[A-Za-z0-9._/-]+$`)

// Put stores an executable file in the guest under an absolute path.
func (g *Guest) Put(tb testing.TB, path string, content []byte) {
	tb.Helper()
	if !plainPath.MatchString(path) {
		tb.Fatalf("put into guest: %q is not a plain absolute path", path)
	}
	ctx, cancel := context.WithTimeout(tb.Context(), runTimeout)
	defer cancel()
	out, code, err := g.post(ctx, "put?"+path, content)
	if err == nil && (code != 0 || strings.TrimSpace(out) != strconv.Itoa(len(content))) {
		err = fmt.Errorf("exit status %d, %s of %d bytes", code, strings.TrimSpace(out), len(content))
	}
	if err != nil {
		tb.Fatalf("put %s into guest: %v\nconsole:\n%s", path, err, g.console.tail())
	}
}

// Daemon is a program running in the background of the guest.
type Daemon struct {
	g   *Guest
	pid string
	log string
}

// Start runs a command line in the background of the guest. It is killed with
// the guest, or by [Daemon.Stop].
func (g *Guest) Start(tb testing.TB, command string) *Daemon {
	tb.Helper()
	out := g.Run(tb, "log=$(mktemp /tmp/daemon.XXXXXX)\nsetsid sh -c 'exec "+
		strings.ReplaceAll(command, "'", `'\''`)+"' >$log 2>&1 </dev/null &\necho $! $log")
	pid, log, ok := strings.Cut(strings.TrimSpace(out), " ")
	if !ok {
		tb.Fatalf("start in guest: answer %q", out)
	}
	return &Daemon{g: g, pid: pid, log: log}
}

// Output returns what the program has written so far.
func (d *Daemon) Output(tb testing.TB) string {
	tb.Helper()
	return d.g.Run(tb, "cat "+d.log)
}

// Stop sends SIGTERM, waits for the end of the program, kills it after five
// seconds, and returns its whole output.
func (d *Daemon) Stop(tb testing.TB) string {
	tb.Helper()
	return d.g.Run(tb, fmt.Sprintf(`kill %[1]s 2>/dev/null
i=0
while s=$(grep '^State' /proc/%[1]s/status 2>/dev/null) && [ "${s#*zombie}" = "$s" ]; do
	i=$((i+1)); [ $i = 50 ] && kill -9 %[1]s 2>/dev/null; [ $i = 100 ] && exit 1
	usleep 100000
done
cat %[2]s`, d.pid, d.log))
}

// Reset empties everything of IPVS and of the network in the guest: connections,
// services, daemons, sysctls, links. It takes a fraction of a second, a boot
// several. Programs that still run keep the old namespace.
func (g *Guest) Reset(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), runTimeout)
	defer cancel()
	out, code, err := g.post(ctx, "run", []byte("lab-reset"))
	if err != nil || code != 0 {
		tb.Fatalf("reset guest: %v, exit status %d\n%s\nconsole:\n%s", err, code, out, g.console.tail())
	}
}

// Dmesg returns the kernel's log.
func (g *Guest) Dmesg(tb testing.TB) string {
	tb.Helper()
	return g.Run(tb, "dmesg")
}

// post sends a body to one of the CGI programs. The context is left early when
// the guest dies.
func (g *Guest) post(ctx context.Context, cgi string, body []byte) (string, int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-g.exited:
			cancel(errDied)
		case <-ctx.Done():
		}
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, controlURL+cgi, bytes.NewReader(body))
	if err != nil {
		return "", 0, fmt.Errorf("ask guest: %w", err)
	}
	resp, err := g.client.Do(req)
	if err != nil {
		return "", 0, fmt.Errorf("ask guest: %w", errors.Join(err, context.Cause(ctx)))
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if err != nil {
		return string(body), 0, fmt.Errorf("read answer of guest: %w", errors.Join(err, context.Cause(ctx)))
	}
	end := bytes.LastIndex(body, []byte(exitMark))
	if end < 0 {
		return string(body), 0, fmt.Errorf("read answer of guest: status %s without exit status", resp.Status)
	}
	code, err := strconv.Atoi(string(body[end+len(exitMark):]))
	if err != nil {
		return string(body), 0, fmt.Errorf("read answer of guest: %w", err)
	}
	return string(body[:end]), code, nil
}
