package services

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/ipvsync/ipvsync/encoder"
)

// Parse reads what ipvsadm -Sn prints, which ipvsadm -R reads too:
//
//	-A -t 10.88.0.2:80 -s rr
//	-a -t 10.88.0.2:80 -r 10.99.0.2:80 -m -w 1
//	-A -f 7 -s rr -p 100
//	-a -f 7 -r 10.99.0.2:82 -g -w 1
//
// Addresses must be numbers (-n). The error names the first line that is wrong.
func Parse(r io.Reader) ([]Service, error) {
	var list []Service
	index := map[ident]int{}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		words := strings.Fields(lines.Text())
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		id, dest, err := parseLine(words)
		if err != nil {
			return nil, fmt.Errorf("services, line %d: %w", n, err)
		}
		i, ok := index[id]
		switch {
		case dest == nil && !ok:
			index[id] = len(list)
			list = append(list, Service{Protocol: id.protocol, Virtual: id.virtual, Fwmark: id.fwmark})
		case dest == nil:
			return nil, fmt.Errorf("services, line %d: the service is there already", n)
		case !ok:
			return nil, fmt.Errorf("services, line %d: a destination of a service that is not there", n)
		default:
			list[i].Dests = append(list[i].Dests, *dest)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("services: %w", err)
	}
	return list, nil
}

// ident is what tells a service from another.
type ident struct {
	protocol encoder.Protocol
	virtual  netip.AddrPort
	fwmark   uint32
	v6       bool // of a service by mark
}

// parseLine reads a line; dest is nil for that of a service.
func parseLine(words []string) (id ident, dest *Dest, err error) {
	if words[0] != "-A" && words[0] != "-a" {
		return id, nil, fmt.Errorf("%q: want -A or -a, as ipvsadm -Sn prints", words[0])
	}
	if words[0] == "-a" {
		dest = &Dest{Forward: encoder.FwdDRoute} // ipvsadm's default
	}
	for i := 1; i < len(words); i++ {
		value := func() string {
			if i++; i < len(words) {
				return words[i]
			}
			return ""
		}
		switch w := words[i]; w {
		case "-t", "--tcp-service":
			id.protocol = encoder.TCP
			id.virtual, err = addrPort(value())
		case "-u", "--udp-service":
			id.protocol = encoder.UDP
			id.virtual, err = addrPort(value())
		case "--sctp-service":
			id.protocol = encoder.SCTP
			id.virtual, err = addrPort(value())
		case "-f", "--fwmark-service":
			var n uint64
			n, err = strconv.ParseUint(value(), 0, 32)
			id.fwmark = uint32(n)
		case "-6", "--ipv6":
			id.v6 = true
		case "-r", "--real-server":
			if dest != nil {
				dest.Addr, err = addrPort(value())
			}
		case "-m", "-g", "-i":
			if dest != nil {
				dest.Forward = map[string]encoder.Flags{"-m": encoder.FwdMasq, "-g": encoder.FwdDRoute, "-i": encoder.FwdTunnel}[w]
			}
		}
		if err != nil {
			return id, nil, err
		}
	}
	switch {
	case id.virtual.IsValid() == (id.fwmark != 0):
		return id, nil, fmt.Errorf("want one service: -t, -u or --sctp-service ADDR:PORT, or -f MARK above 0")
	case dest != nil && !dest.Addr.IsValid():
		return id, nil, fmt.Errorf("-r ADDR:PORT is missing")
	}
	return id, dest, nil
}

// addrPort reads an address and a port, which is 0 if there is none.
func addrPort(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return netip.AddrPortFrom(a, 0), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return ap, fmt.Errorf("%q: want an address and a port in numbers (ipvsadm -Sn)", s)
	}
	return ap, nil
}
