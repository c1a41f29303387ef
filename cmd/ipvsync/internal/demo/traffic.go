package demo

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/ipvsync/ipvsync/encoder"
)

// Every connection of a worker goes through the states of its protocol again
// and again. Its updates are numbered in the firewall mark, from 1, so that the
// judge can tell what is missing and what came out of order.

// lifecycle is what a kernel master tells of a TCP connection.
var lifecycle = []encoder.State{encoder.TCPEstablished, encoder.TCPEstablished, encoder.TCPFinWait, encoder.TCPTimeWait, encoder.TCPClose}

// traffic makes the updates of one worker.
type traffic struct {
	worker int
	rng    *rand.Rand
	flows  []encoder.Conn
}

func newTraffic(worker, flows int) *traffic {
	t := &traffic{worker: worker, rng: rand.New(rand.NewPCG(uint64(worker), 1)), flows: make([]encoder.Conn, flows)}
	for i := range t.flows {
		c := &t.flows[i]
		c.Client, c.Virtual, c.Dest = endpoint(10, worker, i, 1024), endpoint(198, 51, 100<<8|1, 80), endpoint(172, 16, i%8+1, 8080)
		c.Protocol, c.Timeout = encoder.TCP, 900
		switch i % 8 {
		case 0:
			c.Protocol, c.Timeout, c.Virtual.Port, c.Dest.Port = encoder.UDP, 300, 53, 53
		case 1: // every eighth connection is IPv6
			for _, e := range []*encoder.Endpoint{&c.Client, &c.Virtual, &c.Dest} {
				v4 := e.Addr
				e.Family, e.Addr = encoder.IPv6, [16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8}
				copy(e.Addr[12:], v4[:4])
			}
		}
	}
	return t
}

func endpoint(a, b, rest int, port uint16) encoder.Endpoint {
	e := encoder.Endpoint{Family: encoder.IPv4, Port: port}
	binary.BigEndian.PutUint32(e.Addr[:], uint32(a)<<24|uint32(b)<<16|uint32(rest))
	return e
}

// next is the next update; it is lent until the one after it.
func (t *traffic) next() *encoder.Conn {
	c := &t.flows[t.rng.IntN(len(t.flows))]
	c.Fwmark++
	if c.Protocol == encoder.TCP {
		c.State = lifecycle[int(c.Fwmark)%len(lifecycle)]
		c.Flags = 0
		if c.State != encoder.TCPEstablished {
			c.Flags = encoder.FlagInactive
		}
	}
	return c
}
