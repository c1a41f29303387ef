package encoder

import (
	"fmt"
	"strconv"
	"strings"
)

// State of a connection. The numbers mean something else for each protocol,
// and for templates: enum { IP_VS_TCP_S_…, IP_VS_UDP_S_…, IP_VS_SCTP_S_…,
// IP_VS_CTPL_S_… } of include/net/ip_vs.h. StateName gives the name.
type State uint16

// States of TCP.
const (
	TCPNone State = iota
	TCPEstablished
	TCPSynSent
	TCPSynRecv
	TCPFinWait
	TCPTimeWait
	TCPClose
	TCPCloseWait
	TCPLastAck
	TCPListen
	TCPSynAck
)

// The state of UDP, and of ESP and AH, which have only one.
const (
	UDPNormal State = 0
	ESPNormal State = 0
	AHNormal  State = 0
)

// States of SCTP.
const (
	SCTPNone State = iota
	SCTPInit1
	SCTPInit
	SCTPCookieSent
	SCTPCookieReplied
	SCTPCookieWait
	SCTPCookie
	SCTPCookieEchoed
	SCTPEstablished
	SCTPShutdownSent
	SCTPShutdownReceived
	SCTPShutdownAckSent
	SCTPRejected
	SCTPClosed
)

// States of a persistence template, whatever its protocol.
const (
	TemplateNone State = iota
	TemplateAssured
)

// String gives the number in decimal; use StateName or Conn.StateName for the
// name, which takes the protocol as well.
func (s State) String() string { return strconv.Itoa(int(s)) }

var (
	tcpStates = [...]string{"NONE", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT", "TIME_WAIT",
		"CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "SYNACK"}
	udpStates  = [...]string{"UDP"}
	sctpStates = [...]string{"NONE", "INIT1", "INIT", "C-SENT", "C-REPLIED", "C-WAIT", "COOKIE", "C-ECHOED",
		"ESTABLISHED", "S-SENT", "S-RECEIVED", "S-ACK-SENT", "REJECTED", "CLOSED"}
	templateStates = [...]string{"NONE", "ASSURED"}
)

// stateNames lists the names that /proc/net/ip_vs_conn shows. ESP and AH have
// none: the kernel prints "ERR!" for them.
func stateNames(p Protocol, f Flags) []string {
	if f&FlagTemplate != 0 {
		return templateStates[:]
	}
	switch p {
	case TCP:
		return tcpStates[:]
	case UDP:
		return udpStates[:]
	case SCTP:
		return sctpStates[:]
	}
	return nil
}

// protocolStates is pp->num_states of ip_vs_proto_{tcp,udp,sctp,ah_esp}.c by
// protocol; 0 where Linux 6.1 has no such protocol.
var protocolStates = [256]uint8{
	TCP: uint8(len(tcpStates)), UDP: uint8(len(udpStates)), SCTP: uint8(len(sctpStates)), ESP: 1, AH: 1,
}

// StateName is the name by which /proc/net/ip_vs_conn shows the state s of a
// connection of protocol p with flags f, or s in decimal where it has no name.
func StateName(p Protocol, f Flags, s State) string {
	if names := stateNames(p, f); int(s) < len(names) {
		return names[s]
	}
	return s.String()
}

// ParseState is the inverse of StateName. Any number up to 65535 is accepted.
func ParseState(p Protocol, f Flags, name string) (State, error) {
	names := stateNames(p, f)
	for i, n := range names {
		if strings.EqualFold(n, name) {
			return State(i), nil
		}
	}
	n, err := strconv.ParseUint(name, 10, 16)
	if err != nil {
		kind := p.String()
		if f&FlagTemplate != 0 {
			kind = "template"
		}
		return 0, fmt.Errorf("state %q: %s has %s; a number from 0 to 65535 works too", name, kind, orNone(names))
	}
	return State(n), nil
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "no named state"
	}
	return strings.Join(names, ", ")
}
