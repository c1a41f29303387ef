package demo

import (
	"errors"
	"strings"
	"testing"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/encoder"
)

// The verdict names what is missing, and is good only if nothing is.
func TestVerdict(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(updates []encoder.Conn) []encoder.Conn
		st     ipvsync.SenderStats
		err    error
		say    []string
	}{
		{"all", func(u []encoder.Conn) []encoder.Conn { return u }, ipvsync.SenderStats{Sent: 300}, nil, []string{"VERDICT: all 300 updates"}},
		{"last lost", func(u []encoder.Conn) []encoder.Conn { return u[:299] }, ipvsync.SenderStats{Sent: 300}, nil,
			[]string{"1 of 10 connections lack their last update", "1 updates were lost on the way"}},
		{"one lost", func(u []encoder.Conn) []encoder.Conn { return append(u[:9:9], u[10:]...) }, ipvsync.SenderStats{Sent: 300}, nil,
			[]string{"1 updates are missing between others", "1 updates were lost on the way"}},
		{"twice", func(u []encoder.Conn) []encoder.Conn { return append(u, u[299]) }, ipvsync.SenderStats{Sent: 300}, nil, []string{"1 updates came out of order"}},
		{"dropped", func(u []encoder.Conn) []encoder.Conn { return u }, ipvsync.SenderStats{Sent: 300, Dropped: [ipvsync.NumDropReasons]uint64{7}}, nil,
			[]string{"7 updates were dropped before they were sent"}},
		{"close failed", func(u []encoder.Conn) []encoder.Conn { return u }, ipvsync.SenderStats{Sent: 300}, errors.New("no carrier"), []string{"no carrier"}},
	} {
		workers := []*traffic{newTraffic(0, 10)}
		var updates []encoder.Conn
		for range 300 {
			updates = append(updates, *workers[0].next())
		}
		arrived := tc.change(updates)
		j := newJudge()
		j.handle(&ipvsync.Message{Conns: arrived})
		var out strings.Builder
		rst := ipvsync.ReceiverStats{Accepted: uint64(len(arrived))}
		err := judgement(&out, j, workers, &tc.st, &rst, tc.err)
		if good := tc.name == "all"; (err == nil) != good || !good && !errors.Is(err, ErrIncomplete) {
			t.Errorf("%s: %v", tc.name, err)
		}
		for _, say := range tc.say {
			if !strings.Contains(out.String(), say) {
				t.Errorf("%s: does not say %q: %s", tc.name, say, &out)
			}
		}
	}
}
