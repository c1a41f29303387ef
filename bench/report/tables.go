package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// A section of the page shows one benchmark function.
type section struct {
	bench string
	title string
	text  string
	plots []string // names of files; duels have one of their own
	units []string // columns and their order; none: all that there are

	// Rows that others are measured against, with a column for each: the time of the
	// row by that of the baseline, which is the row of this name, or of this name
	// behind the same group ("1M/map").
	baselines []string
}

var sections = []section{
	{bench: "Publish", title: "Publishing", text: "One goroutine hands updates of IPv4 connections to a ring that has room.",
		units: []string{"ns/op"}, baselines: []string{"opponent: copy 36 bytes twice", "opponent: channel"}},
	{bench: "PublishFromTwo", title: "Publishing from two goroutines", text: "`Sender.Publish` may be called by anybody; one loop gathers. Time of one update, both goroutines at work.",
		units: []string{"ns/op"}, baselines: []string{"opponent: mutex and slice", "opponent: channel"}},
	{bench: "PublishTail", title: "The longest calls", text: "Each call of the same two goroutines, with the two looks at the clock around it. The ring and its opponents have room; *max* is mostly the scheduler's.",
		units: []string{"p50-ns", "p99-ns", "p99.99-ns", "max-µs"}},
	{bench: "Queue", title: "Queues", text: "Records of 36 bytes from one goroutine to another (SPSC), or from two to one (MPSC), copied in and out. " +
		"[xsync](https://github.com/puzpuzpuz/xsync) is a well-kept library, one record a call. *SPSC* hands over up to 40 records by one publish. " +
		"*Slots* is a ring of fixed slots in 50 lines of plain Go."},
	{bench: "Rings", title: "Rings alone", text: "Records of 64 bytes, published 32 at a time, one record.", units: []string{"ns/record"}, baselines: []string{"opponent: copy 64 bytes"}},
	{bench: "Loop", title: "From a ring to a message", text: "The transmit loop alone, one record.", units: []string{"ns/op"}, baselines: []string{"opponent: copy 36 bytes"}},
	{bench: "LoopTransports", title: "From filled rings to the network, one processor", text: "The transmit loop and the kernel, a message of 40 records, without a producer; *bare* is a loop that sends the same frames over and over.",
		units: []string{"ns/msg", "bare-ns/msg", "x"}},
	{bench: "Engine", title: "The engine without a network", text: "One producer, its ring, the loop, and a transport that discards. *full* is how often the producer found the ring full.",
		units: []string{"M/s", "full/op"}},
	{bench: "XDPTx", title: "Sending by AF_XDP, copy mode", text: "From `Shard.PublishBatch` to the far end of a veth pair. The bare loop sends the same frames over and over, and so do *prefilled* opponents; *encoding* ones encode each record."},
	{bench: "GSOTx", title: "Sending by UDP with GSO", text: "A veth pair never cuts trains apart, so this is the kernel's cost without a NIC's."},
	{bench: "TxLibraries", title: "Sending, beside Go's own ways", text: "`net.UDPConn` a message, the same with `UDP_SEGMENT` (GSO) for 44 messages a `Write`, and the batches of golang.org/x/net (sendmmsg, 64). *Encoding* opponents make the records in the goroutine that sends, so they have no ring and no second processor. Our producer, where its ring is full, sleeps over AF_XDP, and turns on its processor over GSO: that is part of our CPU time."},
	{bench: "XDPRx", title: "Receiving by AF_XDP, copy mode", text: "Up to the handler, which looks at each connection, from a flood of a bare sender. The bare loop receives, looks at a byte of each message, and releases; the reading loop reads all records, which then have to come from the sender's processor. All nap for 20 µs when there is nothing. Both sides have 4096 frames of 2 KiB, or 1024."},
	{bench: "RxLibraries", title: "Receiving, beside Go's own ways", text: "The same, against sockets read by Go's libraries and decoded by our decoder. x/net allocates twice a message."},
	{bench: "BothEnds", title: "From published records to the handler", text: "Both ends on one machine of two processors. The engine has a thread more than its opponents, the producer, which shares a processor with the sender or with the receiver."},
	{bench: "Encode", title: "Encoding", text: "40 connections into one message, in memory. *Binary* is encoding/binary."},
	{bench: "Decode", title: "Decoding", text: "A message of 40 records. Only ours takes a Linux backup's decision on each record."},
	{bench: "HotPaths", title: "Records of every kind", text: "`AppendRecord`: one record; *Writer* and *Decoder*: a message of as many. *sip* has engine data, *raw* is a record encoded before.",
		units: []string{"ns/op"}},
	{bench: "Kernels", title: "One record, inlined and called", text: "Whether assembly, which cannot be inlined, could do better.", units: []string{"ns/op"}},
	{bench: "Latency", title: "Latency", text: "From the moment an update is due to be published until the handler has it, at parts of the most that arrived of a flood with default settings. " +
		"*immediately* is `FlushInterval: Immediately`. Bursts every 100 µs. *Late* is the publisher's own lateness, which is part of the figures: on fewer than four processors, BusyPoll at " +
		"both ends leaves none for it, and its tail is the scheduler's. What was lost has no latency, so a row with losses looks better than it is.",
		plots: []string{"latency-1", "latency-50", "latency-90"},
		units: []string{"Mrec/s", "p50-µs", "p99-µs", "p99.9-µs", "max-µs", "late-p99-µs", "lost-%", "cpu-ns/rec"}},
	{bench: "Age", title: "How long an update waits until its message is sealed", text: "", units: []string{"p50-µs", "p99-µs", "max-µs"}},
	{bench: "Idle", title: "A sender without work", text: "", units: []string{"CPU-µs/s"}},
	{bench: "TableApply", title: "The table: refreshes", text: "In random order, 40 records a message. *map* has `Conn` and `Endpoint` as they are, for both families; *IPv4 map* key and entry packed by hand, and pointers to entries; " +
		"*of values* none. None of these ends an entry when its time is over, or can be read meanwhile. *making* is making the records, which is part of all.",
		units: []string{"ns/op", "B/flow"}, baselines: []string{"map", "IPv4 map of values"}},
	{bench: "TableAdd", title: "The table: new connections", text: "Three millions of them.", units: []string{"ns/op"}, baselines: []string{"table"}},
	{bench: "TableLookup", title: "The table: lookups", text: "A million flows, two readers that look up 40 random keys a turn, with or without a writer that refreshes as fast as it can, on two processors. *xsync* is `xsync.Map` of pointers to entries; *of values*, it holds them itself. *Map in 1024 pieces* is Go's map, a read-write lock for each piece.",
		units: []string{"ns/op", "updates/lookup"}, baselines: []string{"xsync values", "map in 1024 pieces"}},
	{bench: "TableGC", title: "The table: garbage collection", text: "A collection with ten million flows in memory.", units: []string{"cpu-ns/op", "pause-ns/op"}, baselines: nil},
	{bench: "ScaleFlows", title: "Cost against flows", text: "`Table.Apply`, refreshes in random order, beside a Go map that knows no rules and has no readers.",
		plots: []string{"flows"}, units: []string{"ns/rec", "cpu-ns/rec", "B/flow", "lost-%"}},
	{bench: "ScaleShards", title: "Cost against shards", text: "One publisher, one loop, no network. Each shard has two rings of 1 MiB, of which memory is taken when they fill. " +
		"An operation is 1000 messages; one shard holds half of them, so there the publisher meets a full ring while the loop, which sleeps until the ring is half full, wakes up.",
		plots: []string{"shards"}, units: []string{"ns/rec", "cpu-ns/rec", "MiB", "lost-%"}},
	{bench: "ScalePorts", title: "Cost against ports", text: "8 shards; a transmit loop for each port.", plots: []string{"ports"},
		units: []string{"ns/rec", "cpu-ns/rec", "MiB", "lost-%"}},
	{bench: "KernelFirstLoss", title: "A kernel backup and ours, side by side", text: "In one guest of the kernel lab, on one emulated processor, the same stream to both at once: " +
		"only the ratio means anything. The rate goes up by a fifth each second until a receiver loses; the table has the highest rate without a loss, " +
		"what was lost at the next, and the CPU time of the kernel's thread, or our process. Both sockets have the kernel's default buffer."},
	{bench: "KernelStaleness", title: "How stale a backup is", text: "From the packet, for a kernel master in an emulated guest, or from the moment at which an update is due, for ours on the host, to the message on the wire. The kernel keeps a message that is not full for up to two seconds."},
}

// sectionOf finds a benchmark's section, or makes one of its name.
func sectionOf(bench string) *section {
	for i := range sections {
		if sections[i].bench == bench {
			return &sections[i]
		}
	}
	return &section{bench: bench, title: bench}
}

// render is the section with its table.
func (s *section) render(rows []*row, plots string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n", s.title)
	if s.text != "" {
		fmt.Fprintf(&b, "%s\n\n", s.text)
	}
	for _, p := range s.plots {
		fmt.Fprintf(&b, "![%s](%s/%s.svg)\n\n", s.title, plots, p)
	}
	if isDuel(rows) {
		fmt.Fprintf(&b, "![%s](%s/%s.svg)\n\n", s.title, plots, duelPlot(s.bench))
		b.WriteString(duelTable(rows))
	} else {
		b.WriteString(plainTable(rows, s.units, s.baselines))
	}
	b.WriteString("\n")
	return b.String()
}

func isDuel(rows []*row) bool { return len(rows) > 0 && len(rows[0].values["opponent-Mrec/s"]) > 0 }

func duelTable(rows []*row) string {
	var b strings.Builder
	b.WriteString("| ours against | ours, M records/s | theirs, M records/s | ratio | lost, ours / theirs | CPU ns a record, ours / theirs |\n| --- | --: | --: | --: | --: | --: |\n")
	for _, r := range rows {
		ratio := cell(r, "x")
		if r.median("x") < 1 {
			ratio = "**" + ratio + "**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s / %s | %s / %s |\n", r.name, cell(r, "Mrec/s"), cell(r, "opponent-Mrec/s"), ratio,
			lost(r, "lost-%"), lost(r, "opponent-lost-%"), number(r.median("cpu-ns/rec")), number(r.median("opponent-cpu-ns/rec")))
	}
	return b.String()
}

func plainTable(rows []*row, units, baselines []string) string {
	if units == nil {
		for _, r := range rows {
			for u, v := range r.values {
				if !slices.Contains(units, u) && !(u == "ns/op" && slices.Max(v) == 0) {
					units = append(units, u)
				}
			}
		}
		slices.Sort(units)
	}
	var b strings.Builder
	b.WriteString("| |")
	for _, u := range units {
		fmt.Fprintf(&b, " %s |", u)
	}
	for _, name := range baselines {
		fmt.Fprintf(&b, " time by that of *%s* |", strings.TrimPrefix(name, "opponent: "))
	}
	b.WriteString("\n| --- |" + strings.Repeat(" --: |", len(units)+len(baselines)) + "\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s |", r.name)
		for _, u := range units {
			fmt.Fprintf(&b, " %s |", cell(r, u))
		}
		for _, name := range baselines {
			fmt.Fprintf(&b, " %s |", against(rows, r, name))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// against is the time of a row by that of the baseline in its group.
func against(rows []*row, r *row, name string) string {
	const unit = "ns/op"
	if i := strings.LastIndexByte(r.name, '/'); i >= 0 {
		name = r.name[:i+1] + name
	}
	for _, base := range rows {
		if base.name == name && base != r && base.median(unit) > 0 {
			return number(r.median(unit) / base.median(unit))
		}
	}
	return ""
}

// lost is the most that any repetition lost.
func lost(r *row, unit string) string {
	s, ok := r.spread(unit)
	if !ok || s.most == 0 {
		return "0"
	}
	if s.n == 1 || s.median == s.most {
		return number(s.most) + " %"
	}
	return fmt.Sprintf("%s %%, at worst %s %%", number(s.median), number(s.most))
}

// cell is a median with its spread.
func cell(r *row, unit string) string {
	s, ok := r.spread(unit)
	if !ok {
		return "–"
	}
	if s.n == 1 || s.least == s.most {
		return number(s.median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.median), number(s.least), number(s.most))
}

// number has three digits that mean something.
func number(x float64) string {
	if x == 0 {
		return "0"
	}
	x, _ = strconv.ParseFloat(strconv.FormatFloat(x, 'e', 2, 64), 64)
	digits := 2 - int(math.Floor(math.Log10(math.Abs(x))))
	if digits <= 0 {
		return strconv.FormatFloat(x, 'f', 0, 64)
	}
	return strconv.FormatFloat(x, 'f', min(digits, 4), 64)
}
