package bench

import (
	"net/netip"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/encoder"
)

// flows makes n connections, all different, established.
func flows(n int) []ipvsync.Conn {
	conns := make([]ipvsync.Conn, n)
	for i := range conns {
		client := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		conns[i] = ipvsync.Conn{
			Protocol: encoder.TCP, State: encoder.TCPEstablished, Timeout: 900,
			Client:  encoder.EndpointFrom(netip.AddrPortFrom(client, 40000)),
			Virtual: encoder.EndpointFrom(netip.MustParseAddrPort("192.0.2.1:80")),
			Dest:    encoder.EndpointFrom(netip.MustParseAddrPort("198.51.100.7:8080")),
		}
	}
	return conns
}

// conns are what senders send, over and over: one message's worth.
var conns = flows(recordsPerMessage)

// message is conns as one message.
func message() []byte {
	m := make([]byte, messageSize)
	encode(m, conns)
	return m
}

// encode writes a message of 40 plain IPv4 connections to m, as fast as package
// encoder can: what a sender without rings does.
func encode(m []byte, conns []ipvsync.Conn) {
	m[0], m[1], m[2], m[3] = 0, 0, messageSize>>8, messageSize&0xff
	m[4], m[5], m[6], m[7] = recordsPerMessage, 1, 0, 0
	for i := range conns {
		encoder.PutPlainIPv4((*[recordSize]byte)(m[8+i*recordSize:]), &conns[i])
	}
}
