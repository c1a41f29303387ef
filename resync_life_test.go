package ipvsync

import (
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// The MTU is lowered while a resync runs: what became too long is sent again, so
// every connection arrives.
func TestResyncMTULowered(t *testing.T) {
	a, b := xsktest.VethPair(t)
	const n = 5000
	var mu sync.Mutex
	seen := map[encoder.Endpoint]bool{}
	all := make(chan struct{})
	receive(t, b, ReceiverConfig{Link: Link{Mode: xsk.ModeUDP}}, func(m *Message) {
		mu.Lock()
		defer mu.Unlock()
		for i := range m.Conns {
			if len(seen) < n {
				if seen[m.Conns[i].Client] = true; len(seen) == n {
					close(all)
				}
			}
		}
	})
	s := send(t, a, reopenable(t, a, SenderConfig{Link: Link{Mode: xsk.ModeUDP}, Shards: 1}))
	st, err := Resync(t.Context(), s, func(yield func(Conn) bool) {
		for i := range n {
			if i == 1010 {
				if err := a.NS.Do(func() error {
					l, err := netlink.LinkByName(a.Name)
					if err != nil {
						return err
					}
					return netlink.LinkSetMTU(l, 700)
				}); err != nil {
					t.Error(err)
				}
			}
			if !yield(flow(i, 100)) {
				return
			}
		}
	}, ResyncConfig{})
	checkResync(t, st)
	if err != nil || st.Sent != n || st.Repeated == 0 {
		t.Fatalf("%+v, %v", st, err)
	}
	select {
	case <-all:
	case <-time.After(20 * time.Second):
		t.Error("not every connection has arrived")
	}
	_ = s.Close()
	s.closeErr = nil // a loss was to be expected
}
