package tableserver

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/encoder"
)

// serve serves a table with one connection and gives a client.
func serve(t *testing.T) (*ipvsync.Table, *Client) {
	t.Helper()
	table, err := ipvsync.NewTable(ipvsync.TableConfig{MaxEntries: 100})
	if err != nil {
		t.Fatal(err)
	}
	e := func(s string) encoder.Endpoint { return encoder.EndpointFrom(netip.MustParseAddrPort(s)) }
	table.Apply([]ipvsync.Conn{{Client: e("192.0.2.1:1"), Virtual: e("192.0.2.2:2"), Dest: e("192.0.2.3:3"),
		Protocol: encoder.TCP, State: encoder.TCPEstablished, Timeout: 60},
		{Client: e("192.0.2.1:1"), Virtual: e("192.0.2.2:2"), Dest: e("192.0.2.3:3"), Protocol: encoder.TCP, Flags: encoder.FlagOnePacket}})
	path := filepath.Join(t.TempDir(), "socket")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := http.Server{Handler: Handler(table)}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		<-ended
		table.Close()
	})
	c, err := NewClient("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	return table, c
}

func TestGet(t *testing.T) {
	table, c := serve(t)
	for what, want := range map[string]string{"connections": `"expires":`, "count": `"total":1`, "stats": `"Added":1,`, "stats?": `"Ignored":{"closed":0,"inactive":0,"invalid":0,"one_packet":1,"template_no_cport":0}`} {
		body, err := c.Get(t.Context(), strings.TrimSuffix(what, "?"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(body); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: %s, %v", what, text, err)
		}
		body.Close()
	}
	body, err := c.Get(t.Context(), "snapshot", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	other, err := ipvsync.NewTable(ipvsync.TableConfig{MaxEntries: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if st, err := other.Restore(body); err != nil || st.Loaded != uint64(table.Len()) {
		t.Errorf("%+v, %v", st, err)
	}
	for _, tc := range []struct {
		what  string
		query url.Values
		say   string
	}{
		{"nothing", nil, "404"}, {"connections", url.Values{"client": {"here"}}, "want an address"}, {"count", url.Values{"template": {"perhaps"}}, "true or false"},
	} {
		if _, err := c.Get(t.Context(), tc.what, tc.query); err == nil || !strings.Contains(err.Error(), tc.say) {
			t.Errorf("%s: %v, want %q", tc.what, err, tc.say)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Get(ctx, "count", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestFilterRoundTrip(t *testing.T) {
	f := Filter{Protocol: "tcp", Client: "192.0.2.0/24", Virtual: "192.0.2.2:2", Dest: "192.0.2.3", State: "established", Template: "false"}
	if got := FilterFrom(f.Values()); got != f {
		t.Errorf("%+v, want %+v", got, f)
	}
	if _, err := f.Compile(); err != nil {
		t.Error(err)
	}
}
