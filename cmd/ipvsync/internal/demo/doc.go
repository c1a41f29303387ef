// Package demo runs a master with synthetic connections and a backup on one
// machine, over a real network path, and judges what arrived:
//
//	workers ──► ipvsync.Sender ──► veth pair, or loopback ──► ipvsync.Receiver ──► judge
//
// As root the path is a veth pair between two network namespaces of its own,
// with multicast as in earnest; otherwise it is unicast over loopback. Nothing
// leaves the machine, and nothing of it is left behind.
package demo
