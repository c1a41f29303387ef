package xsk

import (
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/xsk/xsktest"
)

// mustOpen runs fn in the namespace of e. A kernel without AF_XDP skips the test.
func mustOpen(tb testing.TB, e xsktest.End, fn func() error) {
	tb.Helper()
	err := e.NS.Do(fn)
	if errors.Is(err, ErrUnsupported) {
		xsktest.SkipOrFail(tb, "%v: run on a kernel with CONFIG_XDP_SOCKETS and CONFIG_BPF_SYSCALL, 5.9 or later", err)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

func openXDPTx(tb testing.TB, e xsktest.End, cfg XDPConfig) *XDPTx {
	tb.Helper()
	cfg.Interface = e.Name
	var tx *XDPTx
	mustOpen(tb, e, func() (err error) { tx, err = OpenXDPTx(cfg); return err })
	tb.Cleanup(func() { tx.Close() })
	return tx
}

func openXDPRx(tb testing.TB, e xsktest.End, cfg XDPConfig) *XDPRx {
	tb.Helper()
	cfg.Interface = e.Name
	var rx *XDPRx
	mustOpen(tb, e, func() (err error) { rx, err = OpenXDPRx(cfg); return err })
	tb.Cleanup(func() { rx.Close() })
	return rx
}

// sendAll commits the messages and flushes until the kernel has them.
func sendAll(tb testing.TB, tx Tx, payloads ...[]byte) {
	tb.Helper()
	end := time.Now().Add(patience)
	try := func() {
		if err := tx.Flush(); err != nil {
			tb.Fatal(err)
		}
		if err := tx.Wait(time.Millisecond); err != nil {
			tb.Fatal(err)
		}
		if time.Now().After(end) {
			tb.Fatalf("%d messages still pending, %+v", tx.Pending(), tx.Stats())
		}
	}
	for _, p := range payloads {
		buf, err := tx.Next()
		for errors.Is(err, ErrNoFrame) {
			try()
			buf, err = tx.Next()
		}
		if err != nil {
			tb.Fatal(err)
		}
		tx.Commit(copy(buf, p))
	}
	for {
		if err := tx.Flush(); err != nil {
			tb.Fatal(err)
		}
		if tx.Pending() == 0 {
			return
		}
		try()
	}
}

// takeAll receives exactly n messages.
func takeAll(tb testing.TB, rx Rx, n int) []message {
	tb.Helper()
	var got []message
	for end := time.Now().Add(patience); len(got) < n; {
		batch, err := rx.Receive(100 * time.Millisecond)
		if err != nil && !errors.Is(err, ErrLinkDown) {
			tb.Fatal(err)
		}
		for _, d := range batch {
			got = append(got, message{string(d.Payload), d.Src})
		}
		rx.Release()
		if time.Now().After(end) {
			tb.Fatalf("got %d messages of %d, %+v", len(got), n, rx.Stats())
		}
	}
	if len(got) > n {
		tb.Fatalf("got %d messages, want %d", len(got), n)
	}
	return got
}

func sequences(n int) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		out[i] = []byte(sequence(i))
	}
	return out
}

// TestXDPRoundTrip sends from AF_XDP to AF_XDP.
func TestXDPRoundTrip(t *testing.T) {
	for _, group := range []netip.Addr{group4, group6} {
		t.Run(family(group), func(t *testing.T) {
			a, b := xsktest.VethPair(t)
			cfg := XDPConfig{Group: group, Port: port}
			rx, tx := openXDPRx(t, b, cfg), openXDPTx(t, a, cfg)
			sendAll(t, tx, sequences(100)...)
			got := takeAll(t, rx, 100)
			wantSequence(t, got, 100)
			if want := tx.Info().Local[0]; got[0].src != want {
				t.Errorf("from %s, want %s", got[0].src, want)
			}
		})
	}
}

func isErr(err, sentinel error, x **Error) bool {
	return errors.Is(err, sentinel) && errors.As(err, x)
}

// snmpValue finds a counter in the text of /proc/net/snmp, whose lines come in
// pairs of names and values, or snmp6. It returns -1 if there is none.
func snmpValue(text string, names ...string) int {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		f := strings.Fields(line)
		switch {
		case len(names) == 1 && len(f) == 2 && f[0] == names[0]:
			n, _ := strconv.Atoi(f[1])
			return n
		case len(names) == 2 && len(f) > 1 && f[0] == names[0]+":" && i+1 < len(lines):
			at := slices.Index(f, names[1])
			values := strings.Fields(lines[i+1])
			if at > 0 && at < len(values) {
				n, err := strconv.Atoi(values[at])
				if err == nil {
					return n
				}
			}
		}
	}
	return -1
}
