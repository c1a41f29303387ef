package encoder

// Sizes and offsets of the wire. Names as in net/netfilter/ipvs/ip_vs_sync.c
// (Linux 6.1), arithmetic left visible.
const (
	headerSizeV0 = 4            // struct ip_vs_sync_mesg_v0
	headerSizeV1 = 8            // struct ip_vs_sync_mesg
	fixedSizeV4  = 24 + 3*4     // struct ip_vs_sync_v4
	fixedSizeV6  = 24 + 3*16    // struct ip_vs_sync_v6
	simpleSizeV0 = 12 + 3*4     // SIMPLE_CONN_SIZE
	seqSize      = 2 * 3 * 4    // struct ip_vs_sync_conn_options
	fullSizeV0   = 24 + seqSize // FULL_CONN_SIZE
	optionHeader = 2            // type, length
	typeIPv6     = 1 << 0       // STYPE_F_INET6
	sizeMask     = 0x0fff       // SVER_MASK
	versionShift = 12           // SVER_SHIFT
	alignment    = 4            // of every record of version 1
	protoVersion = 1            // SYNC_PROTO_VER
)

// Limits of the wire.
const (
	// MaxRecords is the most records one message can hold: its count is one byte.
	MaxRecords = 255
	// MaxRecordSize is the most bytes one version 1 record can have: 12 bits.
	MaxRecordSize = sizeMask
	// MaxMessageSize is the most bytes a message can have: its size has 16 bits,
	// and a UDP datagram over IPv4 carries 65507 bytes.
	MaxMessageSize = 65535 - 20 - 8
	// MinMessageSize is the least limit that a Writer accepts: any record
	// without options fits.
	MinMessageSize = headerSizeV1 + fixedSizeV6
	// MaxPENameSize is the most bytes of a persistence engine's name.
	MaxPENameSize = 16
	// MaxPEDataSize is the most bytes of a persistence engine's data.
	MaxPEDataSize = 255
	// DefaultMaxSize is the message limit of a Linux master on an interface of
	// MTU 1500 over IPv4: min(MTU, 1500) − 20 (IP) − 8 (UDP).
	DefaultMaxSize = 1500 - 20 - 8
)

// Version of the protocol, as a master's sync_version selects it.
type Version uint8

// The two versions that exist.
const (
	Version0 Version = 0
	Version1 Version = 1
)

// OptionType is the first byte of a version 1 option.
type OptionType uint8

const (
	// OptionSeq is IPVS_OPT_SEQ_DATA: 24 bytes, in and out sequence blocks.
	OptionSeq OptionType = 1
	// OptionPEData is IPVS_OPT_PE_DATA: 1 to 255 bytes for a persistence engine.
	OptionPEData OptionType = 2
	// OptionPEName is IPVS_OPT_PE_NAME: 1 to 16 bytes, the engine's name.
	OptionPEName OptionType = 3
	// OptionOptional marks an option that a reader may skip when it does not
	// know it. The posting that introduced version 1 says bit 7; the kernel
	// tests bit 6 (IPVS_OPT_F_PARAM), and the kernel decides.
	OptionOptional OptionType = 1 << 6
)

// Kind is the type without the optional marker, as the kernel compares it.
func (t OptionType) Kind() OptionType { return t &^ OptionOptional }

// Known says whether Linux 6.1 knows the option.
func (t OptionType) Known() bool {
	k := t.Kind()
	return k >= OptionSeq && k <= OptionPEName
}

func align(n int) int { return (n + alignment - 1) &^ (alignment - 1) }

// HeaderSize is the number of bytes before the first record of a message.
func HeaderSize(v Version) int {
	if v == Version0 {
		return headerSizeV0
	}
	return headerSizeV1
}
