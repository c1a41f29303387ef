package tableserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// Client asks a server.
type Client struct {
	http http.Client
	base string
	url  string
}

// NewClient takes unix:///run/ipvsync.sock, or http://… or https://…, what a
// proxy in front of the socket is called.
func NewClient(addr string) (*Client, error) {
	u, err := url.Parse(addr)
	switch {
	case err != nil:
		return nil, err
	case u.Scheme == "unix" && u.Path != "":
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", u.Path)
		}
		return &Client{http.Client{Transport: &http.Transport{DialContext: dial}}, "http://ipvsync", addr}, nil
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		return &Client{http.Client{}, strings.TrimSuffix(addr, "/"), addr}, nil
	}
	return nil, fmt.Errorf("%q: want unix:///path/of/socket, or an http or https URL", addr)
}

// IsURL says whether NewClient is for it, rather than for a file.
func IsURL(s string) bool {
	return strings.HasPrefix(s, "unix://") || strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://")
}

// ErrNobody says that nobody serves a table there.
var ErrNobody = errors.New("nobody serves a table there: is ipvsync backup --table --listen running?")

// ErrNoRight says that the socket is another user's.
var ErrNoRight = errors.New("no right to use the socket, which is for its owner alone: run this as the user of ipvsync backup, or as root")

// dialError says what kept a request from being answered.
func dialError(where string, err error) error {
	op := new(net.OpError)
	switch {
	case !errors.As(err, &op) || op.Op != "dial":
		return fmt.Errorf("ask %s: %w", where, err)
	case errors.Is(op.Err, fs.ErrPermission):
		return fmt.Errorf("ask %s: %w: %w", where, ErrNoRight, op.Err)
	}
	return fmt.Errorf("ask %s: %w: %w", where, ErrNobody, op.Err)
}

// Get asks for what, such as connections, and gives the answer as it comes. The
// caller closes it.
func (c *Client) Get(ctx context.Context, what string, query url.Values) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/v1/"+what+"?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, dialError(c.url, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return nil, fmt.Errorf("ask %s: %s: %s", c.url, resp.Status, strings.TrimSpace(string(text)))
	}
	return resp.Body, nil
}
