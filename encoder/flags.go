package encoder

import (
	"fmt"
	"strconv"
	"strings"
)

// Flags of a connection: IP_VS_CONN_F_* of include/uapi/linux/ip_vs.h. The low
// three bits are not flags but the forwarding method.
type Flags uint32

// Flags that a record can carry.
const (
	FlagFwdMask   Flags = 0x0007  // forwarding method, a number
	FlagSync      Flags = 0x0020  // made from a sync record; a backup sets it itself
	FlagHashed    Flags = 0x0040  // in the hash table; local to a kernel
	FlagNoOutput  Flags = 0x0080  // no output packets seen
	FlagInactive  Flags = 0x0100  // not established
	FlagOutSeq    Flags = 0x0200  // output sequence numbers must be shifted
	FlagInSeq     Flags = 0x0400  // input sequence numbers must be shifted
	FlagNoCport   Flags = 0x0800  // client port not known yet
	FlagTemplate  Flags = 0x1000  // persistence template
	FlagOnePacket Flags = 0x2000  // forward one packet only
	FlagNFCT      Flags = 0x10000 // uses netfilter's conntrack; local to a kernel

	FlagSeqMask = FlagOutSeq | FlagInSeq // IP_VS_CONN_F_SEQ_MASK
)

// Forwarding methods, the value of Flags&FlagFwdMask.
const (
	FwdMasq      Flags = 0 // masquerading (NAT)
	FwdLocalNode Flags = 1 // local node
	FwdTunnel    Flags = 2 // tunneling
	FwdDRoute    Flags = 3 // direct routing
	FwdBypass    Flags = 4 // cache bypass
)

// backupMask is IP_VS_CONN_F_BACKUP_MASK: what a backup takes over from a
// version 1 record when it makes a connection.
const backupMask = FlagFwdMask | FlagNoOutput | FlagInactive | FlagSeqMask | FlagNoCport | FlagTemplate

// Backup is the flags that a Linux backup gives a connection made from a
// record of version v with these flags.
func (f Flags) Backup(v Version) Flags {
	if v == Version0 {
		return f&0xffff&^FlagHashed | FlagSync
	}
	return f&backupMask | FlagSync
}

var flagNames = [...]struct {
	flag Flags
	name string
}{
	{FlagSync, "SYNC"},
	{FlagHashed, "HASHED"},
	{FlagNoOutput, "NOOUTPUT"},
	{FlagInactive, "INACTIVE"},
	{FlagOutSeq, "OUT_SEQ"},
	{FlagInSeq, "IN_SEQ"},
	{FlagNoCport, "NO_CPORT"},
	{FlagTemplate, "TEMPLATE"},
	{FlagOnePacket, "ONE_PACKET"},
	{FlagNFCT, "NFCT"},
}

var fwdNames = [...]string{"MASQ", "LOCALNODE", "TUNNEL", "DROUTE", "BYPASS", "FWD5", "FWD6", "FWD7"}

// Names lists the names of what is set, in the order of the bits: the
// forwarding method unless it is MASQ, the flags, and bits without a name in
// hexadecimal.
func (f Flags) Names() []string { return f.AppendNames(nil) }

// AppendNames appends Names to dst.
func (f Flags) AppendNames(dst []string) []string {
	if m := f & FlagFwdMask; m != FwdMasq {
		dst = append(dst, fwdNames[m])
	}
	rest := f &^ FlagFwdMask
	for _, n := range flagNames {
		if rest&n.flag != 0 {
			dst = append(dst, n.name)
			rest &^= n.flag
		}
	}
	if rest != 0 {
		dst = append(dst, fmt.Sprintf("%#x", uint32(rest)))
	}
	return dst
}

// String joins Names with |; no flag at all is "0".
func (f Flags) String() string {
	if f == 0 {
		return "0"
	}
	return strings.Join(f.Names(), "|")
}

// ParseFlags is the inverse of Names. MASQ is accepted too.
func ParseFlags(names []string) (Flags, error) {
	var f, method Flags
	haveMethod := false
next:
	for _, s := range names {
		for m, n := range fwdNames {
			if strings.EqualFold(s, n) {
				if haveMethod && method != Flags(m) {
					return 0, fmt.Errorf("flags: two forwarding methods, %s and %s", fwdNames[method], n)
				}
				method, haveMethod = Flags(m), true
				continue next
			}
		}
		for _, n := range flagNames {
			if strings.EqualFold(s, n.name) {
				f |= n.flag
				continue next
			}
		}
		digits, isHex := strings.CutPrefix(s, "0x")
		v, err := strconv.ParseUint(digits, 16, 32)
		if err != nil || !isHex || Flags(v)&FlagFwdMask != 0 {
			return 0, fmt.Errorf("flags: unknown flag %q (flags_raw takes any number)", s)
		}
		f |= Flags(v)
	}
	return f | method, nil
}
