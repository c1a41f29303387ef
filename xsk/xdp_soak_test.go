package xsk

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// soakEnv is how long TestXDPSoak runs, such as 10m. Default: a moment.
const soakEnv = "XSK_SOAK"

// TestXDPSoak sends at full rate while the link goes down and up, at either end,
// and finds everything again: frames, mappings, descriptors, goroutines, and
// every message in the ledger. Messages come in order and none twice.
func TestXDPSoak(t *testing.T) {
	length := 2 * time.Second
	if s := os.Getenv(soakEnv); s != "" {
		var err error
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	a, b := xsktest.VethPair(t)
	goroutines, maps, fds := runtime.NumGoroutine(), mappings(t), openFiles(t)
	var lost uint64
	cfg := XDPConfig{Group: group4, Port: port, Lost: func([]byte) { lost++ }}
	rx, tx := openXDPRx(t, b, cfg), openXDPTx(t, a, cfg)

	received := make(chan uint64)
	var stop atomic.Bool
	go func() {
		var got, last uint64
		for !stop.Load() {
			batch, err := rx.Receive(10 * time.Millisecond)
			if err != nil && !errors.Is(err, ErrLinkDown) {
				t.Error(err)
				break
			}
			for _, d := range batch {
				n := binary.BigEndian.Uint64(d.Payload)
				if n <= last {
					t.Errorf("message %d comes behind %d", n, last)
				}
				last = n
				got++
			}
			rx.Release()
		}
		received <- got
	}()
	flapped := make(chan int)
	go func() {
		flaps := 0
		for ; !stop.Load(); flaps++ {
			e := []xsktest.End{a, b}[flaps%2]
			setLink(t, e, "down")
			time.Sleep(20 * time.Millisecond) // sets the pace, decides nothing
			xsktest.SetLink(t, e, true)
			time.Sleep(200 * time.Millisecond)
		}
		flapped <- flaps
	}()
	var sent uint64
	for end := time.Now().Add(length); time.Now().Before(end); {
		for range 64 {
			buf, err := tx.Next()
			if err != nil {
				break
			}
			sent++
			binary.BigEndian.PutUint64(buf, sent)
			tx.Commit(len(buf))
		}
		if err := tx.Flush(); errors.Is(err, ErrLinkDown) {
			_ = tx.Wait(time.Millisecond)
		}
	}
	stop.Store(true)
	flaps, got := <-flapped, <-received
	waitFor(t, func() bool { _ = tx.Flush(); _ = tx.Wait(time.Millisecond); return tx.Pending() == 0 })
	waitFor(t, func() bool { tx.q.Reap(); return tx.q.pool.count(frameFree) == defaultFrames })
	for {
		batch, err := rx.Receive(0)
		if err == nil && len(batch) == 0 {
			break
		}
		got += uint64(len(batch))
	}
	if n := rx.queues[0].q.pool.count(frameKernel); n != defaultFrames {
		t.Errorf("%d frames to receive of %d", n, defaultFrames)
	}
	s, r := tx.Stats(), rx.Stats()
	t.Logf("%d flaps, %d sent, %d received\n%+v\n%+v", flaps, sent, got, s, r)
	if s.Messages != sent || s.Packets+s.Errors != sent || s.Errors != lost || r.Messages != got || got > s.Packets || got == 0 {
		t.Errorf("the books do not balance: %d lost", lost)
	}
	wantXDPLedger(t, tx)
	if err := errors.Join(tx.Close(), rx.Close()); err != nil {
		t.Error(err)
	}
	waitFor(t, func() bool { return runtime.NumGoroutine() <= goroutines })
	if m, f := mappings(t), openFiles(t); m != maps || f != fds {
		t.Errorf("%d mappings and %d descriptors, %d and %d before", m, f, maps, fds)
	}
}
