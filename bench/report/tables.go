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
}

var sections = []section{
	{bench: "XDPTx", title: "Sending by AF_XDP, copy mode", text: "From `Shard.PublishBatch` to the far end of a veth pair, against bare loops, which encode nothing, and other libraries."},
	{bench: "GSOTx", title: "Sending by UDP with GSO", text: "A veth pair never cuts trains apart, so this is the kernel's cost without a NIC's."},
	{bench: "TxLibraries", title: "Sending, beside Go's own ways", text: "`net.UDPConn` a message, and the batches of golang.org/x/net (sendmmsg, 64)."},
	{bench: "XDPRx", title: "Receiving by AF_XDP, copy mode", text: "Up to the handler, which looks at each connection, from a flood of a bare sender."},
	{bench: "RxLibraries", title: "Receiving, beside Go's own ways", text: "The same, against sockets read by Go's libraries and decoded by ours."},
	{bench: "BothEnds", title: "From published records to the handler", text: "Both ends on one machine."},
	{bench: "Queue", title: "Queues", text: "Records of 36 bytes from one goroutine to another (SPSC), or from two to one (MPSC), copied in and out. " +
		"[xsync](https://github.com/puzpuzpuz/xsync) is a well-kept library, one record a call. *SPSC* hands over up to 40 records by one publish."},
	{bench: "Encode", title: "Encoding", text: "40 connections into one message, in memory."},
	{bench: "Decode", title: "Decoding", text: "A message of 40 records. Only ours takes a Linux backup's decision on each record."},
	{bench: "Latency", title: "Latency", text: "From the moment an update is due to be published until the handler has it, at parts of the most that arrived of a flood in the same run. " +
		"*immediately* is `FlushInterval: Immediately`. Bursts every 100 µs. *Late* is the publisher's own lateness, which is part of the figures: on fewer than four processors, BusyPoll at " +
		"both ends leaves none for it, and its tail is the scheduler's.",
		plots: []string{"latency-1", "latency-50", "latency-90"},
		units: []string{"Mrec/s", "p50-µs", "p99-µs", "p99.9-µs", "max-µs", "late-p99-µs", "lost-%", "cpu-ns/rec"}},
	{bench: "ScaleFlows", title: "Cost against flows", text: "`Table.Apply`, refreshes in random order, beside a Go map that knows no rules and has no readers.",
		plots: []string{"flows"}, units: []string{"ns/rec", "cpu-ns/rec", "B/flow", "lost-%"}},
	{bench: "ScaleShards", title: "Cost against shards", text: "One publisher, one loop, no network. Each shard has two rings of 1 MiB, of which memory is taken when they fill.",
		plots: []string{"shards"}, units: []string{"ns/rec", "cpu-ns/rec", "MiB", "lost-%"}},
	{bench: "ScalePorts", title: "Cost against ports", text: "8 shards; a transmit loop for each port.", plots: []string{"ports"},
		units: []string{"ns/rec", "cpu-ns/rec", "MiB", "lost-%"}},
	{bench: "KernelFirstLoss", title: "A kernel backup and ours, side by side", text: "In one guest of the kernel lab, on one emulated processor, the same stream to both at once: " +
		"only the ratio means anything. The rate goes up by half each second until a receiver loses; the table has the highest rate without a loss, " +
		"what was lost at the next, and the CPU time of the kernel's thread, or our process. Both sockets have the kernel's default buffer."},
	{bench: "KernelStaleness", title: "How stale a backup is", text: "From the packet, or the call of Publish, to the message on the wire. The kernel keeps a message that is not full for up to two seconds."},
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
		b.WriteString(plainTable(rows, s.units))
	}
	b.WriteString("\n")
	return b.String()
}

func isDuel(rows []*row) bool { return len(rows) > 0 && len(rows[0].values["x"]) > 0 }

func duelTable(rows []*row) string {
	var b strings.Builder
	b.WriteString("| ours against | M records/s | theirs | ratio | lost, ours / theirs | CPU ns a record, ours / theirs |\n| --- | --: | --: | --: | --: | --: |\n")
	for _, r := range rows {
		ratio := cell(r, "x")
		if r.median("x") < 1 {
			ratio = "**" + ratio + "**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s / %s %% | %s / %s |\n", r.name, cell(r, "Mrec/s"), cell(r, "opponent-Mrec/s"), ratio,
			number(r.median("lost-%")), number(r.median("opponent-lost-%")), number(r.median("cpu-ns/rec")), number(r.median("opponent-cpu-ns/rec")))
	}
	return b.String()
}

func plainTable(rows []*row, units []string) string {
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
	b.WriteString("\n| --- |" + strings.Repeat(" --: |", len(units)) + "\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s |", r.name)
		for _, u := range units {
			fmt.Fprintf(&b, " %s |", cell(r, u))
		}
		b.WriteString("\n")
	}
	return b.String()
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
