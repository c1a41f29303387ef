package tableserver

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/ipvsync/ipvsync/encoder"
)

// Filter chooses connections. What is not set matches everything.
type Filter struct {
	Protocol string // tcp, udp, …, or a number
	Client   string // an address, an address and port, or a prefix
	Virtual  string
	Dest     string
	State    string // by name
	Template string // "true": only templates; "false": only connections
}

// Values is the filter as a query.
func (f *Filter) Values() url.Values {
	v := url.Values{}
	for _, p := range f.parts() {
		if *p.value != "" {
			v.Set(p.name, *p.value)
		}
	}
	return v
}

// FilterFrom reads a query. A key that is no part of a filter, nor one of others,
// is an error, and so is one that is there twice: either would answer another question
// than was asked.
func FilterFrom(v url.Values, others ...string) (f Filter, err error) {
	known := slices.Clone(others)
	for _, p := range f.parts() {
		*p.value = v.Get(p.name)
		known = append(known, p.name)
	}
	for _, key := range slices.Sorted(maps.Keys(v)) {
		switch {
		case !slices.Contains(known, key):
			return Filter{}, fmt.Errorf("%q: there is no such key, but %s", key, strings.Join(known, ", "))
		case len(v[key]) > 1:
			return Filter{}, fmt.Errorf("%q is there %d times", key, len(v[key]))
		}
	}
	return f, nil
}

type part struct {
	name  string
	value *string
}

func (f *Filter) parts() []part {
	return []part{{"protocol", &f.Protocol}, {"client", &f.Client}, {"virtual", &f.Virtual}, {"dest", &f.Dest},
		{"state", &f.State}, {"template", &f.Template}}
}

// Compile checks the filter and gives the test that it stands for.
func (f *Filter) Compile() (func(*encoder.Conn) bool, error) {
	var tests []func(*encoder.Conn) bool
	if f.Protocol != "" {
		p, err := encoder.ParseProtocol(f.Protocol)
		if err != nil {
			return nil, err
		}
		tests = append(tests, func(c *encoder.Conn) bool { return c.Protocol == p })
	}
	for _, e := range []struct {
		name, value string
		of          func(*encoder.Conn) *encoder.Endpoint
	}{
		{"client", f.Client, func(c *encoder.Conn) *encoder.Endpoint { return &c.Client }},
		{"virtual", f.Virtual, func(c *encoder.Conn) *encoder.Endpoint { return &c.Virtual }},
		{"dest", f.Dest, func(c *encoder.Conn) *encoder.Endpoint { return &c.Dest }},
	} {
		if e.value == "" {
			continue
		}
		match, err := endpointFilter(e.value)
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", e.name, e.value, err)
		}
		tests = append(tests, func(c *encoder.Conn) bool { return match(e.of(c).AddrPort()) })
	}
	if f.State != "" {
		if err := f.checkState(); err != nil {
			return nil, err
		}
		tests = append(tests, func(c *encoder.Conn) bool { return strings.EqualFold(c.StateName(), f.State) })
	}
	switch f.Template {
	case "":
	case "true", "false":
		want := f.Template == "true"
		tests = append(tests, func(c *encoder.Conn) bool { return c.Template() == want })
	default:
		return nil, fmt.Errorf("template %q: want true or false", f.Template)
	}
	return func(c *encoder.Conn) bool {
		for _, t := range tests {
			if !t(c) {
				return false
			}
		}
		return true
	}, nil
}

// checkState refuses a state that none of the protocols asked for has.
func (f *Filter) checkState() error {
	protocols := []encoder.Protocol{encoder.TCP, encoder.UDP, encoder.SCTP}
	if f.Protocol != "" {
		p, err := encoder.ParseProtocol(f.Protocol)
		if err != nil {
			return err
		}
		protocols = []encoder.Protocol{p}
	}
	var kinds []encoder.Flags
	if f.Template != "true" {
		kinds = append(kinds, 0)
	}
	if f.Template != "false" {
		kinds = append(kinds, encoder.FlagTemplate)
	}
	var errs []string
	for _, p := range protocols {
		for _, kind := range kinds {
			_, err := encoder.ParseState(p, kind, f.State)
			if err == nil {
				return nil
			}
			errs = append(errs, err.Error())
		}
	}
	if len(protocols) > 1 {
		return fmt.Errorf("state %q: no protocol has it; --protocol with it lists those of one", f.State)
	}
	return errors.New(strings.Join(errs, "; "))
}

func endpointFilter(s string) (func(netip.AddrPort) bool, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		p = p.Masked()
		return func(ap netip.AddrPort) bool { return p.Contains(ap.Addr()) }, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return func(ap netip.AddrPort) bool { return ap.Addr() == a }, nil
	}
	if want, err := netip.ParseAddrPort(s); err == nil {
		return func(ap netip.AddrPort) bool { return ap == want }, nil
	}
	return nil, fmt.Errorf("want an address (192.0.2.1), an address and port (192.0.2.1:80, [2001:db8::1]:80) or a prefix (192.0.2.0/24)")
}
