package ipvsync

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
)

// What All gives, Load takes: the same table, and the same lifetimes.
func TestTableLoad(t *testing.T) {
	clock := newTestClock()
	table := newTable(t, TableConfig{MaxEntries: 5000, Now: clock.now})
	r := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		conns := make([]Conn, 40)
		for i := range conns {
			conns[i] = randomConn(r)
			conns[i].Client.Addr[3] = byte(r.IntN(100))
		}
		table.Apply(conns)
		clock.advance(700 * time.Millisecond)
	}
	table.Expire()
	other := newTable(t, TableConfig{MaxEntries: 5000, Shards: 8, Now: clock.now})
	var want, got []string
	keys := map[string]bool{} // shadowed entries of a key that is there are kept out
	for e := range table.All() {
		f := e.Flags & (encoder.FlagTemplate | encoder.FlagNoCport)
		k := fmt.Sprint(KeyOf(&e.Conn), f)
		lost := kindOf(e.Flags, e.Client.Port, false) == kindLost
		if lost || !keys[k] {
			want = append(want, describeEntry(&e))
		}
		keys[k] = true
		if err := other.Load(e); err != nil {
			t.Fatal(err)
		}
	}
	for e := range other.All() {
		got = append(got, describeEntry(&e))
	}
	compareSorted(t, "entries", got, want)
	for e := range table.All() {
		a, okA := table.Lookup(KeyOf(&e.Conn))
		b, okB := other.Lookup(KeyOf(&e.Conn))
		if okA != okB || a.Client != b.Client {
			t.Errorf("%v: %v, loaded %v", &e.Conn, okA, okB)
		}
	}

	e := Entry{Conn: flow(1, 10)}
	if err := other.Load(e); err != nil || other.Stats().LoadsOver != 1 {
		t.Errorf("nothing left: %v", err)
	}
	e.Expires = time.Second
	for _, bad := range []func(*Entry){
		func(e *Entry) { e.Timeout = 0 }, func(e *Entry) { e.Flags |= encoder.FlagOnePacket },
		func(e *Entry) { e.Protocol = 99 }, func(e *Entry) { e.State = 11 }, func(e *Entry) { e.Dest.Family = encoder.IPv6 },
		func(e *Entry) { e.Client.Family = 0 },
	} {
		x := e
		bad(&x)
		if err := other.Load(x); !errors.Is(err, ErrUnloadable) {
			t.Errorf("%v: %v", &x.Conn, err)
		}
	}
	e.Expires = 1<<63 - 1
	e.Client.Addr[0] = 77
	if err := other.Load(e); err != nil {
		t.Fatal(err)
	}
	if got, ok := other.Lookup(KeyOf(&e.Conn)); !ok || got.Expires < 1<<62 {
		t.Errorf("the longest life: %v %v", ok, got.Expires)
	}
	other.Close()
	if err := other.Load(e); !errors.Is(err, ErrClosed) {
		t.Errorf("load after Close: %v", err)
	}
}
