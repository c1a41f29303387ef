package doctor

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// Lines as Linux 6.18 prints them.
const procUDP = `   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops            
  371: 510000E0:2290 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 0 2 0000000000000000 0         
  372: 00000000:2290 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 31415 2 0000000000000000 0         
  400: 0100630A:C350 510000E0:2290 01 00000000:00000000 00:00000000 00000000     0        0 27182 2 0000000000000000 0         
  401: 0100630A:2291 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0000000000000000 0         
`

func TestSocketUsers(t *testing.T) {
	want := []string{
		"a socket of the kernel (its IPVS daemon?) that receives on UDP port 8848",
		"a socket that receives on UDP port 8848",
		"a socket that sends to UDP port 8848",
	}
	if got := socketUsers(strings.NewReader(procUDP), 8848); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := socketUsers(strings.NewReader(procUDP), 8850); got != nil {
		t.Errorf("%q", got)
	}
}

const procIGMP = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n" +
	"1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n" +
	"14\tverylongname0:     2      V3\n\t\t\t\t510000E0     1 0:00000000\t\t0\n\t\t\t\t010000E0     1 0:00000000\t\t0\n"

const procIGMP6 = "2    eth0            ff020000000000000000000000000081     1 00000004 0\n"

func TestGroupMember(t *testing.T) {
	group := netip.MustParseAddr("224.0.0.81")
	for iface, want := range map[string]bool{"lo": false, "verylongname0": true, "verylongname": false} {
		if groupMember(strings.NewReader(procIGMP), iface, group) != want {
			t.Errorf("%s: want %v", iface, want)
		}
	}
	for addr, want := range map[string]bool{"ff02::81": true, "ff02::82": false} {
		if groupMember(strings.NewReader(procIGMP6), "eth0", netip.MustParseAddr(addr)) != want {
			t.Errorf("%s: want %v", addr, want)
		}
	}
}

func TestVersion(t *testing.T) {
	if a, b := version("6.18.44-generic"); a != 6 || b != 18 {
		t.Error(a, b)
	}
}
