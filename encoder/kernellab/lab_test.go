package kernellab

import (
	"strings"
	"testing"
)

func TestBoot(t *testing.T) {
	for _, k := range Kernels {
		t.Run(string(k), func(t *testing.T) {
			g := Boot(t, k)
			out := g.Run(t, "uname -r; lsmod; ip a; cat /proc/uptime")
			t.Logf("booted %s in %v\n%s\n%s", g.Release(), g.BootTime(), g.Console(), out)
			if !strings.HasPrefix(out, g.Release()+"\n") {
				t.Errorf("uname -r disagrees with %s", g.Release())
			}
		})
	}
}
