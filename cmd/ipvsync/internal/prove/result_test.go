package prove

import (
	"strings"
	"testing"

	"github.com/ipvsync/ipvsync/xsk"
)

// Drops are told as packets beside the messages that are missing, since the kernel
// counts a train as one.
func TestDropsAreTrains(t *testing.T) {
	r := Run{Mode: "udp-gso", Sent: 100_000, Lost: 2656, Count: Count{Arrived: 97_344, Stats: xsk.RxStats{SocketDrops: 83}}}
	var out strings.Builder
	r.text(&out)
	for _, say := range []string{"2.656%", "83 packets dropped by the receiver's kernel", "a train of messages, GSO or GRO, is one packet"} {
		if !strings.Contains(out.String(), say) {
			t.Errorf("does not say %q:\n%s", say, out.String())
		}
	}
}
