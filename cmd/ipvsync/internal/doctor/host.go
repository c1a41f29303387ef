package doctor

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// capabilities that matter, and for what.
var capabilities = []struct {
	bit  uint
	name string
	why  string // "": missing, it limits nothing that is wanted by default
}{
	{unix.CAP_NET_RAW, "NET_RAW", "AF_XDP sockets"},
	{unix.CAP_NET_ADMIN, "NET_ADMIN", "attaching the XDP program, busy polling, and socket buffers beyond net.core.rmem_max"},
	{unix.CAP_BPF, "BPF", "loading the XDP program"},
	{unix.CAP_IPC_LOCK, "IPC_LOCK", ""},
	{unix.CAP_SYS_ADMIN, "SYS_ADMIN", ""},
	{unix.CAP_SYS_NICE, "SYS_NICE", ""},
	{unix.CAP_NET_BIND_SERVICE, "NET_BIND_SERVICE", ""},
}

func (h *Host) has(capability string) bool { return slices.Contains(h.Capabilities, capability) }

// Self is the command's own file, for setcap.
func self() string {
	if path, err := os.Executable(); err == nil {
		return path
	}
	return "ipvsync"
}

func setcap() string {
	return "run as root, or: sudo setcap cap_net_raw,cap_net_admin,cap_bpf,cap_ipc_lock+ep " + self()
}

func lookAtHost() (h Host, err error) {
	h = Host{Arch: runtime.GOARCH, Capabilities: []string{}, Findings: []Finding{}}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return h, fmt.Errorf("uname: %w", err)
	}
	h.Kernel = unix.ByteSliceToString(u.Release[:])
	var data [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		return h, fmt.Errorf("read the capabilities: %w", err)
	}
	for _, c := range capabilities {
		if data[c.bit/32].Effective&(1<<(c.bit%32)) != 0 {
			h.Capabilities = append(h.Capabilities, c.name)
		}
	}
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
		return h, fmt.Errorf("read RLIMIT_MEMLOCK: %w", err)
	}
	if h.Memlock = int64(l.Cur); l.Cur > 1<<62 {
		h.Memlock = -1
	}
	h.RmemMax = number("/proc/sys/net/core/rmem_max")
	h.judge()
	return h, nil
}

// number reads a file that holds one; 0 if there is none.
func number(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

// wantedBuffer is what backup asks for by default: as its socket's buffer, or with
// AF_XDP as packet memory for each queue, in frames of frameSize.
const (
	wantedBuffer = 8 << 20
	frameSize    = 2048
)

func (h *Host) judge() {
	add := func(do, format string, args ...any) {
		h.Findings = append(h.Findings, Finding{fmt.Sprintf(format, args...), do})
	}
	switch major, minor := version(h.Kernel); {
	case major < 5 || major == 5 && minor < 9:
		add("use Linux 5.9 or later", "Linux %s is too old for AF_XDP as it is used here; UDP works", h.Kernel)
	case major == 5 && minor < 11:
		add("use Linux 5.11 or later", "Linux %s has no preferred busy polling, and charges BPF maps to RLIMIT_MEMLOCK", h.Kernel)
	}
	for _, c := range capabilities {
		if c.why != "" && !h.has(c.name) {
			add(setcap(), "CAP_%s is missing, which is needed for %s", c.name, c.why)
		}
	}
	if !h.has("NET_ADMIN") && h.RmemMax > 0 && h.RmemMax < wantedBuffer {
		add(fmt.Sprintf("sudo sysctl -w net.core.rmem_max=%d", wantedBuffer),
			"a UDP receiver gets a socket buffer of %d KiB at most, net.core.rmem_max, and loses what comes in longer bursts", h.RmemMax>>10)
	}
}

// version takes the first two numbers of a kernel's release.
func version(release string) (major, minor int) {
	_, _ = fmt.Sscanf(release, "%d.%d", &major, &minor)
	return major, minor
}
