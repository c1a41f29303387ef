package xsktest_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// fake records how a test ended. It panics with itself where the real one would
// end the goroutine.
type fake struct {
	testing.TB
	how, message string
}

func (f *fake) Helper() {}

func (f *fake) Skipf(format string, args ...any) {
	f.how, f.message = "skipped", fmt.Sprintf(format, args...)
	panic(f)
}

func (f *fake) Fatalf(format string, args ...any) {
	f.how, f.message = "failed", fmt.Sprintf(format, args...)
	panic(f)
}

func TestSkipIsAFailureWhereRequired(t *testing.T) {
	for env, want := range map[string]fake{
		"":  {how: "skipped", message: "run as root"},
		"0": {how: "skipped", message: "run as root"},
		"1": {how: "failed", message: "required by IPVSYNC_REQUIRE=1: run as root"},
	} {
		t.Setenv(xsktest.Require, env)
		f := new(fake)
		func() {
			defer func() {
				if r := recover(); r != any(f) {
					t.Errorf("RequireRoot ended with %v", r)
				}
			}()
			xsktest.RequireRoot(f, errors.New("run as root"))
			t.Error("RequireRoot returned")
		}()
		if *f != want {
			t.Errorf("with %q: %s %q, want %s %q", env, f.how, f.message, want.how, want.message)
		}
		xsktest.RequireRoot(f, nil)
	}
}
