package bench

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/encoder/kernellab"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

const (
	staleTime  = 5 * time.Second
	stalePort  = 20_000 // of the first client
	staleAfter = 5 * time.Second
)

// BenchmarkKernelStaleness: from a packet of a new connection, or from Publish, to
// the message on the wire that tells of it.
func BenchmarkKernelStaleness(b *testing.B) {
	rates := []int{10, 1000}
	for _, k := range []kernellab.Kernel{kernellab.Linux61, kernellab.Linux612} {
		b.Run(fmt.Sprintf("Linux %s master", k), func(b *testing.B) {
			g := bootKernel(b, k)
			for _, rate := range rates {
				b.Run(fmt.Sprintf("%d a second", rate), func(b *testing.B) {
					for b.Loop() {
						g.Reset(b)
						kernellab.NewMaster(b, g, 1, kernellab.DaemonOptions{})
						w := newWire(b, xsktest.End{NS: g.NS(), Name: kernellab.TapName})
						to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(kernellab.GuestAddr, 53))
						w.run(rate, func(client uint16) error {
							return g.NS().Do(func() error { return packetFrom(client, to) })
						})
						w.report()
					}
				})
			}
		})
	}
	for _, s := range []struct {
		name  string
		flush time.Duration
	}{{"ipvsync master, default", 0}, {"ipvsync master, immediately", ipvsync.Immediately}} {
		for _, rate := range rates {
			b.Run(fmt.Sprintf("%s/%d a second", s.name, rate), func(b *testing.B) {
				if testing.Short() {
					b.Skip("-short leaves this out: it takes as long as the kernel's")
				}
				needProcessors(b)
				for b.Loop() {
					l := newPath(b)
					var sender *ipvsync.Sender
					l.in(l.near, func() (err error) {
						sender, err = ipvsync.NewSender(ipvsync.SenderConfig{Link: ipvsync.Link{Interface: l.near.Name}, Shards: 1, FlushInterval: s.flush})
						return err
					})
					b.Cleanup(func() { sender.Close() })
					w := newWire(b, l.far)
					conn := conns[0]
					w.run(rate, func(client uint16) error {
						conn.Client.Port = client
						return sender.Publish(&conn)
					})
					w.report()
				}
			})
		}
	}
}

// packetFrom sends a UDP packet from a port of its own, which makes it a
// connection of its own. Nobody answers.
func packetFrom(client uint16, to *net.UDPAddr) error {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: int(client)})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.WriteToUDP([]byte("x"), to)
	return err
}

// wire hears the messages at one end of a link and knows when each client's
// connection came to be.
type wire struct {
	b    *testing.B
	done sync.WaitGroup

	mu    sync.Mutex
	came  map[uint16]time.Time
	ages  *hdrhistogram.Histogram
	empty chan struct{} // closed when all came and none is missing
	all   bool          // that will come have come
	sent  int
}

func newWire(b *testing.B, e xsktest.End) *wire {
	w := &wire{b: b, came: map[uint16]time.Time{}, ages: newHistogram(), empty: make(chan struct{})}
	var c *net.UDPConn
	err := e.NS.Do(func() error {
		ifi, err := net.InterfaceByName(e.Name)
		if err == nil {
			c, err = net.ListenMulticastUDP("udp4", ifi, &net.UDPAddr{IP: group.AsSlice(), Port: port})
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	w.done.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return // closed
			}
			w.hear(buf[:n], time.Now())
		}
	})
	b.Cleanup(func() {
		c.Close()
		w.done.Wait()
	})
	return w
}

func (w *wire) hear(message []byte, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var d encoder.Decoder
	var conn encoder.Conn
	d.Open(message)
	for reason, ok := d.Next(&conn); ok; reason, ok = d.Next(&conn) {
		if came, waits := w.came[conn.Client.Port]; waits && reason == encoder.Accepted {
			_ = w.ages.RecordValue(int64(now.Sub(came)))
			delete(w.came, conn.Client.Port)
		}
	}
	w.checkEmpty()
}

func (w *wire) checkEmpty() {
	if w.all && len(w.came) == 0 {
		select {
		case <-w.empty:
		default:
			close(w.empty)
		}
	}
}

// run has tell make a connection of a new client's port, by the clock, and waits
// for all of them to be heard of, or for longer than any kernel takes.
func (w *wire) run(rate int, tell func(client uint16) error) {
	w.sent = int(staleTime.Seconds() * float64(rate))
	start := time.Now()
	for i := range w.sent {
		due := start.Add(time.Duration(i) * time.Second / time.Duration(rate))
		sleepUntil(due)
		client := uint16(stalePort + i)
		w.mu.Lock()
		w.came[client] = due
		w.mu.Unlock()
		if err := tell(client); err != nil {
			w.b.Fatal(err)
		}
	}
	w.mu.Lock()
	w.all = true
	w.checkEmpty()
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(w.b.Context(), staleAfter)
	defer cancel()
	select {
	case <-w.empty:
	case <-ctx.Done(): // the row says what is missing
	}
}

func (w *wire) report() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ages.TotalCount() == 0 {
		w.b.Fatal("no connection was told of")
	}
	for _, q := range []float64{50, 99} {
		w.b.ReportMetric(float64(w.ages.ValueAtPercentile(q))/1e6, fmt.Sprintf("p%v-msec", q))
	}
	w.b.ReportMetric(float64(w.ages.Max())/1e6, "max-msec")
	w.b.ReportMetric(float64(w.sent), "records")
	w.b.ReportMetric(100*float64(len(w.came))/float64(w.sent), "lost-%")
	w.b.ReportMetric(0, "ns/op") // of no meaning
}
