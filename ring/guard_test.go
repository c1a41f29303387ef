//go:build ringdebug

package ring

import "testing"

// A second producer between the first one's Reserve and Publish is found out.
func TestSecondProducerPanics(t *testing.T) {
	r := newSPSC(t, 1024)
	elsewhere := func(f func()) (caught any) {
		done := make(chan any)
		go func() {
			defer func() { done <- recover() }()
			f()
		}()
		return <-done
	}
	r.Reserve(8)
	if elsewhere(func() { r.Reserve(8) }) == nil {
		t.Error("a second producer reserves")
	}
	if elsewhere(r.Publish) == nil {
		t.Error("a second producer publishes")
	}
	r.Publish()
	if caught := elsewhere(func() { r.Reserve(8); r.Publish() }); caught != nil {
		t.Errorf("a ring that changed hands: %v", caught)
	}
}

// A record that was taken back leaves nothing reserved, also where it had begun the
// block anew.
func TestUnreserveLeaves(t *testing.T) {
	const size = 40
	r := newSPSC(t, 1024)
	wrapped := 0
	for range 100 {
		before := r.next
		r.Reserve(size)
		if r.next-before > uint64(FramedSize(size)) {
			wrapped++
		}
		r.Unreserve(size)
		if r.next != r.head {
			t.Fatalf("%d bytes are still reserved", r.next-r.head)
		}
		done := make(chan any)
		go func() {
			defer func() { done <- recover() }()
			r.Reserve(size)
			r.Publish()
		}()
		if caught := <-done; caught != nil {
			t.Fatal(caught)
		}
		run := r.Look()
		for _, ok := run.Peek(); ok; _, ok = run.Peek() {
			run.Advance()
		}
		r.Release(run)
	}
	if wrapped == 0 {
		t.Error("no record began the block anew")
	}
}
