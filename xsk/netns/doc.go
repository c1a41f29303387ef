// Package netns makes network namespaces and the links between them, for
// tests, demonstrations and benchmarks.
//
//	  namespace a                     namespace b                guest
//	┌──────────────────┐   veth   ┌──────────────────┐  tap  ┌─────────┐
//	│ lo   veth0 ──────┼──────────┼──── veth0   tap0─┼───────┤ eth0    │
//	│      10.99.0.1   │          │     10.99.0.2    │       │         │
//	└──────────────────┘          └──────────────────┘       └─────────┘
//
// A namespace has no name in the file system: a descriptor of this process
// holds it. It vanishes with the last descriptor, socket or process in it, so
// nothing stays behind even after a SIGKILL.
//
//	a, err := netns.New()
//	b, err := netns.New()
//	err = netns.Veth(a, b, netns.VethOptions{
//		A: netns.End{Name: "veth0", Addrs: []netip.Prefix{netip.MustParsePrefix("10.99.0.1/24")}},
//		B: netns.End{Name: "veth0", Addrs: []netip.Prefix{netip.MustParsePrefix("10.99.0.2/24")}},
//	})
//	err = a.Do(func() error { conn, err = net.Dial("udp", "10.99.0.2:8848"); return err })
//
// When Veth returns the link carries packets and its addresses, IPv6 ones
// included, may be bound: there is nothing left to wait for. A socket belongs
// to the namespace in which it was made and may be used outside of Do; a
// process started inside of Do inherits the namespace.
//
// Limits: Linux only, and the process needs CAP_SYS_ADMIN and CAP_NET_ADMIN
// (see [Supported]). The package knows nothing of testing; package xsktest
// adds that.
package netns
