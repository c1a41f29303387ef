package capture

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
)

func TestFragments(t *testing.T) {
	body := strings.Repeat("0123456789abcdef", 6) + "end"
	v4, v6 := packet4(t, body), packet6(t, body)
	f4, f6 := fragments4(t, v4, 40), fragments6(v6[40:], layers.IPProtocolUDP, 40)
	// Destination options inside the fragments, in front of UDP.
	inner := slices.Concat([]byte{17, 0, 1, 4, 0, 0, 0, 0}, v6[40:])
	hidden := fragments6(inner, layers.IPProtocolIPv6Destination, 48)
	overlap := slices.Clone(f4[1])
	overlap[7]-- // one unit of 8 bytes earlier
	same := func(i ...int) (list [][]byte) {
		for _, k := range i {
			list = append(list, f4[k])
		}
		return list
	}
	for _, tt := range []struct {
		name    string
		packets [][]byte
		want    []int // packet numbers of the datagrams
		fault   Fault
		detail  string
		stats   Stats
	}{
		{"IPv4", f4, []int{3}, 0, "", Stats{Packets: 3, Fragments: 3}},
		{"IPv4, backwards", same(2, 1, 0), []int{3}, 0, "", Stats{Packets: 3, Fragments: 3}},
		{"IPv4, repeated", same(0, 1, 1, 0, 2), []int{5}, 0, "", Stats{Packets: 5, Fragments: 5}},
		{"IPv4, the same id twice", same(0, 1, 2, 2, 1, 0), []int{3, 6}, 0, "", Stats{Packets: 6, Fragments: 6}},
		{"IPv6", f6, []int{3}, 0, "", Stats{Packets: 3, Fragments: 3}},
		{"IPv6, mixed up", [][]byte{f6[1], f6[2], f6[0]}, []int{3}, 0, "", Stats{Packets: 3, Fragments: 3}},
		{"IPv6, options inside", hidden, []int{3}, 0, "", Stats{Packets: 3, Fragments: 3}},
		{"both at once", [][]byte{f4[0], f6[0], f4[1], f6[1], f6[2], f4[2]}, []int{5, 6}, 0, "", Stats{Packets: 6, Fragments: 6}},
		{"gap", same(2, 0), []int{2}, FragmentsMissing, "67 of 107 bytes are there", Stats{Packets: 2, Fragments: 2}},
		{"no last", same(0, 1), []int{1}, FragmentsMissing, "80 bytes are there, the last fragment is not", Stats{Packets: 2, Fragments: 2}},
		{"no first", same(1, 2), nil, 0, "", Stats{Packets: 2, Fragments: 2, Orphans: 2}},
		{"overlap", [][]byte{f4[0], overlap, f4[2]}, []int{1}, FragmentsMissing, "fragments overlap", Stats{Packets: 3, Fragments: 3, Orphans: 1}},
		{"not UDP inside", fragments6(v6[40:], layers.IPProtocolTCP, 40), nil, 0, "", Stats{Packets: 3, Fragments: 3}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, stats, err := readAll(t, pcap(t, layers.LinkTypeRaw, 0, tt.packets...))
			if err != nil || stats != tt.stats || len(got) != len(tt.want) {
				t.Fatalf("%v, %+v, %v", err, stats, got)
			}
			for i, d := range got {
				if d.Packet != tt.want[i] || d.Fault != tt.fault || d.Detail != tt.detail || d.Dst.Port() != 8848 {
					t.Errorf("%+v", d)
				}
				if tt.fault == NoFault && (d.body != body || d.Cut()) {
					t.Errorf("body %q", d.body)
				}
				if tt.fault != NoFault && (d.body == "" || !strings.HasPrefix(body, d.body)) {
					t.Errorf("body %q", d.body)
				}
			}
		})
	}
}

// A cut capture of fragments gives the beginning, up to the first cut.
func TestFragmentsCut(t *testing.T) {
	body := strings.Repeat("0123456789abcdef", 6)
	got, _, err := readAll(t, pcap(t, layers.LinkTypeRaw, 50, fragments4(t, packet4(t, body), 40)...))
	if err != nil || len(got) != 1 {
		t.Fatalf("%v, %d datagrams", err, len(got))
	}
	if d := got[0]; d.body != body[:22] || d.Length != len(body) || !d.Cut() || d.Fault != NoFault {
		t.Errorf("%+v", d)
	}
}

// After 30 seconds a datagram is given up, and its id may come again.
func TestFragmentsExpire(t *testing.T) {
	list := fragments4(t, packet4(t, strings.Repeat("x", 64)), 40)
	var r reassembler
	add := func(packet []byte, number int, after time.Duration) (*pending, []*pending) {
		var p ipPacket
		if k := p.parse(packet, len(packet)); k != isIP || !p.fragment {
			t.Fatalf("kind %v", k)
		}
		return r.add(&p, number, start.Add(after))
	}
	if whole, given := add(list[0], 1, 0); whole != nil || len(given) != 0 {
		t.Fatal(whole, given)
	}
	if whole, given := add(list[1], 2, 31*time.Second); whole != nil || len(given) != 1 || given[0].packet != 1 {
		t.Fatal(whole, given)
	}
	if whole, given := add(list[0], 3, 61*time.Second); whole == nil || len(given) != 0 {
		t.Fatal(whole, given)
	}
	if len(r.queue) != 0 {
		t.Errorf("%d left", len(r.queue))
	}
}

func TestFragmentsAreBounded(t *testing.T) {
	var r reassembler
	lost := 0
	first := fragments4(t, packet4(t, strings.Repeat("x", 64)), 40)[0]
	for i := range 3 * maxPending {
		var p ipPacket
		p.parse(first, len(first))
		p.id = uint32(i)
		_, given := r.add(&p, i, start)
		lost += len(given)
	}
	if len(r.queue) > maxPending+1 || lost+len(r.queue) != 3*maxPending {
		t.Errorf("%d wait, %d given up", len(r.queue), lost)
	}
}

// Any order with any repeats gives the datagram back.
func TestFragmentsAnyOrder(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		body := make([]byte, 1000+rng.IntN(2000))
		for i := range body {
			body[i] = byte(rng.Uint32())
		}
		// At most 12 pieces: the packets are a second apart, and 30 are too many.
		list := fragments4(t, packet4(t, string(body)), 8*(32+rng.IntN(90)))
		pieces := len(list)
		last := rng.IntN(pieces) // comes once, at the end; any other may come twice
		final := list[last]
		for i := range pieces {
			if i != last && rng.IntN(2) == 0 {
				list = append(list, list[i])
			}
		}
		list = slices.Delete(list, last, last+1)
		rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		got, _, err := readAll(t, pcap(t, layers.LinkTypeRaw, 0, append(list, final)...))
		if err != nil || len(got) != 1 || got[0].body != string(body) || got[0].Fault != NoFault {
			t.Fatalf("seed %d: %v, %d datagrams of %d bytes in %d pieces", seed, err, len(got), len(body), pieces)
		}
	}
}
