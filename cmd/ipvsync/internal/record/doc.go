// Package record is the JSON form of one connection record: an encoder.Conn,
// one JSON object, one line. Every command that prints or reads records uses
// it, so that the output of one is the input of the next:
//
//	wire ──encoder──► encoder.Conn ──Append──► {"client":"10.88.0.1:43938",…}
//	wire ◄──encoder── encoder.Conn ◄──Reader── one line
//
// The keys:
//
//	accepted   bool    what a Linux backup does with it; ignored on reading
//	reason     string  why it refuses it, "" if it does not; ignored on reading
//	family     string  "ipv4" or "ipv6"; ignored on reading, the addresses decide
//	protocol   string  tcp, udp, sctp, esp, ah or a decimal; a number may be read; required
//	state      string  name as in /proc/net/ip_vs_conn, or a decimal; a number may be read
//	client     string  "10.88.0.1:43938" or "[2001:db8::1]:43938"; required
//	virtual    string  likewise; required
//	dest       string  likewise; required
//	flags      array   names, as encoder.Flags.Names lists them
//	flags_raw  number  the flags as on the wire; wins over flags when both are read
//	fwmark     number
//	timeout    number  seconds; 0 is the default of the state
//	seq        object  {"in":{"init":…,"delta":…,"previous_delta":…},"out":{…}}
//	pe_name    string  persistence engine
//	pe_data    string  its data, base64
//	options    array   options that Linux does not know: {"type":69,"data":base64}
//	expires    number  seconds left of its life, in listings of a table; ignored on reading
//
// Writing leaves out seq, pe_name, pe_data and options where the record has
// none, and nothing else. A pe_name that is not valid UTF-8, which no JSON
// string can hold, is written as pe_name_base64 instead, and read from it.
//
// Reading wants the required keys; null is the same as a key left out. Without
// state a record is what someone who types one means: ESTABLISHED for tcp and
// sctp, NONE for a template, and for the others their only state, 0. Without
// timeout, fwmark or flags it is 0. An unknown key, a key given twice and a
// value out of range are errors, so that a slip of the pen is never lost; and
// whatever is read can be encoded in version 1.
//
// Limits: reading puts the options into the kernel's order (sequence data,
// engine data, engine name, others in the order given) and drops the needless
// optional marker of known ones, so the wire form may differ where the meaning
// does not. Editing flags takes effect only without flags_raw:
// jq -c '.flags += ["INACTIVE"] | del(.flags_raw)'.
package record
