package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/pprof/profile"
)

// A path is a piece of the project whose time is taken apart: those samples of a
// benchmark's CPU profile that have a function of focus on their stack.
type path struct {
	name  string
	pkg   string
	bench string
	focus *regexp.Regexp
	limit string    // what keeps it from being faster
	duel  [2]string // benchmark and case whose ratio is the distance from that
	own   string    // kind of what is else the engine's
}

var paths = []path{
	{"Publish", ".", "^BenchmarkPublish$/^Shard.Publish$", regexp.MustCompile(`\(\*Shard\)\.Publish`),
		"stores that go through to the second-level cache: 48 bytes an update", [2]string{}, ""},
	{"transmit loop", ".", "^BenchmarkEngine$/^PublishBatch", regexp.MustCompile(`\(\*port\)\.run$`),
		"memory: cache lines come from the producer's processor, and *copy* waits for them", [2]string{}, ""},
	{"AF_XDP TX", "./bench", "^BenchmarkXDPTx$/^engine_against_bare_loop$", regexp.MustCompile(`\(\*port\)\.run$`),
		"skb: an allocation, a copy and a walk through the driver for each packet", [2]string{"XDPTx", "engine against bare loop"}, ""},
	{"GSO TX", "./bench", "^BenchmarkGSOTx$/^engine_against_bare_loop$", regexp.MustCompile(`\(\*port\)\.run$`),
		"memory, twice: from the producer's processor into the message, from there into the kernel", [2]string{"GSOTx", "engine against bare loop"}, ""},
	{"AF_XDP RX", "./bench", "^BenchmarkXDPRx$/^decoding_against_bare_loop$", regexp.MustCompile(`\(\*Receiver\)\.Run$`),
		"cache lines that the kernel wrote on another processor: *decode* waits for them", [2]string{"XDPRx", "decoding against bare loop"}, ""},
	{"Table.Apply", "./bench", "^BenchmarkScaleFlows$/^Table,_flows=1000000$", regexp.MustCompile(`\(\*Table\)\.Apply$`),
		"DRAM: two cache lines of a random flow", [2]string{}, "table's rules"},
}

func (p *path) stem() string { return strings.ReplaceAll(strings.ToLower(p.name), " ", "-") }
func (p *path) file() string { return p.stem() + profileEnd }

const profileEnd = ".prof"

// runProfile leaves data/<name>.prof.
func (c *collector) runProfile(ctx context.Context, p path) error {
	fresh := c.path(p.file() + ".new")
	// The test binary would stay where go test runs.
	out, err := c.goTest(ctx, []string{"test", "-run", "^$", "-bench", p.bench, "-benchtime", "5s",
		"-cpuprofile", fresh, "-o", c.path("profiled.test"), p.pkg}, "")
	if err != nil {
		return c.keepFailed(p.stem(), out, err)
	}
	if err := os.Rename(fresh, c.path(p.file())); err != nil {
		return err
	}
	return c.forgetFailed(p.stem())
}

// What a sample was spent on is decided by its innermost function that says so.
var kinds = []struct {
	name  string
	match *regexp.Regexp
}{
	{"kernel", regexp.MustCompile(`^(internal/runtime/syscall|syscall|golang\.org/x/sys/unix)\.|^runtime\.(futex|epoll|usleep|osyield|nanosleep|tgkill)`)},
	{"copy", regexp.MustCompile(`^runtime\.(memmove|typedmemmove)$|\.\(\*Writer\)\.Append(Raw|PlainIPv4s?)$|ipvsync\.copy`)},
	{"checksum", regexp.MustCompile(`ipvsync/xsk\.(.*[cC]hecksum|sum[A-Z])`)},
	{"ring", regexp.MustCompile(`ipvsync/ring\.`)},
	{"encode, decode", regexp.MustCompile(`ipvsync/encoder\.`)},
	{"packets", regexp.MustCompile(`ipvsync/xsk\.`)},
	{"find entries", regexp.MustCompile(`ipvsync\.(prefetch[A-Za-z]*|\(\*(Table|tableShard)\)\.(prefetch|find|is|read)|\(\*(index|region)\)\..*)$`)},
	{"engine", regexp.MustCompile(`ipvsync/ipvsync\.`)},
	{"benchmark", regexp.MustCompile(`ipvsync/bench`)},
	{"table's rules", nothing}, // by path.own
	{"runtime", nothing},
}

var nothing = regexp.MustCompile(`^\b$`)

// profiled is a path and where its time went.
type profiled struct {
	path
	shares  map[string]float64 // of kinds, sum 1
	samples int
}

func (p *path) read(dir string) (profiled, error) {
	f, err := os.Open(filepath.Join(dir, p.file()))
	if err != nil {
		return profiled{}, err
	}
	defer f.Close()
	prof, err := profile.Parse(f)
	if err != nil {
		return profiled{}, err
	}
	return p.takeApart(prof), nil
}

func (p *path) takeApart(prof *profile.Profile) profiled {
	got := profiled{path: *p, shares: map[string]float64{}}
	total := 0.0
	for _, s := range prof.Sample {
		stack := frames(s)
		at := -1
		for i, name := range stack {
			if p.focus.MatchString(name) {
				at = i
				break
			}
		}
		if at < 0 {
			continue
		}
		kind := kindOf(stack[:at+1])
		if kind == "engine" && p.own != "" {
			kind = p.own
		}
		got.shares[kind] += float64(s.Value[0])
		got.samples += int(s.Value[0])
		total += float64(s.Value[0])
	}
	for k := range got.shares {
		got.shares[k] /= total
	}
	return got
}

// frames are the functions on a stack, the innermost first, inlined ones too.
func frames(s *profile.Sample) (names []string) {
	for _, l := range s.Location {
		for _, line := range l.Line {
			if line.Function != nil {
				names = append(names, line.Function.Name)
			}
		}
	}
	return names
}

// kindOf looks from the inside out for the first function that any kind but the
// last knows.
func kindOf(stack []string) string {
	for _, name := range stack {
		for _, k := range kinds[:len(kinds)-1] {
			if k.match.MatchString(name) {
				return k.name
			}
		}
	}
	return kinds[len(kinds)-1].name
}

func profileTable(res *results) string {
	if len(res.profiles) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("### Where the time goes\n\nShares of the CPU time of each path, in percent, from a profile of its benchmark; `bench/report/profile.go` says which function is what. " +
		"*kernel* is system calls; *copy* is bytes moved by us; *ring* the bookkeeping of our rings, *packets* that of frames, headers and sockets. " +
		"*Distance* is the rate as a part of what a bare loop reaches that does nothing else.\n\n| path |")
	var used []string
	for _, k := range kinds {
		for _, p := range res.profiles {
			if p.shares[k.name] >= 0.005 {
				used = append(used, k.name)
				fmt.Fprintf(&b, " %s |", k.name)
				break
			}
		}
	}
	b.WriteString(" samples | limit | distance |\n| --- |" + strings.Repeat(" --: |", len(used)+1) + " --- | --: |\n")
	for _, p := range res.profiles {
		fmt.Fprintf(&b, "| %s |", p.name)
		for _, k := range used {
			fmt.Fprintf(&b, " %.0f |", 100*p.shares[k])
		}
		distance := "–"
		if r := res.find(p.duel[0], p.duel[1]); r != nil {
			distance = cell(r, "x")
		}
		fmt.Fprintf(&b, " %d | %s | %s |\n", p.samples, p.limit, distance)
	}
	return b.String() + "\n"
}
