package ipvsync

import (
	"time"

	"github.com/ipvsync/ipvsync/encoder"
)

// A replacedConn is one that the kernel may still list: when its timer meets the
// backup's thread, which has yet to let go of it, the kernel looks again after a
// minute (TestLab/replaced).
type replacedConn struct {
	client encoder.Endpoint // without the port
	at     time.Time
	seen   bool // listed afterwards
}

const putOff = time.Minute

// isPutOff says whether what the kernel lists of a line more than the table is a
// connection that was replaced, whose end is put off. Once the new one is over, a
// record would find it again: so its client is left alone for as long.
func (p *kernelProgram) isPutOff(line string, kernel, table []time.Duration) bool {
	r, ok := p.replaced[line]
	more := len(kernel) - len(table)
	for _, left := range kernel {
		if left <= putOff-time.Since(r.at)+time.Second {
			more--
		}
	}
	if !ok || len(kernel) <= len(table) || more > 0 {
		return false
	}
	if !r.seen {
		r.seen = true
		p.replaced[line] = r
		p.putOffs++
	}
	p.silence(r.client, putOff+time.Second)
	return true
}

// replaceUntilPutOff replaces connections over and over, until the kernel puts off
// an end, which takes a second or two.
func (p *kernelProgram) replaceUntilPutOff() {
	before := p.putOffs
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		for i := range 500 {
			var conns []Conn
			for port := range 30 {
				c := flow(1<<20+port, 900)
				c.Dest.Port = uint16(8000 + i%2)
				conns = append(conns, c)
			}
			p.send(conns)
		}
		p.g.Settle(p.t)
		if p.compare(); p.putOffs > before {
			return
		}
	}
	p.t.Errorf("the kernel put off no end: does it do so no more?")
}
