package kernellab

import (
	"testing"
)

// TestParseConns reads lines as kernels 6.1 and 6.12 print them.
func TestParseConns(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string
	}{
		{"empty", "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n", nil},
		{"ipv4", "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n" +
			"TCP 0A010101 0001 0A020202 0050 0A030303 1F90 ESTABLISHED     999\n" +
			"IP_50 0A320001 0000 0A020202 01F4 0A030303 1F90 ERR!            179\n",
			[]string{
				"TCP 10.1.1.1:1>10.2.2.2:80>10.3.3.3:8080 ESTABLISHED",
				"IP_50 10.50.0.1:0>10.2.2.2:500>10.3.3.3:8080 ERR!",
			}},
		{"ipv6 sync", "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Origin Expires\n" +
			"TCP fe80:0000:0000:0000:0000:0000:0000:0001 0003 ff02:0000:0000:0000:0000:0000:0000:0001 0050 0000:0000:0000:0000:0000:0000:0000:0001 1F90 ESTABLISHED SYNC       999\n",
			[]string{"TCP [fe80::1]:3>[ff02::1]:80>[::1]:8080 ESTABLISHED SYNC"}},
		{"engine data", "UDP 0A010101 0001 0A020202 0050 0A030303 1F90 NONE            999 sip a b\nc\n" +
			"UDP 0A010101 0002 0A020202 0050 0A030303 1F90 UDP             999\n\n",
			[]string{
				`UDP 10.1.1.1:1>10.2.2.2:80>10.3.3.3:8080 NONE sip "a b\nc"`,
				"UDP 10.1.1.1:2>10.2.2.2:80>10.3.3.3:8080 UDP",
			}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conns, err := ParseConns(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if len(conns) != len(tt.want) {
				t.Fatalf("%d connections, want %d: %v", len(conns), len(tt.want), conns)
			}
			for i, c := range conns {
				if c.String() != tt.want[i] {
					t.Errorf("connection %d: %s, want %s", i, c, tt.want[i])
				}
			}
		})
	}
	for _, bad := range []string{"TCP 0A010101\n", "TCP 0A0101 0001 0A020202 0050 0A030303 1F90 ESTABLISHED 999\n",
		"TCP 0A010101 0001 0A020202 0050 0A030303 1F90 ESTABLISHED x\n"} {
		if conns, err := ParseConns(bad); err == nil {
			t.Errorf("ParseConns(%q) = %v, want an error", bad, conns)
		}
	}
}
