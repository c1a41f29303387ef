package ipvsync

import (
	"bytes"
	"testing"

	"github.com/ipvsync/ipvsync/encoder"
)

// An engine's name ends at a zero byte, for KeyOf too.
func TestKeyOfEngineName(t *testing.T) {
	table := newTable(t, TableConfig{MaxEntries: 100})
	c := flow(1, 60)
	c.Protocol, c.State, c.Flags = encoder.UDP, encoder.TemplateAssured, encoder.FlagTemplate
	o, err := encoder.Options(nil).AppendPE("sip", []byte("call"))
	if err != nil {
		t.Fatal(err)
	}
	if at := bytes.Index(o, []byte("sip")); at < 0 {
		t.Fatal("no name")
	} else {
		o[at+1] = 0
	}
	c.Options = o
	table.Apply([]Conn{c})
	if e, ok := table.Lookup(KeyOf(&c)); !ok || table.Len() != 1 {
		t.Errorf("%q: not found: %v, %d entries", o, &e.Conn, table.Len())
	}
}
