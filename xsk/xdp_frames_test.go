package xsk

import (
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk/netns"
	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// TestXDPFrameLimit: in copy mode the kernel leaves 256 bytes of a frame free,
// so that one of 2048 holds packets of 1792 bytes, and drops longer ones.
func TestXDPFrameLimit(t *testing.T) {
	a, b := xsktest.VethPairWith(t, netns.VethOptions{MTU: 3000})
	tx := openXDPTx(t, a, XDPConfig{Group: group4, Port: port, FrameSize: 4096})
	const headers = 14 + 20 + 8
	rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port})
	if n := rx.Info().MaxPayload; n != 1792-headers {
		t.Errorf("MaxPayload %d, want %d", n, 1792-headers)
	}
	sendAll(t, tx, pattern(1792-headers), pattern(1793-headers), []byte("behind"))
	got := takeAll(t, rx, 2)
	if got[0].payload != string(pattern(1792-headers)) || got[1].payload != "behind" {
		t.Errorf("got %d and %d bytes", len(got[0].payload), len(got[1].payload))
	}
	if _, err := rx.Receive(0); err != nil || rx.Stats().SocketDrops != 1 || rx.KernelStats()[0].RxDropped != 1 {
		t.Errorf("%+v %+v %v, want one dropped", rx.Stats(), rx.KernelStats(), err)
	}
	rx.Close()
	rx = openXDPRx(t, b, XDPConfig{Group: group4, Port: port, FrameSize: 4096, MaxPayload: 2900})
	sendAll(t, tx, pattern(1793-headers), pattern(2900), pattern(2901))
	got = takeAll(t, rx, 2)
	if got[1].payload != string(pattern(2900)) || len(got[0].payload) != 1793-headers {
		t.Errorf("got %d and %d bytes", len(got[0].payload), len(got[1].payload))
	}
	if _, err := rx.Receive(0); err != nil || rx.Stats().Truncated != 1 {
		t.Errorf("%+v %v, want one longer than MaxPayload", rx.Stats(), err)
	}
}

// TestXDPStarvation: with all frames used up packets are dropped and counted,
// and with the frames given back it goes on.
func TestXDPStarvation(t *testing.T) {
	a, b := xsktest.VethPair(t)
	rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port, RxFrames: 64, Batch: 16})
	tx := openXDPTx(t, a, XDPConfig{Group: group4, Port: port})
	for range 3 {
		before := rx.Stats()
		sendAll(t, tx, sequences(200)...)
		wantSequence(t, takeAll(t, rx, 64), 64)
		if batch, err := rx.Receive(0); len(batch) != 0 || err != nil {
			t.Errorf("%d messages more, %v", len(batch), err)
		}
		if s := rx.Stats(); s.SocketDrops-before.SocketDrops != 200-64 {
			t.Errorf("%+v, want %d dropped", s, 200-64)
		}
		if k := rx.KernelStats()[0]; k.RxFillEmpty == 0 && k.RxRingFull == 0 {
			t.Errorf("%+v, want a reason", k)
		}
	}
	if k := rx.queues[0].q.pool.count(frameKernel); k != 64 {
		t.Errorf("the kernel has %d frames of 64", k)
	}
}

// TestXDPConservation sends a million packets and finds every frame again.
func TestXDPConservation(t *testing.T) {
	n := 1_000_000
	if testing.Short() || raceEnabled {
		n = 50_000
	}
	a, b := xsktest.VethPair(t)
	rx := openXDPRx(t, b, XDPConfig{Group: group4, Port: port, RxFrames: 4096})
	tx := openXDPTx(t, a, XDPConfig{Group: group4, Port: port})
	done := make(chan struct{})
	var got uint64
	go func() {
		defer close(done)
		for {
			batch, err := rx.Receive(time.Second)
			if err != nil {
				return
			}
			got += uint64(len(batch))
			for _, d := range batch {
				if len(d.Payload) == 1 && d.Payload[0] == 'E' {
					rx.Release()
					return
				}
			}
			rx.Release()
		}
	}()
	deadline := time.Now().Add(3 * patience)
	for i := 0; i < n && time.Now().Before(deadline); {
		for range 64 {
			if buf, err := tx.Next(); err == nil {
				buf[0] = 'm'
				tx.Commit(100)
				i++
			}
		}
		_ = tx.Flush() // drops of a full receiver are counted
	}
	for range 1000 { // the end mark may be dropped as well
		commitOne(tx, "E")
		_ = tx.Flush()
		select {
		case <-done:
		case <-time.After(time.Millisecond):
			continue
		}
		break
	}
	rx.Wake()
	<-done
	waitFor(t, func() bool {
		_ = tx.Flush()
		tx.q.Reap()
		return tx.Pending() == 0 && tx.q.pool.count(frameFree) == defaultFrames
	})
	if rx.Release(); rx.queues[0].q.pool.count(frameKernel)+rx.queues[0].q.Ready() < 4096 {
		for { // what came behind the end mark
			batch, err := rx.Receive(0)
			if err != nil || len(batch) == 0 {
				break
			}
			got += uint64(len(batch))
		}
	}
	batch, err := rx.Receive(0)
	for err == nil && len(batch) > 0 {
		got += uint64(len(batch))
		batch, err = rx.Receive(0)
	}
	rx.Release()
	if k := rx.queues[0].q.pool.count(frameKernel); k != 4096 {
		t.Errorf("the kernel has %d frames to receive of 4096", k)
	}
	ts, rs := tx.Stats(), rx.Stats()
	t.Logf("%+v\n%+v", ts, rs)
	if ts.Packets != rs.Messages+rs.SocketDrops || got != rs.Messages || tx.q.n.invalid != 0 || rs.Errors != 0 {
		t.Errorf("%d sent, %d received and %d dropped", ts.Packets, rs.Messages, rs.SocketDrops)
	}
	wantXDPLedger(t, tx)
}
