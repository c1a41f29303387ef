package encoder

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestWriterLaysOutAsTheKernel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	all := samples(t)
	for range 500 {
		v := Version(rng.IntN(2))
		limit := MinMessageSize + rng.IntN(3000)
		buf := bytes.Repeat([]byte{0xa5}, limit+8)
		var w Writer
		if err := w.Init(buf[:limit], v, 7); err != nil {
			t.Fatal(err)
		}
		// The slow twin: records in a list, laid out by hand.
		var recs [][]byte
		for {
			c := all[rng.IntN(len(all))]
			if v == Version0 {
				c = []Conn{conn4(), connSeq(t)}[rng.IntN(2)]
			}
			rec := record(t, v, c)
			want := len(message(v, 7, append(slices.Clip(recs), rec)...)) <= limit && len(recs) < MaxRecords
			least := map[Version]int{0: simpleSizeV0, 1: fixedSizeV4}[v]
			full := len(message(v, 7, append(slices.Clip(recs), make([]byte, least))...)) > limit || len(recs) == MaxRecords
			if w.Full() != full {
				t.Fatalf("Full: %v with %d records, %d of %d bytes", !full, w.Count(), w.Size(), limit)
			}
			if rng.IntN(2) == 0 {
				got := len(rec) == PlainIPv4Size && w.AppendPlainIPv4(rec) || w.AppendRaw(rec)
				if got != want {
					t.Fatalf("AppendRaw: %v, want %v", got, want)
				}
			} else {
				err := w.Append(&c)
				if (err == nil) != want {
					t.Fatalf("Append: %v, want %v", err, want)
				}
				if err != nil && len(recs) > 0 && !errors.Is(err, ErrFull) {
					t.Fatalf("Append: %v", err)
				}
			}
			if !want {
				break
			}
			recs = append(recs, rec)
		}
		want := message(v, 7, recs...)
		if w.Count() != len(recs) || w.Size() != len(want) {
			t.Fatalf("%d records, %d bytes", w.Count(), w.Size())
		}
		got := w.Seal()
		if !bytes.Equal(got, want) {
			t.Fatalf("got  %x\nwant %x", got, want)
		}
		if &got[0] != &buf[0] {
			t.Fatal("the message does not lie in the caller's buffer")
		}
		if !bytes.Equal(buf[limit:], bytes.Repeat([]byte{0xa5}, 8)) {
			t.Fatal("written past the limit")
		}
	}
}

// Many at once are as one after the other, as far as they fit, wherever the
// message stands.
func TestAppendPlainIPv4s(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	all := samples(t)
	whole := 0
	for range 2000 {
		limit := MinMessageSize + rng.IntN(12000)
		var fast, slow Writer
		for _, w := range []*Writer{&fast, &slow} {
			if err := w.Init(make([]byte, limit), Version1, 7); err != nil {
				t.Fatal(err)
			}
		}
		for range rng.IntN(4) { // some with options, so that padding is due
			c := all[rng.IntN(len(all))]
			if fast.Append(&c) == nil && slow.Append(&c) != nil {
				t.Fatal("a twin refuses")
			}
		}
		var recs []byte
		for i := range rng.IntN(300) {
			c := conn4()
			c.Timeout = uint32(i)
			recs = append(recs, record(t, Version1, c)...)
		}
		n := fast.AppendPlainIPv4s(recs)
		if n < 0 || n*PlainIPv4Size > len(recs) {
			t.Fatalf("%d records of %d bytes", n, len(recs))
		}
		for i := range n {
			if !slow.AppendRaw(recs[i*PlainIPv4Size:][:PlainIPv4Size]) {
				t.Fatalf("record %d of %d does not fit", i, n)
			}
		}
		if rest := recs[n*PlainIPv4Size:]; len(rest) > 0 && slow.AppendRaw(rest[:PlainIPv4Size]) {
			t.Fatalf("%d fitted, and one more would have", n)
		} else if n > 0 && len(rest) == 0 {
			whole++
		}
		if !bytes.Equal(fast.Seal(), slow.Seal()) {
			t.Fatal("the messages differ")
		}
	}
	if whole == 0 {
		t.Error("never did all records fit")
	}
}

func TestWriterCountNeverWraps(t *testing.T) {
	for _, v := range []Version{0, 1} {
		var w Writer
		if err := w.Init(make([]byte, MaxMessageSize), v, 1); err != nil {
			t.Fatal(err)
		}
		c := conn4()
		for i := range MaxRecords {
			if err := w.Append(&c); err != nil {
				t.Fatalf("record %d: %v", i, err)
			}
		}
		if err := w.Append(&c); !errors.Is(err, ErrFull) {
			t.Errorf("record 256: %v", err)
		}
		if w.AppendRaw(record(t, v, c)) {
			t.Error("record 256 fitted")
		}
		if rs := walk(new(Decoder), w.Seal()); len(rs) != MaxRecords {
			t.Errorf("%d records", len(rs))
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	var w Writer
	if w.Seal() != nil {
		t.Error("a message out of nothing")
	}
	for _, n := range []int{0, MinMessageSize - 1, MaxMessageSize + 1} {
		if err := w.Init(make([]byte, n), 1, 1); !errors.Is(err, ErrBuffer) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if err := w.Init(make([]byte, 1472), 2, 1); err == nil {
		t.Error("version 2 exists")
	}
}

// A record that fits no message of the limit is not ErrFull, or a caller that
// seals and tries again would never end.
func TestWriterRecordTooLongForAnyMessage(t *testing.T) {
	var w Writer
	if err := w.Init(make([]byte, MinMessageSize), 1, 1); err != nil {
		t.Fatal(err)
	}
	c := connUnknown(t)
	var fe *FieldError
	if err := w.Append(&c); !errors.As(err, &fe) || fe.Field != "record" || errors.Is(err, ErrFull) {
		t.Errorf("%v", err)
	}
}
