package main

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
)

// docs/operating.md explains every counter that there is, and none that there is
// not.
func TestOperatingNamesEveryCounter(t *testing.T) {
	b, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := strings.Split(string(b), "\n### ")
	row := regexp.MustCompile("(?m)^\\| `([A-Za-z_]+)` \\| ([^|]+) \\| ([^|]+) \\|$")
	want := map[string][]string{}
	for _, v := range []any{ipvsync.SenderStats{}, ipvsync.PortStats{}, ipvsync.ShardStats{}, ipvsync.ReceiverStats{}, xsk.TxStats{}, xsk.RxStats{}} {
		typ := reflect.TypeOf(v)
		for i := range typ.NumField() {
			want["`"+typ.Name()+"`"] = append(want["`"+typ.Name()+"`"], typ.Field(i).Name)
		}
	}
	for r := range ipvsync.DropReason(ipvsync.NumDropReasons) {
		want["Reasons to drop an update"] = append(want["Reasons to drop an update"], r.String())
	}
	for r := range encoder.Reason(encoder.NumReasons) {
		want["Reasons to refuse"] = append(want["Reasons to refuse"], r.Label())
	}
	for title, names := range want {
		i := slices.IndexFunc(sections, func(s string) bool { return strings.HasPrefix(s, title+"\n") })
		if i < 0 {
			t.Errorf("docs/operating.md has no section %q", title)
			continue
		}
		var have []string
		for _, m := range row.FindAllStringSubmatch(sections[i], -1) {
			have = append(have, m[1])
		}
		for _, n := range names {
			if !slices.Contains(have, n) {
				t.Errorf("docs/operating.md, %s: no line explains %s", title, n)
			}
		}
		for _, n := range have {
			if !slices.Contains(names, n) {
				t.Errorf("docs/operating.md, %s: there is no %s any more", title, n)
			}
		}
	}
}
