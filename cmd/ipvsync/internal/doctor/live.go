package doctor

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// portUsers says who uses the port of the synchronisation in this network
// namespace, or is a member of its group on the interface: a kernel's daemon,
// another ipvsync, anybody whom trying things out might disturb.
func portUsers(iface string, group netip.Addr, port uint16) []string {
	users := []string{}
	for _, name := range []string{"udp", "udp6"} {
		if f, err := os.Open("/proc/thread-self/net/" + name); err == nil {
			users = append(users, socketUsers(f, port)...)
			f.Close()
		}
	}
	name := "igmp"
	if group.Is6() {
		name = "igmp6"
	}
	if f, err := os.Open("/proc/thread-self/net/" + name); err == nil {
		if groupMember(f, iface, group) {
			users = append(users, fmt.Sprintf("a member of %s on %s", group, iface))
		}
		f.Close()
	}
	slices.Sort(users)
	return slices.Compact(users)
}

// socketUsers reads /proc/net/udp: udp4_format_sock, udp6_seq_show. A socket of
// the kernel, such as that of its synchronisation daemon, has no inode.
func socketUsers(r io.Reader, port uint16) (users []string) {
	at := func(addr string) bool {
		n, err := strconv.ParseUint(addr[strings.LastIndexByte(addr, ':')+1:], 16, 16)
		return err == nil && uint16(n) == port
	}
	for lines := bufio.NewScanner(r); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[0] == "sl" {
			continue
		}
		who := "a socket"
		if f[9] == "0" {
			who = "a socket of the kernel (its IPVS daemon?)"
		}
		switch {
		case at(f[1]):
			users = append(users, fmt.Sprintf("%s that receives on UDP port %d", who, port))
		case at(f[2]):
			users = append(users, fmt.Sprintf("%s that sends to UDP port %d", who, port))
		}
	}
	return users
}

// groupMember reads /proc/net/igmp (igmp_mc_seq_show), where lines of groups
// follow that of their device, in the byte order of the host, or igmp6
// (igmp6_mc_seq_show).
func groupMember(r io.Reader, iface string, group netip.Addr) bool {
	want := hex.EncodeToString(group.AsSlice())
	if group.Is4() {
		b := group.As4()
		want = fmt.Sprintf("%08X", binary.NativeEndian.Uint32(b[:]))
	}
	device := ""
	for lines := bufio.NewScanner(r); lines.Scan(); {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) < 3:
		case group.Is6():
			if f[1] == iface && f[2] == want {
				return true
			}
		case lines.Text()[0] != '\t':
			device = strings.TrimSuffix(f[1], ":")
		case device == iface && f[0] == want:
			return true
		}
	}
	return false
}
