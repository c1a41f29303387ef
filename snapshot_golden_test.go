package ipvsync

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
)

// A snapshot of version 1, field by field as docs/snapshot.md has it: what is on
// disks somewhere must stay readable.
const goldenSnapshot = `
69707673796e6300 0100 2000 00000000 05002a36fe9c9717 b2b4fd383173e5eb
87000000 02000000
00 06 0100 2301 0000 0004 5000 901f 0000 04030201 84030000 409d953fcf000000
0a000001 c0000201 c6336401
01 11 0100 2010 0b00 0000 5000 901f 0000 00000000 3c000000 40cdaeab0b000000
0a000002000000000000000000000001 c0000201000000000000000000000001 c6336401000000000000000000000001
020463616c6c 0303736970
f27fafe2afc03515
08000000 00000000 0200000000000000 f85707e06891adfb
`

func TestSnapshotGolden(t *testing.T) {
	clock := newTestClock()
	table := newTable(t, TableConfig{MaxEntries: 10, Shards: 1, Now: clock.now})
	four, six := flow(1, 900), flow6(2, 60)
	four.Fwmark, four.Flags = 0x01020304, encoder.FlagInactive|encoder.FwdDRoute
	six.Protocol, six.State, six.Flags = encoder.UDP, encoder.TemplateAssured, encoder.FlagTemplate
	six.Client.Port = 0
	six.Options, _ = six.Options.AppendPE("sip", []byte("call"))
	table.Apply([]Conn{four, six})
	clock.advance(10 * time.Second)
	got := snapshotOf(t, table, time.Unix(1700000000, 5))
	want, err := hex.DecodeString(strings.Join(strings.Fields(goldenSnapshot), ""))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("got\n%x\nwant\n%x", got, want)
	}
}
