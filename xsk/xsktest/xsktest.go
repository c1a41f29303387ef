// Package xsktest helps tests and benchmarks that need the real thing: network
// namespaces and links between them, which take root.
//
// A test that cannot run is skipped, and the message says what would make it
// run. With IPVSYNC_REQUIRE=1 in the environment it fails instead: on a machine
// that ought to be able, a skipped test is a test that nobody runs.
package xsktest

import (
	"net/netip"
	"os"
	"testing"

	"github.com/ipvsync/ipvsync/xsk/netns"
)

// Require is the environment variable that turns skips into failures, if it is "1".
const Require = "IPVSYNC_REQUIRE"

// SkipOrFail ends the test: as skipped, or as failed if IPVSYNC_REQUIRE=1. The
// message should say what to do to run it.
func SkipOrFail(tb testing.TB, format string, args ...any) {
	tb.Helper()
	if os.Getenv(Require) == "1" {
		tb.Fatalf("required by "+Require+"=1: "+format, args...)
	}
	tb.Skipf(format, args...)
}

// RequireRoot does nothing if err is nil, and otherwise ends the test like
// SkipOrFail. err is the answer of a probe like netns.Supported.
func RequireRoot(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		SkipOrFail(tb, "%v", err)
	}
}

// Namespace makes a network namespace that goes with the test.
func Namespace(tb testing.TB) *netns.NS {
	tb.Helper()
	RequireRoot(tb, netns.Supported())
	ns, err := netns.New()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { ns.Close() })
	return ns
}

// End is one end of a veth pair, with the namespace that it is in.
type End struct {
	NS    *netns.NS
	Name  string     // of the interface
	Addr4 netip.Addr // in a /24 with the other end's
	Addr6 netip.Addr // in a /64 with the other end's
}

// VethPair makes two namespaces joined by a veth pair, both of which go with
// the test: veth0 with 10.99.0.1 and fd99::1 in the first, veth0 with 10.99.0.2
// and fd99::2 in the second.
func VethPair(tb testing.TB) (a, b End) {
	tb.Helper()
	return VethPairWith(tb, netns.VethOptions{})
}

// VethPairWith is VethPair with an MTU and a number of queues; the names and
// addresses in opts are not used.
func VethPairWith(tb testing.TB, opts netns.VethOptions) (a, b End) {
	tb.Helper()
	a = End{Name: "veth0", Addr4: netip.MustParseAddr("10.99.0.1"), Addr6: netip.MustParseAddr("fd99::1")}
	b = End{Name: "veth0", Addr4: netip.MustParseAddr("10.99.0.2"), Addr6: netip.MustParseAddr("fd99::2")}
	a.NS, b.NS = Namespace(tb), Namespace(tb)
	opts.A, opts.B = a.link(), b.link()
	if err := netns.Veth(a.NS, b.NS, opts); err != nil {
		tb.Fatal(err)
	}
	return a, b
}

func (e End) link() netns.End {
	return netns.End{Name: e.Name, Addrs: []netip.Prefix{
		netip.PrefixFrom(e.Addr4, 24), netip.PrefixFrom(e.Addr6, 64),
	}}
}

// SetLink sets the interface of e up or down.
func SetLink(tb testing.TB, e End, up bool) {
	tb.Helper()
	if err := netns.SetLink(e.NS, e.Name, up); err != nil {
		tb.Fatal(err)
	}
}
