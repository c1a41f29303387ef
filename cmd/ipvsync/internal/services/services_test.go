package services

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/ipvsync/ipvsync/encoder"
)

const saved = `-A -t 10.88.0.2:80 -s rr
-a -t 10.88.0.2:80 -r 10.99.0.2:8080 -m -w 1
-a -t 10.88.0.2:80 -r 10.99.0.3:8080 -i -w 1 --tun-type ipip
-A -t [fd00:88::2]:80 -s rr
-a -t [fd00:88::2]:80 -r [fd00:99::2]:80 -g -w 1
-A -u 10.88.0.2:0 -s rr -p 300
-a -u 10.88.0.2:0 -r 10.99.0.2:0 -g -w 1
-A --sctp-service 10.88.0.2:90 -s rr
-A -t 10.88.0.2:21 -s rr -p 60
-a -t 10.88.0.2:21 -r 10.99.0.2:21 -m -w 1
-A -f 7 -s rr -p 100
-a -f 7 -r 10.99.0.4:0 -g -w 1
-A -f 8 -s rr
-a -f 8 -r 10.99.0.5:82 -m -w 1
-A -f 8 -s rr -6
-a -f 8 -6 -r [fd00:99::5]:82 -i -w 1
-A -f 9 -s rr
-a -f 9 -r 10.99.0.5:83 -g -w 1
`

func TestParse(t *testing.T) {
	list, err := Parse(strings.NewReader("# a comment\n\n" + saved))
	if err != nil || len(list) != 9 {
		t.Fatalf("%d services, %v", len(list), err)
	}
	want := Service{Protocol: encoder.TCP, Virtual: netip.MustParseAddrPort("10.88.0.2:80"), Dests: []Dest{
		{netip.MustParseAddrPort("10.99.0.2:8080"), encoder.FwdMasq}, {netip.MustParseAddrPort("10.99.0.3:8080"), encoder.FwdTunnel},
	}}
	if !reflect.DeepEqual(list[0], want) {
		t.Errorf("%+v, want %+v", list[0], want)
	}
	for line, why := range map[string]string{
		"-a -t 1.2.3.4:80 -r 1.2.3.5:80 -m":               "not there",
		"-A -t 1.2.3.4:80 -s rr\n-A -t 1.2.3.4:80 -s wrr": "already",
		"-A -t www:http -s rr":                            "in numbers",
		"-A -s rr":                                        "want one service",
		"-A -f 0":                                         "want one service",
		"-A -t 1.2.3.4:80\n-a -t 1.2.3.4:80 -m":           "-r ADDR:PORT is missing",
		"-A -t":                                           "in numbers",
		"IP Virtual Server version 1.2.1 (size=4096)":     "-A or -a",
		"-A -f 7 -t 1.2.3.4:80":                           "want one service",
		"-A -t 1.2.3.4:80\n-a -t 1.2.3.4:80 -r 1.2.3.5:http -m -w 100": "line 2",
	} {
		if _, err := Parse(strings.NewReader(line)); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want %q", line, err, why)
		}
	}
}

func TestComplete(t *testing.T) {
	list, err := Parse(strings.NewReader(saved))
	if err != nil {
		t.Fatal(err)
	}
	s := NewSet(list)
	const none = encoder.Flags(0xffff)
	noOutput := encoder.FlagNoOutput
	for _, tc := range []struct {
		what          string
		protocol      encoder.Protocol
		virtual, dest string
		mark          uint32
		flags         encoder.Flags
		wantMark      uint32
	}{
		{"of its service", encoder.TCP, "10.88.0.2:80", "10.99.0.2:8080", 0, encoder.FwdMasq, 0},
		{"of the other destination", encoder.TCP, "10.88.0.2:80", "10.99.0.3:8080", 0, encoder.FwdTunnel | noOutput, 0},
		{"IPv6", encoder.TCP, "[fd00:88::2]:80", "[fd00:99::2]:80", 0, encoder.FwdDRoute | noOutput, 0},
		{"of every port", encoder.UDP, "10.88.0.2:53", "10.99.0.2:53", 0, encoder.FwdDRoute | noOutput, 0},
		{"template of every port", encoder.UDP, "10.88.0.2:0", "10.99.0.2:0", 0, encoder.FwdDRoute | noOutput, 0},
		{"FTP's passive data", encoder.TCP, "10.88.0.2:40000", "10.99.0.2:40000", 0, encoder.FwdMasq, 0},
		{"FTP's active data", encoder.TCP, "10.88.0.2:20", "10.99.0.2:20", 0, encoder.FwdMasq, 0},
		{"no FTP", encoder.TCP, "10.88.0.2:22", "10.99.0.2:22", 0, none, 0},
		{"destination gone", encoder.TCP, "10.88.0.2:80", "10.99.0.9:80", 0, none, 0},
		{"no destinations", encoder.SCTP, "10.88.0.2:90", "10.99.0.2:90", 0, none, 0},
		{"by mark", encoder.TCP, "10.88.0.2:82", "10.99.0.4:82", 0, encoder.FwdDRoute | noOutput, 7},
		{"by one of two marks, not told which", encoder.TCP, "10.88.0.2:82", "10.99.0.5:84", 0, none, 0},
		{"by mark, IPv6", encoder.TCP, "[fd00:88::2]:82", "[fd00:99::5]:82", 0, encoder.FwdTunnel | noOutput, 8},
		{"template by mark", 0, "0.0.0.7:0", "10.99.0.4:0", 7, encoder.FwdDRoute | noOutput, 7},
		{"template by mark, IPv6", 0, "[0:8::]:0", "[fd00:99::5]:0", 8, encoder.FwdTunnel | noOutput, 8},
		{"template by another mark", 0, "0.0.0.6:0", "10.99.0.4:0", 6, none, 6},
	} {
		c := encoder.Conn{Protocol: tc.protocol, Fwmark: tc.mark, Flags: encoder.FlagInactive,
			Virtual: encoder.EndpointFrom(netip.MustParseAddrPort(tc.virtual)), Dest: encoder.EndpointFrom(netip.MustParseAddrPort(tc.dest))}
		ok := s.Complete(&c)
		want := tc.flags | encoder.FlagInactive
		if tc.flags == none {
			want = encoder.FlagInactive
		}
		if ok != (tc.flags != none) || c.Flags != want || c.Fwmark != tc.wantMark {
			t.Errorf("%s: %v, %v, mark %d; want %v, mark %d", tc.what, ok, c.Flags, c.Fwmark, want, tc.wantMark)
		}
	}
	var empty Set
	if empty.Complete(&encoder.Conn{Protocol: encoder.TCP}) {
		t.Error("no services, and yet one found")
	}
}
