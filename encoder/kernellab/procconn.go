package kernellab

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// ProcConn is a line of /proc/net/ip_vs_conn or ip_vs_conn_sync, in the
// kernel's own words (net/netfilter/ipvs/ip_vs_conn.c, ip_vs_conn_seq_show).
//
// Known words of Proto are TCP, UDP, SCTP, IP (protocol 0) and ICMP; any other
// protocol prints as IP_ and its number, ESP and AH too. State is that of the
// protocol; "ERR!" is what ESP and AH print; a template is NONE or ASSURED,
// whatever its protocol is.
type ProcConn struct {
	Proto   string
	Client  netip.AddrPort
	Virtual netip.AddrPort
	Dest    netip.AddrPort
	State   string
	Origin  string // LOCAL or SYNC; only in ip_vs_conn_sync
	// Expires is in seconds, rounded down. The kernel computes it in 32 bits
	// of milliseconds: timeouts above 4294967 s show modulo that.
	Expires uint64
	PEName  string // persistence engine; only templates show one
	PEData  string
}

// String prints what identifies the connection and its state, for test output.
func (c ProcConn) String() string {
	s := fmt.Sprintf("%s %s>%s>%s %s", c.Proto, c.Client, c.Virtual, c.Dest, c.State)
	if c.Origin != "" {
		s += " " + c.Origin
	}
	if c.PEName != "" {
		s += fmt.Sprintf(" %s %q", c.PEName, c.PEData)
	}
	return s
}

// connHeader begins the first line of both listings.
const connHeader = "Pro FromIP"

// ParseConns parses a listing. Data of a persistence engine is copied into it
// by the kernel as it is: where it holds a line feed, the rest is added to the
// data of the connection above, unless it looks like a connection itself.
func ParseConns(text string) ([]ProcConn, error) {
	var conns []ProcConn
	origin := false
	for i, line := range strings.Split(text, "\n") {
		if i == 0 && strings.HasPrefix(line, connHeader) {
			origin = strings.Contains(line, "Origin")
			continue
		}
		c, err := parseConn(line, origin)
		switch {
		case err == nil:
			conns = append(conns, c)
		case len(conns) > 0 && conns[len(conns)-1].PEName != "":
			conns[len(conns)-1].PEData += "\n" + line
		case strings.TrimSpace(line) != "":
			return conns, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	// What ends the listing is no data.
	for i := range conns {
		conns[i].PEData = strings.TrimRight(conns[i].PEData, "\n")
	}
	return conns, nil
}

func parseConn(line string, origin bool) (ProcConn, error) {
	words := 9
	if origin {
		words++
	}
	f, rest := fields(line, words)
	if len(f) < words {
		return ProcConn{}, fmt.Errorf("%d words of %d in %q", len(f), words, line)
	}
	c := ProcConn{Proto: f[0], State: f[7]}
	for i, p := range []*netip.AddrPort{&c.Client, &c.Virtual, &c.Dest} {
		var err error
		if *p, err = parseAddrPort(f[1+2*i], f[2+2*i]); err != nil {
			return ProcConn{}, err
		}
	}
	if origin {
		c.Origin = f[8]
	}
	var err error
	if c.Expires, err = strconv.ParseUint(f[words-1], 10, 64); err != nil {
		return ProcConn{}, fmt.Errorf("expiry: %w", err)
	}
	c.PEName, c.PEData, _ = strings.Cut(strings.TrimPrefix(rest, " "), " ")
	return c, nil
}

// fields splits off up to n words and returns them and the rest of the line.
func fields(line string, n int) (words []string, rest string) {
	for len(words) < n {
		line = strings.TrimLeft(line, " ")
		if line == "" {
			break
		}
		word, tail, found := strings.Cut(line, " ")
		words = append(words, word)
		line = tail
		if found {
			line = " " + line
		}
	}
	return words, line
}

// parseAddrPort reads 0A580001 or 2001:0db8:…, and a port in hexadecimal.
func parseAddrPort(addr, port string) (netip.AddrPort, error) {
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("port: %w", err)
	}
	if strings.Contains(addr, ":") {
		a, err := netip.ParseAddr(addr)
		return netip.AddrPortFrom(a, uint16(p)), err
	}
	b, err := hex.DecodeString(addr)
	if err != nil || len(b) != 4 {
		return netip.AddrPort{}, fmt.Errorf("address %q", addr)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), uint16(p)), nil
}
