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
