package xsk

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A device that the environment gives instead of a veth pair, and what to do
// with it: for runs inside of other kernels, on other drivers.
const (
	givenEnv = "XSK_TEST_INTERFACE"
	roleEnv  = "XSK_TEST_ROLE" // to send: send, send-zerocopy, hold-zerocopy; to receive: native, generic, zerocopy
)

// givenMessages is what either side sends.
const givenMessages = 500

// TestXDPGivenDevice sends or receives by the given device. The test at the
// other end is TestKernelVirtio.
func TestXDPGivenDevice(t *testing.T) {
	name := os.Getenv(givenEnv)
	if name == "" {
		return // no device is given
	}
	cfg := XDPConfig{Interface: name, Group: group4, Port: port, TxFrames: 512, RxFrames: 512}
	d, err := LookAtDevice(name)
	fmt.Printf("\n%+v %v\n", d, err)
	role := os.Getenv(roleEnv)
	how, zerocopy := strings.CutSuffix(role, "zerocopy")
	if zerocopy {
		cfg.Mode = ZeroCopyRequired
	}
	if how == "hold-" { // the queue, until the end is asked for
		end := make(chan os.Signal, 1)
		signal.Notify(end, unix.SIGTERM, unix.SIGINT)
		tx, err := OpenXDPTx(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Close()
		fmt.Printf("%+v\nready\n", tx.Info())
		fmt.Printf("%v\n%+v\n", <-end, tx.KernelStats())
		return
	}
	if how == "send" || how == "send-" {
		tx, err := OpenXDPTx(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Close()
		fmt.Printf("%+v\n", tx.Info())
		sendAll(t, tx, sequences(givenMessages)...)
		waitFor(t, func() bool { tx.q.Reap(); return tx.q.pool.count(frameFree) == 512 })
		return
	}
	cfg.GenericOnly = role == "generic"
	rx, err := OpenXDPRx(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer rx.Close()
	fmt.Printf("%+v\nready\n", rx.Info())
	seen := 0
	for end := time.Now().Add(patience); seen < givenMessages && time.Now().Before(end); {
		batch, err := rx.Receive(time.Second)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range batch {
			if string(m.Payload) != sequence(seen) {
				t.Fatalf("message %d is %q", seen, m.Payload)
			}
			seen++
		}
		rx.Release()
	}
	fmt.Printf("%+v\nreceived %d\n", rx.Stats(), seen)
}
