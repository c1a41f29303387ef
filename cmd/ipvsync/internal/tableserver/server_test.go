package tableserver

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
		{"connections", url.Values{"clinet": {"192.0.2.1"}}, `"clinet": there is no such key, but format, protocol, client, `},
		{"connections", url.Values{"client": {"192.0.2.1", "192.0.2.2"}}, `"client" is there 2 times`},
		{"connections", url.Values{"format": {"xml"}}, "want text or json"},
		{"snapshot", url.Values{"client": {"192.0.2.1"}}, "takes no query"},
		{"stats", url.Values{"client": {"192.0.2.1"}}, "takes no query"},
		{"count", url.Values{"state": {"ESTABLISHD"}}, `state "ESTABLISHD": no protocol has it`},
		{"count", url.Values{"state": {"ESTABLISHED"}, "protocol": {"udp"}}, "udp has"},
		{"count", url.Values{"state": {"ASSURED"}, "template": {"false"}}, "no protocol has it"},
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
	if got, err := FilterFrom(f.Values()); got != f || err != nil {
		t.Errorf("%+v, want %+v; %v", got, f, err)
	}
	if _, err := f.Compile(); err != nil {
		t.Error(err)
	}
}

// A socket that one may not use is served, perhaps; one that is not there is not.
func TestDialError(t *testing.T) {
	for cause, want := range map[syscall.Errno]error{
		syscall.EACCES: ErrNoRight, syscall.EPERM: ErrNoRight, syscall.ENOENT: ErrNobody, syscall.ECONNREFUSED: ErrNobody,
	} {
		err := dialError("unix:///s", &url.Error{Op: "Get", Err: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", cause)}})
		if !errors.Is(err, want) || !errors.Is(err, cause) || errors.Is(err, ErrNoRight) && errors.Is(err, ErrNobody) {
			t.Errorf("%v: %v, want %v", cause, err, want)
		}
	}
}
