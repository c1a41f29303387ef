package encoder

import (
	"encoding/binary"
	"iter"
)

// Options are the options of a record in wire form: type, length, data; packed,
// in the order of the wire. nil is no options. The kernel's own order is
// sequence data, engine data, engine name; then whatever else there is.
//
// The Append methods build them as append builds a slice:
//
//	c.Options, err = c.Options[:0].AppendPE("sip", callID)
//
// The readers never fail: they end at the first malformed option. Options that
// came from an accepted record are well-formed.
type Options []byte

// split takes the first option off; ok is false at the end or at a malformed one.
func (o Options) split() (t OptionType, data []byte, rest Options, ok bool) {
	if len(o) < optionHeader {
		return 0, nil, nil, false
	}
	n := optionHeader + int(o[1])
	if o[1] == 0 || n > len(o) {
		return 0, nil, nil, false
	}
	return OptionType(o[0]), o[optionHeader:n:n], o[n:], true
}

// All yields every option in order, known or not. The data is lent: it lies in
// o and changes with it.
func (o Options) All() iter.Seq2[OptionType, []byte] {
	return func(yield func(OptionType, []byte) bool) {
		for t, data, rest, ok := o.split(); ok; t, data, rest, ok = rest.split() {
			if !yield(t, data) {
				return
			}
		}
	}
}

// wellFormed is the number of bytes before the first malformed option.
func (o Options) wellFormed() int {
	rest := o
	for _, _, r, ok := rest.split(); ok; _, _, r, ok = rest.split() {
		rest = r
	}
	return len(o) - len(rest)
}

// find is the data of the first option of kind k.
func (o Options) find(k OptionType) []byte {
	for t, data, rest, ok := o.split(); ok; t, data, rest, ok = rest.split() {
		if t.Kind() == k {
			return data
		}
	}
	return nil
}

// Seq is the sequence data of both directions.
func (o Options) Seq() (in, out Seq, ok bool) {
	b := o.find(OptionSeq)
	if len(b) != seqSize {
		return Seq{}, Seq{}, false
	}
	return getSeq(b, binary.BigEndian), getSeq(b[seqSize/2:], binary.BigEndian), true
}

// PE is the persistence engine's name and data, either of which may be absent:
// nil. ok says whether there is any. Both are lent: they lie in o.
func (o Options) PE() (name, data []byte, ok bool) {
	name, data = o.find(OptionPEName), o.find(OptionPEData)
	return name, data, name != nil || data != nil
}

// AppendSeq appends the sequence data of both directions.
func (o Options) AppendSeq(in, out Seq) (Options, error) {
	if o.find(OptionSeq) != nil {
		return o, fieldError("seq", ErrTwice, "a record has one")
	}
	o = append(o, byte(OptionSeq), seqSize)
	return appendSeq(appendSeq(o, in), out), nil
}

// AppendPE appends a persistence engine's name and data. Linux accepts a name
// without data, and ignores it; data without a name it refuses.
func (o Options) AppendPE(name string, data []byte) (Options, error) {
	switch {
	case o.find(OptionPEData) != nil:
		return o, fieldError("pe_data", ErrTwice, "a record has one engine's")
	case o.find(OptionPEName) != nil:
		return o, fieldError("pe_name", ErrTwice, "a record has one engine's")
	case len(data) > MaxPEDataSize:
		return o, fieldError("pe_data", ErrTooLong, "%d bytes, at most %d", len(data), MaxPEDataSize)
	case len(name) > MaxPENameSize:
		return o, fieldError("pe_name", ErrTooLong, "%d bytes, at most %d", len(name), MaxPENameSize)
	case len(name) == 0 && len(data) == 0:
		return o, fieldError("pe_name", ErrEmpty, "an engine has a name")
	case len(name) == 0:
		return o, fieldError("pe_data", ErrNoPartner, "engine data needs the engine's name, pe_name")
	}
	if len(data) > 0 {
		o = append(o, byte(OptionPEData), byte(len(data)))
		o = append(o, data...)
	}
	o = append(o, byte(OptionPEName), byte(len(name)))
	return append(o, name...), nil
}

// AppendUnknown appends an option that Linux does not know. The marker
// OptionOptional must be set in t, or every backup would drop the record.
func (o Options) AppendUnknown(t OptionType, data []byte) (Options, error) {
	switch {
	case t.Known():
		return o, fieldError("options", ErrMalformed, "type %#x is a known option: use seq, pe_name or pe_data", uint8(t))
	case t&OptionOptional == 0:
		return o, fieldError("options", ErrMandatory, "type %#x", uint8(t))
	case len(data) == 0:
		return o, fieldError("options", ErrEmpty, "type %#x", uint8(t))
	case len(data) > 255:
		return o, fieldError("options", ErrTooLong, "type %#x has %d bytes, at most 255", uint8(t), len(data))
	}
	o = append(o, byte(t), byte(len(data)))
	return append(o, data...), nil
}

// check says why a record with these options would be refused by every backup.
// It accepts exactly the options of the records that Decoder accepts, whatever
// engines are loaded.
func (o Options) check() error {
	if len(o) == 0 {
		return nil
	}
	reason, at := parseOptions(o)
	if reason == Accepted {
		return nil
	}
	field, sentinel := "options", ErrMalformed
	switch reason {
	case UnknownOption:
		sentinel = ErrMandatory
	case BadSeqLength:
		field = "seq"
	case SeqTwice:
		field, sentinel = "seq", ErrTwice
	case PEDataTwice:
		field, sentinel = "pe_data", ErrTwice
	case PENameTwice:
		field, sentinel = "pe_name", ErrTwice
	case PENameTooLong:
		field, sentinel = "pe_name", ErrTooLong
	case PEDataWithoutName:
		field, sentinel = "pe_data", ErrNoPartner
	}
	return fieldError(field, sentinel, "%s, at byte %d of the options", reason, at)
}

// parseOptions takes the kernel's decisions about the options of one record
// (the loop in ip_vs_proc_sync_conn), but for the engine's name, which depends
// on what is loaded. at is the offset of the offending option.
func parseOptions(o []byte) (reason Reason, at int) {
	var seen [OptionPEName + 1]bool
	for at < len(o) {
		rest := o[at:]
		if len(rest) < optionHeader {
			return OptionHeaderCut, at
		}
		t, n := OptionType(rest[0]), int(rest[1])
		if n == 0 || optionHeader+n > len(rest) {
			return BadOptionLength, at
		}
		k := t.Kind()
		if !t.Known() {
			if t&OptionOptional == 0 {
				return UnknownOption, at // the kernel looks no further
			}
			at += optionHeader + n
			continue
		}
		switch {
		case k == OptionSeq && n != seqSize:
			return BadSeqLength, at
		case k == OptionPEName && n > MaxPENameSize:
			return PENameTooLong, at
		case seen[k]:
			return [...]Reason{OptionSeq: SeqTwice, OptionPEData: PEDataTwice, OptionPEName: PENameTwice}[k], at
		}
		seen[k] = true
		at += optionHeader + n
	}
	if seen[OptionPEData] && !seen[OptionPEName] {
		return PEDataWithoutName, 0
	}
	return Accepted, 0
}

func appendSeq(b []byte, s Seq) []byte {
	b = binary.BigEndian.AppendUint32(b, s.Init)
	b = binary.BigEndian.AppendUint32(b, s.Delta)
	return binary.BigEndian.AppendUint32(b, s.PreviousDelta)
}

func getSeq(b []byte, order binary.ByteOrder) Seq {
	return Seq{Init: order.Uint32(b), Delta: order.Uint32(b[4:]), PreviousDelta: order.Uint32(b[8:])}
}
