package ipvsync_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/ipvsync/ipvsync"

// Imports point one way, cmd and bench → root → ring, encoder, xsk, and the
// three leaves import none of each other.
func TestLayering(t *testing.T) {
	may := map[string][]string{
		module:              {module + "/ring", module + "/encoder", module + "/xsk"},
		module + "/ring":    {},
		module + "/encoder": {},
		module + "/xsk":     {},
	}
	for pkg, allowed := range may {
		for _, dep := range list(t, "{{join .Imports \"\\n\"}}", pkg) {
			if strings.HasPrefix(dep, module) && !slices.Contains(allowed, dep) {
				t.Errorf("%s imports %s", pkg, dep)
			}
		}
	}
}

// An importer of the root package pulls in none of the libraries that only
// cmd, bench and the tests use.
func TestRootDependsOnLittle(t *testing.T) {
	allowed := []string{
		module,
		"github.com/cespare/xxhash/v2",
		"github.com/cilium/ebpf",
		"github.com/klauspost/cpuid/v2",
		"golang.org/x/sys",
	}
	for _, dep := range list(t, "{{if not .Standard}}{{.ImportPath}}{{end}}", "-deps", module) {
		ok := slices.ContainsFunc(allowed, func(a string) bool { return dep == a || strings.HasPrefix(dep, a+"/") })
		if !ok {
			t.Errorf("%s depends on %s", module, dep)
		}
	}
}

func list(t *testing.T, format string, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-f", format}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	return strings.Fields(string(out))
}
