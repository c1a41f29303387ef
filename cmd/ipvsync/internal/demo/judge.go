package demo

import (
	"fmt"
	"sync"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/encoder"
)

// judge is the backup's handler: it counts the updates of every connection and
// keeps a sample. Its methods may be called from several goroutines.
type judge struct {
	mu       sync.Mutex
	last     map[key]uint32 // number of the last update of each connection
	records  uint64
	messages uint64
	gaps     uint64 // updates that an arrived one says are missing
	late     uint64 // updates that came after a later one, or twice
	sample   []string
	wanted   int // of the sample
}

type key struct {
	client, virtual encoder.Endpoint
	protocol        encoder.Protocol
}

func newJudge() *judge { return &judge{last: make(map[key]uint32)} }

func (j *judge) handle(m *ipvsync.Message) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.messages++
	for i := range m.Conns {
		c := &m.Conns[i]
		j.records++
		k := key{c.Client, c.Virtual, c.Protocol}
		switch last := j.last[k]; {
		case c.Fwmark <= last:
			j.late++
			continue
		case c.Fwmark > last+1:
			j.gaps += uint64(c.Fwmark - last - 1)
		}
		j.last[k] = c.Fwmark
	}
	if j.wanted > 0 && len(m.Conns) > 0 {
		j.wanted--
		j.sample = append(j.sample, m.Conns[0].String())
	}
}

// takeSample returns the sample so far and asks for n more records.
func (j *judge) takeSample(n int) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.sample
	j.sample, j.wanted = nil, n
	return s
}

func (j *judge) counts() (messages, records uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.messages, j.records
}

// verdict compares what arrived with the connections as the workers left them.
func (j *judge) verdict(workers []*traffic) (connections int, faults []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	stale := 0
	for _, t := range workers {
		for i := range t.flows {
			c := &t.flows[i]
			if c.Fwmark == 0 {
				continue
			}
			connections++
			if j.last[key{c.Client, c.Virtual, c.Protocol}] != c.Fwmark {
				stale++
			}
		}
	}
	if j.gaps > 0 {
		faults = append(faults, fmt.Sprintf("%d updates are missing between others", j.gaps))
	}
	if j.late > 0 {
		faults = append(faults, fmt.Sprintf("%d updates came out of order", j.late))
	}
	if stale > 0 {
		faults = append(faults, fmt.Sprintf("%d of %d connections lack their last update", stale, connections))
	}
	return connections, faults
}
