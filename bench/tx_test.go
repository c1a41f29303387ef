package bench

import (
	"testing"

	"github.com/ipvsync/ipvsync/xsk"
)

// A turn of the TX benchmarks is some milliseconds.
const txTurn = 10_000

// BenchmarkXDPTx: the engine over AF_XDP in copy mode, from Shard.PublishBatch
// to the kernel, against what else there is.
func BenchmarkXDPTx(b *testing.B) {
	ours := func(b *testing.B, sum xsk.UDPChecksum) side {
		return newPath(b).engine("engine", overXDP(sum), 1<<20, spin)
	}
	for _, c := range []struct {
		name string
		sum  xsk.UDPChecksum
	}{{"", xsk.ChecksumFull}, {", no UDP checksum,", xsk.ChecksumZero}} {
		run := func(name string, theirs func(p *path) side) {
			b.Run("engine"+c.name+" against "+name, func(b *testing.B) {
				needProcessors(b)
				duel(b, txTurn, ours(b, c.sum), theirs(newPath(b)))
			})
		}
		run("bare loop", (*path).bareXDP)
		run("asavie encoding", func(p *path) side { return p.asavie(true) })
		run("asavie prefilled", func(p *path) side { return p.asavie(false) })
		run("asavie as in its example", (*path).asavieExample)
		run("sendmmsg", func(p *path) side { return p.direct("sendmmsg", overUDP(xsk.OffloadOff), false) })
	}
	b.Run("encoding in the sending goroutine against bare loop", func(b *testing.B) {
		duel(b, txTurn, newPath(b).direct("direct", overXDP(xsk.ChecksumFull), true), newPath(b).bareXDP())
	})
	for name, theirs := range map[string]func(p *path) side{
		"asavie encoding": func(p *path) side { return p.asavie(true) },
		"sendmmsg":        func(p *path) side { return p.direct("sendmmsg", overUDP(xsk.OffloadOff), false) },
	} {
		b.Run("encoding in the sending goroutine against "+name, func(b *testing.B) {
			duel(b, txTurn, newPath(b).direct("direct", overXDP(xsk.ChecksumZero), true), theirs(newPath(b)))
		})
	}
	b.Run("prefilled against bare loop", func(b *testing.B) {
		duel(b, txTurn, newPath(b).direct("prefilled", overXDP(xsk.ChecksumFull), false), newPath(b).bareXDP())
	})
}

// BenchmarkGSOTx: the same over UDP with GSO.
func BenchmarkGSOTx(b *testing.B) {
	const turn = 20 * udpBatch * 10
	run := func(name string, theirs func(p *path) side) {
		b.Run("engine against "+name, func(b *testing.B) {
			needProcessors(b)
			duel(b, turn, newPath(b).engine("engine", overUDP(xsk.OffloadOn), 1<<20, spin), theirs(newPath(b)))
		})
		b.Run("encoding in the sending goroutine against "+name, func(b *testing.B) {
			duel(b, turn, newPath(b).direct("direct", overUDP(xsk.OffloadOn), true), theirs(newPath(b)))
		})
	}
	run("bare loop", (*path).bareGSO)
	run("sendmmsg", func(p *path) side { return p.direct("sendmmsg", overUDP(xsk.OffloadOff), false) })
}
