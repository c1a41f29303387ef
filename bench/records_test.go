package bench

import (
	"encoding/binary"
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

// encodeByHand writes a message of 40 plain IPv4 connections to m as opponents do:
// the fastest of the encodings by hand in encode_test.go.
func encodeByHand(m []byte, conns []ipvsync.Conn) {
	be := binary.BigEndian
	m = m[:messageSize]
	m[0], m[1], m[4], m[5], m[6], m[7] = 0, 0, recordsPerMessage, 1, 0, 0
	be.PutUint16(m[2:], messageSize)
	for i := range conns {
		c, r := &conns[i], (*[recordSize]byte)(m[8+i*recordSize:])
		r[0], r[1] = 0, byte(c.Protocol)
		be.PutUint16(r[2:], recordSize)
		be.PutUint32(r[4:], uint32(c.Flags))
		be.PutUint16(r[8:], uint16(c.State))
		be.PutUint16(r[10:], c.Client.Port)
		be.PutUint16(r[12:], c.Virtual.Port)
		be.PutUint16(r[14:], c.Dest.Port)
		be.PutUint32(r[16:], c.Fwmark)
		be.PutUint32(r[20:], c.Timeout)
		*(*[4]byte)(r[24:]) = [4]byte(c.Client.Addr[:4])
		*(*[4]byte)(r[28:]) = [4]byte(c.Virtual.Addr[:4])
		*(*[4]byte)(r[32:]) = [4]byte(c.Dest.Addr[:4])
	}
}

// encode writes the same message as fast as package encoder can: what a sender
// without rings does.
func encode(m []byte, conns []ipvsync.Conn) {
	m[0], m[1], m[2], m[3] = 0, 0, messageSize>>8, messageSize&0xff
	m[4], m[5], m[6], m[7] = recordsPerMessage, 1, 0, 0
	for i := range conns {
		encoder.PutPlainIPv4((*[recordSize]byte)(m[8+i*recordSize:]), &conns[i])
	}
}
