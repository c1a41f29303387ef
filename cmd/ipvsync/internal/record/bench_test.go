package record

import (
	"testing"

	"github.com/ipvsync/ipvsync/encoder"
)

func benchConns(b *testing.B) map[string]encoder.Conn {
	full := sample(b)
	plain := full
	plain.Options = nil
	six := plain
	six.Client, six.Virtual, six.Dest = endpoint("[2001:db8::1]:43938"), endpoint("[2001:db8::2]:80"), endpoint("[2001:db8:1::3]:8080")
	return map[string]encoder.Conn{"plain": plain, "ipv6": six, "all options": full}
}

func BenchmarkAppend(b *testing.B) {
	for name, c := range benchConns(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var buf []byte
			for b.Loop() {
				buf = Append(buf[:0], &c, "")
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

func BenchmarkParse(b *testing.B) {
	for name, c := range benchConns(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			text := Append(nil, &c, "")
			var p parser
			var back encoder.Conn
			for b.Loop() {
				if err := p.parse(text, &back); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	c := sample(t)
	buf := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { buf = Append(buf[:0], &c, "invalid state") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
