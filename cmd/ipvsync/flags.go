package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/xsk"
)

// Flags that several commands have, each with one meaning everywhere. A value
// checks itself when it is set, so that no command starts with a wrong one.

// number is a whole number in a range, both ends included.
type number struct {
	n           *int
	least, most int
}

func (v *number) String() string {
	if v.n == nil { // the zero value, by which pflag knows a default
		return "0"
	}
	return strconv.Itoa(*v.n)
}
func (v *number) Type() string { return "N" }

func (v *number) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < v.least || n > v.most {
		return fmt.Errorf("want a number from %d to %d", v.least, v.most)
	}
	*v.n = n
	return nil
}

// flagOf names the flag that sets a field of the configurations of packages ipvsync
// and xsk.
var flagOf = map[string]string{
	"Interface":     "interface",
	"Group":         "group",
	"Port":          "port",
	"Ports":         "ports",
	"Peers":         "peer",
	"Queues":        "queues",
	"TTL":           "ttl",
	"MaxSize":       "maxlen",
	"MaxPayload":    "maxlen",
	"SocketBuffer":  "rcvbuf",
	"FlushInterval": "flush-interval",
}

// byFlag makes an error about a field that a flag was given for one of the command
// line, in its terms; nil if err is no such error. given says whether a flag was.
func byFlag(given func(flag string) bool, err error) error {
	var field, msg string
	var e *ipvsync.ConfigError
	var x *xsk.ConfigError
	switch {
	case errors.As(err, &e):
		field, msg = e.Field, e.Msg
	case errors.As(err, &x):
		field, msg = x.Field, x.Msg
	}
	if name := flagOf[field]; name != "" && given(name) {
		return usagef("--%s %s", name, msg)
	}
	return nil
}

// format is how connections are printed.
type format string

const (
	formatJSON format = "json"
	formatText format = "text"
)

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "json|text" }

func (f *format) Set(s string) error {
	switch v := format(s); v {
	case formatJSON, formatText:
		*f = v
		return nil
	}
	return fmt.Errorf("want json or text")
}

func addFormatFlag(cmd *cobra.Command, f *format) {
	*f = formatJSON
	cmd.Flags().Var(f, "format", "json: one object a line; text: columns to read")
}

// syncID is a SyncID, 0 to 255.
type syncID uint8

func (v *syncID) String() string { return strconv.Itoa(int(*v)) }
func (v *syncID) Type() string   { return "N" }

func (v *syncID) Set(s string) error {
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil {
		return fmt.Errorf("want a number from 0 to 255")
	}
	*v = syncID(n)
	return nil
}

func addSyncIDFlag(cmd *cobra.Command, v *syncID, usage string) {
	cmd.Flags().Var(v, "syncid", usage)
}

// ports is a set of UDP ports. Empty is every port, which the user calls 0.
type ports []portRange

type portRange struct{ first, last uint16 }

const defaultPort = 8848 // IP_VS_SYNC_PORT; thread n of a master sends to 8848+n

func (p *ports) has(port uint16) bool {
	for _, r := range *p {
		if r.first <= port && port <= r.last {
			return true
		}
	}
	return len(*p) == 0
}

func (p *ports) Type() string { return "PORTS" }

func (p *ports) String() string {
	if len(*p) == 0 {
		return "0"
	}
	var list []string
	for _, r := range *p {
		s := strconv.Itoa(int(r.first))
		if r.last != r.first {
			s += "-" + strconv.Itoa(int(r.last))
		}
		list = append(list, s)
	}
	return strings.Join(list, ",")
}

func (p *ports) Set(s string) error {
	if s == "0" {
		*p = nil
		return nil
	}
	var list ports
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, err1 := strconv.ParseUint(first, 10, 16)
		b, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || a == 0 || b < a {
			return fmt.Errorf("want ports such as 8848, 8848-8911 or 8848,9000-9010, or 0 for all")
		}
		list = append(list, portRange{uint16(a), uint16(b)})
	}
	*p = list
	return nil
}

func addPortsFlag(cmd *cobra.Command, p *ports) {
	*p = ports{{defaultPort, defaultPort}}
	cmd.Flags().Var(p, "port", "UDP destination `PORTS`: one, a range, a list, or 0 for all")
}
