package bench

import (
	"testing"

	"github.com/ipvsync/ipvsync/xsk"
)

// A turn of the benchmarks that send is some tenths of a second. After turns of some
// milliseconds part of what one side did is left to the other: sockets that send to a
// group take a route for each message, which the kernel frees some ten milliseconds
// later (RCU), and the engine was a quarter slower beside them.
const (
	txTurn  = 400_000
	gsoTurn = 9_000 * udpBatch
)

// BenchmarkXDPTx: the engine over AF_XDP in copy mode, from Shard.PublishBatch
// to the kernel, against what else there is. The UDP checksum is left to the device
// where that can be done, as by default; asavie/xdp and the bare loop have none.
func BenchmarkXDPTx(b *testing.B) {
	run := func(name string, ours, theirs func(p *path) side) {
		b.Run(name, func(b *testing.B) {
			needProcessors(b)
			duel(b, txTurn, ours(newPath(b)), theirs(newPath(b)))
		})
	}
	engine := func(sum xsk.UDPChecksum) func(p *path) side {
		return func(p *path) side { return p.engine("engine", overXDP(sum), 1<<20, rest) }
	}
	direct := func(sum xsk.UDPChecksum, write bool) func(p *path) side {
		return func(p *path) side { return p.direct("direct", overXDP(sum), write) }
	}
	asavieEncoding := func(p *path) side { return p.asavie(true) }
	sendmmsg := func(p *path) side { return p.direct("sendmmsg", overUDP(xsk.OffloadOff), false) }

	run("engine against bare loop", engine(xsk.ChecksumAuto), (*path).bareXDP)
	run("engine against asavie encoding", engine(xsk.ChecksumAuto), asavieEncoding)
	run("engine against asavie prefilled", engine(xsk.ChecksumAuto), func(p *path) side { return p.asavie(false) })
	run("engine against asavie prefilled, as in its example", engine(xsk.ChecksumAuto), (*path).asavieExample)
	run("engine against sendmmsg prefilled", engine(xsk.ChecksumAuto), sendmmsg)
	run("engine, checksum by us, against bare loop", engine(xsk.ChecksumFull), (*path).bareXDP)
	run("engine, no checksum, against asavie encoding", engine(xsk.ChecksumZero), asavieEncoding)
	run("encoding in the sending goroutine against bare loop", direct(xsk.ChecksumAuto, true), (*path).bareXDP)
	run("encoding in the sending goroutine, no checksum, against asavie encoding", direct(xsk.ChecksumZero, true), asavieEncoding)
	run("encoding in the sending goroutine against sendmmsg prefilled", direct(xsk.ChecksumAuto, true), sendmmsg)
	run("prefilled against bare loop", direct(xsk.ChecksumAuto, false), (*path).bareXDP)
}

// BenchmarkGSOTx: the same over UDP with GSO.
func BenchmarkGSOTx(b *testing.B) {
	run := func(name string, theirs func(p *path) side) {
		b.Run("engine against "+name, func(b *testing.B) {
			needProcessors(b)
			duel(b, gsoTurn, newPath(b).engine("engine", overUDP(xsk.OffloadOn), 1<<20, spin), theirs(newPath(b)))
		})
		b.Run("encoding in the sending goroutine against "+name, func(b *testing.B) {
			duel(b, gsoTurn, newPath(b).direct("direct", overUDP(xsk.OffloadOn), true), theirs(newPath(b)))
		})
	}
	run("bare loop", (*path).bareGSO)
	run("sendmmsg prefilled", func(p *path) side { return p.direct("sendmmsg", overUDP(xsk.OffloadOff), false) })
}
