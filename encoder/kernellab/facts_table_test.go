package kernellab

// one is a message of one record each.
func one(records ...rec) [][]rec {
	var msgs [][]rec
	for _, r := range records {
		msgs = append(msgs, []rec{r})
	}
	return msgs
}

const seqBlock = "\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00\x04\x00\x00\x00\x05\x00\x00\x00\x06\x00\x00\x00"

// UDP templates, which is what the SIP engine makes.
func sipTemplate(data string) rec {
	return rec{proto: 17, flags: 0x1000, options: sip(data, "sip")}
}

func with(r rec, f func(*rec)) rec { f(&r); return r }

const plain = "TCP 10.0.0.1:1>10.0.0.2:8080 ESTABLISHED"

var facts = []fact{
	// Names of protocols and states.
	{"esp, ah", 1, one(rec{proto: 50}, rec{proto: 51}), []string{
		"IP_50 10.0.0.1:1>10.0.0.2:8080 ERR!", "IP_51 10.0.0.1:1>10.0.0.2:8080 ERR!"}},
	{"templates of any protocol", 1, one(
		rec{proto: -1, flags: 0x1000}, rec{proto: 1, flags: 0x1000, state: 1}, rec{proto: 50, flags: 0x1000, state: 1},
		rec{proto: 255, flags: 0x1000}, rec{flags: 0x1000, state: 1}, rec{proto: 99, flags: 0x1000, state: 2}),
		[]string{"ICMP 10.0.0.1:1>10.0.0.2:8080 ASSURED", "IP 10.0.0.1:1>10.0.0.2:8080 NONE",
			"IP_255 10.0.0.1:1>10.0.0.2:8080 NONE", "IP_50 10.0.0.1:1>10.0.0.2:8080 ASSURED",
			"TCP 10.0.0.1:1>10.0.0.2:8080 ASSURED"}},
	{"sctp", 1, one(rec{proto: 132, state: 13, cport: 1}, rec{proto: 132, state: 14, cport: 2}, rec{proto: 132, state: 6, cport: 3},
		rec{proto: 132, state: 4, cport: 4}), []string{"SCTP 10.0.0.1:1>10.0.0.2:8080 CLOSED",
		"SCTP 10.0.0.1:3>10.0.0.2:8080 COOKIE", "SCTP 10.0.0.1:4>10.0.0.2:8080 C-REPLIED"}},

	// Zeros and odd addresses are nothing special, but for the client port.
	{"zero ports and addresses", 1, one(rec{state: 1, dport: -1, dest: "0.0.0.0"}, rec{state: 1, cport: 2, client: "0.0.0.0"},
		rec{state: 1, cport: 3, client: "255.255.255.255", dest: "224.0.0.1"}), []string{
		"TCP 0.0.0.0:2>10.0.0.2:8080 ESTABLISHED", "TCP 10.0.0.1:1>0.0.0.0:0 ESTABLISHED",
		"TCP 255.255.255.255:3>224.0.0.1:8080 ESTABLISHED"}},
	{"ipv4-mapped ipv6 stays ipv6", 1, one(rec{state: 1, ipv6: true, client: "::ffff:10.0.0.1", dest: "::ffff:10.0.0.2"}, rec{state: 1}),
		[]string{plain, "TCP [::ffff:10.0.0.1]:1>[::ffff:10.0.0.2]:8080 ESTABLISHED"}},
	{"client port 0 is never found again", 1, one(rec{state: 1, cport: -1}, rec{state: 4, cport: -1}, rec{state: 1, cport: 5}), []string{
		"TCP 10.0.0.1:0>10.0.0.2:8080 ESTABLISHED", "TCP 10.0.0.1:0>10.0.0.2:8080 FIN_WAIT", "TCP 10.0.0.1:5>10.0.0.2:8080 ESTABLISHED"}},
	{"no client port yet is found by any", 1, one(rec{state: 1, cport: -1, flags: 0x800}, rec{state: 4, cport: 44}), []string{
		"TCP 10.0.0.1:0>10.0.0.2:8080 FIN_WAIT"}},
	{"no client port yet, with one, is never found again", 1, one(rec{state: 1, cport: 44, flags: 0x800}, rec{state: 4, cport: 44}), []string{
		"TCP 10.0.0.1:44>10.0.0.2:8080 ESTABLISHED", "TCP 10.0.0.1:44>10.0.0.2:8080 FIN_WAIT"}},

	// Flags that make a record be dropped.
	{"one packet", 1, [][]rec{{{state: 1}, {state: 4, flags: 0x2000}, {state: 1, cport: 2, flags: 0x2000}, {state: 1, cport: 3}}},
		[]string{plain, "TCP 10.0.0.1:3>10.0.0.2:8080 ESTABLISHED"}},
	{"one packet, version 0", 0, [][]rec{{{state: 1}, {state: 4, flags: 0x2000}, {state: 1, cport: 2, flags: 0x2000}, {state: 1, cport: 3}}},
		[]string{plain, "TCP 10.0.0.1:3>10.0.0.2:8080 ESTABLISHED"}},
	{"template without client port", 1, [][]rec{{{flags: 0x1800, cport: -1}, {flags: 0x1800}, {state: 1, cport: 3}}},
		[]string{"TCP 10.0.0.1:3>10.0.0.2:8080 ESTABLISHED"}},

	// Replacing.
	{"other destination replaces", 1, one(rec{state: 1}, rec{state: 4, dest: "10.0.0.9"}), []string{"TCP 10.0.0.1:1>10.0.0.9:8080 FIN_WAIT"}},
	{"other destination, inactive, is ignored", 1, one(rec{state: 1}, rec{state: 4, flags: 0x100, dport: 2}), []string{plain}},
	{"template keeps its destination", 1, one(rec{flags: 0x1000, state: 1}, rec{flags: 0x1000, dest: "10.0.0.9", dport: 2}),
		[]string{"TCP 10.0.0.1:1>10.0.0.2:8080 NONE"}},
	{"connection updates a template of its key", 1, one(rec{flags: 0x1000}, rec{state: 4}), []string{"TCP 10.0.0.1:1>10.0.0.2:8080 ERR!"}},
	{"connection replaces a template of its key", 1, one(rec{flags: 0x1000}, rec{state: 4, dest: "10.0.0.9"}), []string{"TCP 10.0.0.1:1>10.0.0.9:8080 FIN_WAIT"}},
	{"template does not find a connection", 1, one(rec{state: 1}, rec{flags: 0x1000}), []string{plain, "TCP 10.0.0.1:1>10.0.0.2:8080 NONE"}},

	// Persistence engines. Only templates keep the data.
	{"engine names that end the message", 1, [][]rec{{{state: 1}, with(sipTemplate("x"), func(r *rec) { r.options = sip("x", "sip45678901234567") }), {state: 1, cport: 9}}},
		[]string{plain}},
	{"engine names unknown", 1, [][]rec{{
		{proto: 17, flags: 0x1000, options: sip("a", "SIP")}, {proto: 17, flags: 0x1000, options: sip("b", "sipjunk")},
		{proto: 17, flags: 0x1000, options: sip("c", "sip4567890123456")}, {proto: 17, flags: 0x1000, options: sip("d", "\x00")},
		{proto: 17, flags: 0x1000, options: option(2, "e")}, {proto: 17, flags: 0x1000, options: option(0x42, "f")}, {state: 1}}},
		[]string{plain}},
	{"engine names that are sip", 1, [][]rec{{
		{proto: 17, flags: 0x1000, options: sip("a", "sip\x00")}, {proto: 17, flags: 0x1000, options: sip("b", "sip\x00junk")},
		{proto: 17, flags: 0x1000, options: sip("c", "sip\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")},
		{proto: 17, flags: 0x1000, options: option(0x43, "sip") + option(0x42, "d")}}},
		[]string{`UDP 10.0.0.1:1>10.0.0.2:8080 NONE sip="a"`, `UDP 10.0.0.1:1>10.0.0.2:8080 NONE sip="b"`,
			`UDP 10.0.0.1:1>10.0.0.2:8080 NONE sip="c"`, `UDP 10.0.0.1:1>10.0.0.2:8080 NONE sip="d"`}},
	{"engine name without data", 1, one(rec{proto: 17, flags: 0x1000, options: option(3, "nobody")}), []string{"UDP 10.0.0.1:1>10.0.0.2:8080 NONE"}},
	{"connection forgets engine data", 1, one(rec{proto: 17, options: sip("a", "sip")}), []string{"UDP 10.0.0.1:1>10.0.0.2:8080 UDP"}},
	{"key with engine data: without the client port", 1, one(sipTemplate("a"), with(sipTemplate("a"), func(r *rec) { r.cport = 2 }),
		with(sipTemplate("a"), func(r *rec) { r.client = "10.0.0.9" }), with(sipTemplate("A"), func(r *rec) { r.dest = "10.0.0.9" }),
		rec{proto: 17, flags: 0x1000}), []string{
		`UDP 10.0.0.1:1>10.0.0.2:8080 NONE`, `UDP 10.0.0.1:1>10.0.0.2:8080 NONE sip="a"`,
		`UDP 10.0.0.1:1>10.0.0.9:8080 NONE sip="A"`, `UDP 10.0.0.9:1>10.0.0.2:8080 NONE sip="a"`}},

	// Version 0.
	{"v0 bad protocol or state skips the record", 0, [][]rec{{{proto: 47}, {state: 11}, {proto: 17, state: 1}, {proto: 132, state: 14}, {state: 1}}},
		[]string{plain}},
	{"v0 template: any protocol, state 0 or 1", 0, [][]rec{{{proto: 99, flags: 0x1000, state: 1}, {proto: 98, flags: 0x1000, state: 2}}},
		[]string{"IP_99 10.0.0.1:1>10.0.0.2:8080 ASSURED"}},
	{"v0 skips the block of a bad record too", 0, [][]rec{{{proto: 47, flags: 0x200, options: seqBlock}, {state: 11, flags: 0x600, options: seqBlock}, {state: 1}}},
		[]string{plain}},
	{"v0 block missing: the next record is taken for it", 0, [][]rec{{{state: 1, flags: 0x400}, {state: 1, cport: 2}, {state: 1, cport: 3}}},
		[]string{plain, "TCP 10.0.0.1:3>10.0.0.2:8080 ESTABLISHED"}},
	{"v0 block cut: the record is dropped", 0, [][]rec{{{state: 1}, {state: 1, cport: 2, flags: 0x200, options: seqBlock[:23]}}},
		[]string{plain}},
}
