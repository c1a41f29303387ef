package xsk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// Messages of several ports all arrive, each port's in order, in trains too;
// Wake and Close end a Receive under way.
func TestUDPPorts(t *testing.T) {
	const ports, each = 3, 2000
	a, b := xsktest.VethPair(t)
	var rx Rx
	if err := b.NS.Do(func() (err error) {
		rx, _, err = OpenRx(ModeUDPGSO, Config{
			XDPConfig: XDPConfig{Interface: b.Name, Group: group4, Port: port, LastPort: port + ports - 1}, RcvBuf: 64 << 20,
		})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer rx.Close()
	rx.Wake()
	if batch, err := rx.Receive(-1); len(batch) != 0 || err != nil {
		t.Fatalf("woken: %d messages, %v", len(batch), err)
	}
	for i := range ports {
		var tx Tx
		if err := a.NS.Do(func() (err error) {
			tx, _, err = OpenTx(ModeUDPGSO, Config{XDPConfig: XDPConfig{Interface: a.Name, Group: group4, Port: port + i, MaxPayload: 1400}})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer tx.Close()
		for n := range each {
			for {
				buf, err := tx.Next()
				if err == nil {
					binary.BigEndian.PutUint32(buf, uint32(i))
					binary.BigEndian.PutUint32(buf[4:], uint32(n))
					tx.Commit(1000) // many to a train: more than a batch takes
					break
				}
				if err := errors.Join(tx.Flush(), tx.Wait(time.Second)); err != nil {
					t.Fatal(err)
				}
			}
		}
		for tx.Pending() > 0 {
			if err := errors.Join(tx.Flush(), tx.Wait(time.Second)); err != nil {
				t.Fatal(err)
			}
		}
	}
	var next [ports]uint32
	for got := 0; got < ports*each; {
		batch, err := rx.Receive(5 * time.Second)
		if err != nil || len(batch) == 0 {
			t.Fatalf("after %d messages: %v; %+v", got, err, rx.Stats())
		}
		for _, d := range batch {
			i, n := binary.BigEndian.Uint32(d.Payload), binary.BigEndian.Uint32(d.Payload[4:])
			if n != next[i] {
				t.Fatalf("port %d: message %d, want %d", i, n, next[i])
			}
			next[i]++
		}
		got += len(batch)
		rx.Release()
	}
	if st := rx.Stats(); st.Messages != ports*each || st.Bytes != ports*each*1000 || st.SocketDrops != 0 {
		t.Errorf("%+v", st)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := rx.Receive(-1)
		ended <- err
	}()
	if err := rx.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("Receive after Close: %v", err)
	}
}

// Where a port's first messages are all dropped, those behind them do not wait for
// the next event: none comes for what has arrived before.
func TestUDPPortsBehindDropped(t *testing.T) {
	a, b := xsktest.VethPair(t)
	const batch, long = 4, 200
	var r *udpRxPorts
	in(t, b, func() error {
		rx, err := openUDPRx(UDPConfig{
			Interface: b.Name, Group: group4, Port: port, Batch: batch, MaxPayload: long / 2, GRO: OffloadOff,
		}, port+1)
		if err == nil {
			r = rx.(*udpRxPorts)
		}
		return err
	})
	defer r.Close()
	tx := openTx(t, a, UDPConfig{Group: group4, Port: port + 1})
	for range 2 * batch {
		put(t, tx, make([]byte, long))
	}
	put(t, tx, []byte("short"))
	flush(t, tx)
	fd := r.rx[1].fd
	waitFor(t, func() bool { // the last one is there
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, 2*batch*long); err != nil {
			t.Fatal(err)
		}
		var buf [long]byte
		n, _, err := unix.Recvfrom(fd, buf[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return err == nil && string(buf[:n]) == "short"
	})
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, -1); err != nil {
		t.Fatal(err)
	}
	for {
		batch, err := r.Receive(-1)
		if err != nil {
			t.Fatal(err)
		}
		if len(batch) > 0 {
			break
		}
	}
	if st := r.Stats(); st.Messages != 1 || st.Truncated != 2*batch || st.Waits != 0 {
		t.Errorf("%+v", st)
	}
}

// A port in use is an error, and the others are let go.
func TestUDPPortsInUse(t *testing.T) {
	a, _ := xsktest.VethPair(t)
	if err := a.NS.Do(func() error {
		one, err := net.ListenPacket("udp4", fmt.Sprintf("0.0.0.0:%d", port+2)) // without SO_REUSEADDR
		if err != nil {
			return err
		}
		defer one.Close()
		cfg := UDPConfig{Interface: a.Name, Port: port, Unicast: true}
		if rx, err := openUDPRx(cfg, port+2); !errors.Is(err, ErrInUse) || rx != nil {
			t.Errorf("%v, %v", rx, err)
		}
		rx, err := openUDPRx(cfg, port+1)
		if err != nil {
			return err
		}
		return rx.Close()
	}); err != nil {
		t.Error(err)
	}
}
