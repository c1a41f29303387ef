// Package tableserver shows a Table to other processes, over HTTP on a unix
// socket:
//
//	GET /v1/connections?format=text|json&FILTER   one line each, while updates go on
//	GET /v1/count?FILTER                          how many, by protocol and state
//	GET /v1/snapshot                              docs/snapshot.md
//	GET /v1/stats                                 ipvsync.TableStats as JSON, Ignored by name
//
// FILTER is that of [Filter]. A JSON line is a record as package record has it,
// and "expires", what is left of its life in seconds. An answer that is cut off is
// an error of HTTP for whoever reads it. Who may connect is decided by the socket's
// mode, 0600: it says who talks to whom.
package tableserver

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/record"
	"github.com/ipvsync/ipvsync/encoder"
)

// Handler serves a table.
func Handler(t *ipvsync.Table) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/connections", func(w http.ResponseWriter, r *http.Request) { connections(t, w, r) })
	mux.HandleFunc("GET /v1/count", func(w http.ResponseWriter, r *http.Request) { count(t, w, r) })
	mux.HandleFunc("GET /v1/snapshot", func(w http.ResponseWriter, r *http.Request) {
		if !unasked(w, r) {
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		if _, err := t.Snapshot(w); err != nil {
			panic(http.ErrAbortHandler) // or it would look whole
		}
	})
	mux.HandleFunc("GET /v1/stats", func(w http.ResponseWriter, r *http.Request) {
		if unasked(w, r) {
			stats(t, w)
		}
	})
	return mux
}

// unasked says whether a request has no query, where none is understood, or answers it.
func unasked(w http.ResponseWriter, r *http.Request) bool {
	if r.URL.RawQuery != "" {
		http.Error(w, r.URL.Path+" takes no query", http.StatusBadRequest)
		return false
	}
	return true
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// stats gives the counters, what was ignored by the name of the reason.
func stats(t *ipvsync.Table, w http.ResponseWriter) {
	st := struct {
		ipvsync.TableStats
		Ignored map[string]uint64 // in place of the array
	}{t.Stats(), map[string]uint64{}}
	for r, n := range st.TableStats.Ignored {
		st.Ignored[ipvsync.IgnoreReason(r).String()] = n
	}
	answer(w, st)
}

// filter compiles the filter of a request, or answers it.
func filter(w http.ResponseWriter, r *http.Request) func(*encoder.Conn) bool {
	query := r.URL.Query()
	f, err := FilterFrom(query, "format")
	var match func(*encoder.Conn) bool
	if err == nil {
		match, err = f.Compile()
	}
	if format := query.Get("format"); err == nil && format != "" && format != "text" && format != "json" {
		err = fmt.Errorf("format %q: want text or json", format)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return nil
	}
	return match
}

func connections(t *ipvsync.Table, w http.ResponseWriter, r *http.Request) {
	match := filter(w, r)
	if match == nil {
		return
	}
	text := r.URL.Query().Get("format") == "text"
	out := bufio.NewWriterSize(w, 64<<10)
	var line []byte
	if text {
		line = append(line, Header...)
	}
	for e := range t.All() {
		if !match(&e.Conn) {
			continue
		}
		if text {
			line = AppendText(line, &e)
		} else {
			line = appendJSON(line, &e)
		}
		if _, err := out.Write(line); err != nil {
			panic(http.ErrAbortHandler)
		}
		line = line[:0]
	}
	if _, err := out.Write(line); err != nil {
		panic(http.ErrAbortHandler)
	}
	if err := out.Flush(); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// Header names the columns of AppendText, which are those of ipvsadm -Lcn.
const Header = "pro expire state       source             virtual            destination\n"

// AppendText appends one line.
func AppendText(b []byte, e *ipvsync.Entry) []byte {
	s := min(int64((e.Expires+time.Second-1)/time.Second), int64(e.Timeout)) // the table's clock ticks: an end may be a little late
	b = fmt.Appendf(b, "%-3s %-6s %-11s %-18s %-18s %s", protocolName(e.Protocol), fmt.Sprintf("%02d:%02d", s/60, s%60), e.StateName(),
		e.Client, e.Virtual, e.Dest)
	if name, data, ok := e.Options.PE(); ok {
		b = fmt.Appendf(b, " %q %q", name, data) // quoted: it comes from the network
	}
	return append(b, '\n')
}

// protocolName is the kernel's, which has no name for 0 but IP: a template by firewall mark.
func protocolName(p encoder.Protocol) string {
	if p == 0 {
		return "IP"
	}
	return strings.ToUpper(p.String())
}

func appendJSON(b []byte, e *ipvsync.Entry) []byte {
	b = record.Append(b, &e.Conn, "")
	b = append(b[:len(b)-1], `,"expires":`...)
	b = strconv.AppendFloat(b, e.Expires.Seconds(), 'f', 3, 64)
	return append(b, "}\n"...)
}

// Count is the answer of /v1/count.
type Count struct {
	Total  uint64       `json:"total"`
	States []StateCount `json:"states"` // the most first
}

// StateCount is how many there are of a protocol and state.
type StateCount struct {
	Protocol string `json:"protocol"`
	State    string `json:"state"`
	Template bool   `json:"template"`
	Count    uint64 `json:"count"`
}

func count(t *ipvsync.Table, w http.ResponseWriter, r *http.Request) {
	match := filter(w, r)
	if match == nil {
		return
	}
	type key struct {
		protocol encoder.Protocol
		state    encoder.State
		template bool
	}
	of := map[key]uint64{}
	c := Count{States: []StateCount{}}
	for e := range t.All() {
		if match(&e.Conn) {
			of[key{e.Protocol, e.State, e.Template()}]++
			c.Total++
		}
	}
	for k, n := range of {
		conn := encoder.Conn{Protocol: k.protocol, State: k.state}
		if k.template {
			conn.Flags = encoder.FlagTemplate
		}
		c.States = append(c.States, StateCount{protocolName(k.protocol), conn.StateName(), k.template, n})
	}
	sort.Slice(c.States, func(i, j int) bool {
		a, b := &c.States[i], &c.States[j]
		if a.Count != b.Count {
			return a.Count > b.Count
		}
		return a.Protocol+a.State < b.Protocol+b.State
	})
	answer(w, c)
}
