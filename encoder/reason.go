package encoder

import "strconv"

// Reason is the verdict of a Linux backup on a record or on a message. The
// zero value is Accepted. Each other value names one refusal.
type Reason uint8

// Verdicts. The comment names what the kernel does; the names in parentheses
// are the return values in ip_vs_sync.c.
const (
	// Accepted: the backup makes or updates the connection.
	Accepted Reason = iota

	// The whole message is ignored (ip_vs_process_message).

	MessageTooShort // fewer than 4 bytes
	SizeMismatch    // the size field differs from the datagram's length
	OtherSyncID     // SyncID differs from the backup's, which is not 0

	// This record and the rest of the message are dropped; records before it
	// stay applied.

	MessageCut       // the count promises more, fewer bytes than a record's fixed part are left
	RecordOverrun    // the record's size runs past the message
	BadRecordVersion // the record's version is not 0
	BadRecordType    // even and not 0 (−10)
	RecordTooSmall   // the size is smaller than the fixed part (−20)
	OptionHeaderCut  // one byte is left where an option should begin (−30)
	BadOptionLength  // an option of length 0, or running past the record (−40)
	BadSeqLength     // sequence data that is not 24 bytes (−50)
	SeqTwice         // sequence data given twice (−50)
	PEDataTwice      // engine data given twice (−60)
	PENameTooLong    // engine name over 16 bytes (−70)
	PENameTwice      // engine name given twice (−70)
	NotReached       // lenient walk only: in order, but behind a record at which the kernel stops

	// Only this record is dropped, the next ones count.

	UnknownOption       // an unknown option without the optional marker 0x40 (20)
	UnsupportedProtocol // not TCP, UDP, SCTP, ESP or AH, and no template (30)
	InvalidState        // the protocol has no such state (40)
	PEDataWithoutName   // engine data without the engine's name (50)
	UnknownEngine       // a persistence engine that is not loaded (50)
	OnePacket           // never in the table: the flag ONE_PACKET
	TemplateNoCport     // never in the table: the flags TEMPLATE and NO_CPORT together

	numReasons
)

// NumReasons is the number of verdicts, for arrays of counters by Reason.
const NumReasons = int(numReasons)

// Scope is how much of a message a refusal costs.
type Scope uint8

// Scopes, from nothing to everything.
const (
	ScopeNone    Scope = iota // nothing is refused
	ScopeRecord               // this record
	ScopeRest                 // this record and what follows it in the message
	ScopeMessage              // the whole message
)

// Scope of the refusal.
func (r Reason) Scope() Scope {
	switch {
	case r == Accepted:
		return ScopeNone
	case r <= OtherSyncID:
		return ScopeMessage
	case r <= NotReached:
		return ScopeRest
	}
	return ScopeRecord
}

var reasonNames = [numReasons]string{
	Accepted:            "accepted",
	MessageTooShort:     "message shorter than 4 bytes",
	SizeMismatch:        "size field differs from the datagram's length",
	OtherSyncID:         "other syncid",
	MessageCut:          "message ends before the last record",
	RecordOverrun:       "record runs past the message",
	BadRecordVersion:    "record version is not 0",
	BadRecordType:       "record type is even and not 0",
	RecordTooSmall:      "record smaller than its fixed part",
	OptionHeaderCut:     "option header cut",
	BadOptionLength:     "option empty or running past the record",
	BadSeqLength:        "sequence data is not 24 bytes",
	SeqTwice:            "sequence data given twice",
	PEDataTwice:         "engine data given twice",
	PENameTooLong:       "engine name over 16 bytes",
	PENameTwice:         "engine name given twice",
	NotReached:          "behind a record at which the kernel stops",
	UnknownOption:       "unknown mandatory option",
	UnsupportedProtocol: "unsupported protocol",
	InvalidState:        "invalid state",
	PEDataWithoutName:   "engine data without engine name",
	UnknownEngine:       "unknown persistence engine",
	OnePacket:           "one-packet connection, never in the table",
	TemplateNoCport:     "template without client port, never in the table",
}

// String is a short phrase in lower case.
func (r Reason) String() string {
	if r < numReasons {
		return reasonNames[r]
	}
	return "reason " + strconv.Itoa(int(r))
}

var reasonLabels = [numReasons]string{
	Accepted: "accepted", MessageTooShort: "message_too_short", SizeMismatch: "size_mismatch",
	OtherSyncID: "other_syncid", MessageCut: "message_cut", RecordOverrun: "record_overrun",
	BadRecordVersion: "bad_record_version", BadRecordType: "bad_record_type", RecordTooSmall: "record_too_small",
	OptionHeaderCut: "option_header_cut", BadOptionLength: "bad_option_length", BadSeqLength: "bad_seq_length",
	SeqTwice: "seq_twice", PEDataTwice: "pe_data_twice", PENameTooLong: "pe_name_too_long", PENameTwice: "pe_name_twice",
	NotReached: "not_reached", UnknownOption: "unknown_option", UnsupportedProtocol: "unsupported_protocol",
	InvalidState: "invalid_state", PEDataWithoutName: "pe_data_without_name", UnknownEngine: "unknown_engine",
	OnePacket: "one_packet", TemplateNoCport: "template_no_cport",
}

// Label is the reason as the name of a counter: lower case, underscores.
func (r Reason) Label() string {
	if r < numReasons {
		return reasonLabels[r]
	}
	return "reason_" + strconv.Itoa(int(r))
}
