// Package kernellab boots a stock Linux kernel with IPVS as a peer for tests,
// in a few seconds, without hardware help and without touching the host.
//
//	      namespace of the guest                     QEMU, kernel 6.1 or 6.12
//	┌─────────────────────────────────┐        ┌──────────────────────────────────┐
//	│ test code in Guest.NS().Do      │  tap0  │ eth0   namespace "lab": IPVS,    │
//	│ 10.88.0.1, fd00:88::1 ──────────┼────────┼─────── 10.88.0.2, fd00:88::2     │
//	│ 224.0.0.0/4, ff00::/8           │        │        namespace "rs": a server  │
//	│                                 │  ctl0  │ eth1                             │
//	│ Run, Put, Reset ────────────────┼────────┼─────── 10.87.0.2, an HTTP server │
//	└─────────────────────────────────┘        └──────────────────────────────────┘
//
// As a backup the kernel says what it makes of a message:
//
//	g := kernellab.Boot(t, kernellab.Linux61)
//	g.StartBackup(t, 7, kernellab.DaemonOptions{})
//	// … send messages to 224.0.0.81:8848 from inside g.NS().Do …
//	g.Settle(t)            // all of them are handled now
//	conns := g.Conns(t)    // what /proc/net/ip_vs_conn lists
//	g.Reset(t)             // an empty table again, cheaper than a boot
//
// As a master it says what a message looks like, through real traffic:
//
//	m := kernellab.NewMaster(t, g, 1, kernellab.DaemonOptions{})
//	msgs := m.Play(t, kernellab.Steps...)
//
// # What it needs
//
// Root (namespaces, tap devices), and from Debian: qemu-system-x86,
// busybox-static, ipvsadm, iproute2, xz-utils. [Setup] installs what is missing
// if it can. The kernels are Debian 12's signed packages, found by apt-cache,
// downloaded once, unpacked and never installed, and kept in
// $IPVSYNC_CACHE or the user's cache directory, some 20 MB each. To get a newer
// build of a kernel, delete its directory there. Where any of this cannot be had,
// [Boot] skips the test and says what to do, or fails under IPVSYNC_REQUIRE=1.
//
// # Limits
//
// The processor is emulated (never KVM, which may hang nested): a guest is some
// twenty times slower than the host, its clock is coarse, and nothing measured in
// it is a benchmark. AF_XDP zero-copy does not work on its virtual NIC. A guest
// is one machine: concurrent calls are safe, but see each other's effects.
// Listings of /proc are no atomic snapshots.
package kernellab
