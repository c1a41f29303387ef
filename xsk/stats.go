package xsk

// Plus returns the sum of both, for a user who replaced one Tx by another.
func (s TxStats) Plus(o TxStats) TxStats {
	return TxStats{
		Messages: s.Messages + o.Messages, Bytes: s.Bytes + o.Bytes, Packets: s.Packets + o.Packets,
		Syscalls: s.Syscalls + o.Syscalls, BackPressure: s.BackPressure + o.BackPressure,
		LinkDown: s.LinkDown + o.LinkDown, TooBig: s.TooBig + o.TooBig, Errors: s.Errors + o.Errors,
		Discarded: s.Discarded + o.Discarded, Refused: s.Refused + o.Refused, Unreachable: s.Unreachable + o.Unreachable,
		Segmented: s.Segmented + o.Segmented, Withdrawn: s.Withdrawn + o.Withdrawn,
	}
}

// Plus returns the sum of both, for a user who replaced one Rx by another.
func (s RxStats) Plus(o RxStats) RxStats {
	return RxStats{
		Messages: s.Messages + o.Messages, Bytes: s.Bytes + o.Bytes, Truncated: s.Truncated + o.Truncated,
		SocketDrops: s.SocketDrops + o.SocketDrops, Syscalls: s.Syscalls + o.Syscalls, Waits: s.Waits + o.Waits,
		LinkDown: s.LinkDown + o.LinkDown, Errors: s.Errors + o.Errors, Coalesced: s.Coalesced + o.Coalesced,
		BadLength: s.BadLength + o.BadLength, BadHeader: s.BadHeader + o.BadHeader, Fragments: s.Fragments + o.Fragments,
		BadChecksum: s.BadChecksum + o.BadChecksum, NoChecksum: s.NoChecksum + o.NoChecksum,
		Foreign: s.Foreign + o.Foreign, Unfinished: s.Unfinished + o.Unfinished,
	}
}
