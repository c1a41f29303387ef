package record

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/ipvsync/ipvsync/encoder"
)

const minimal = `{"client":"10.0.0.1:1","virtual":"10.0.0.2:2","dest":"10.0.0.3:3","protocol":"tcp"}`

// readAll gives what Read gave, "ok" for a record, until the final error.
func readAll(r *Reader) (got []string, final error) {
	var c encoder.Conn
	for {
		err := r.Read(&c)
		var line *LineError
		switch {
		case err == nil:
			got = append(got, "ok")
		case errors.As(err, &line):
			got = append(got, err.Error())
		default:
			return got, err
		}
	}
}

func TestReader(t *testing.T) {
	pad := func(n int) string { return minimal + strings.Repeat(" ", n-len(minimal)) }
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"nothing", "", nil},
		{"one", minimal + "\n", []string{"ok"}},
		{"no newline", minimal, []string{"ok"}},
		{"blank lines, CRLF", "\n \t\r\n" + minimal + "\r\n\n", []string{"ok"}},
		{"bad lines", "x\n" + minimal + "\n\n{}\n" + minimal, []string{"line 1: not a JSON object: column 1: want '{', found 'x'", "ok", "line 4: client: missing", "ok"}},
		{"bigger than the buffer", pad(100_000) + "\n" + minimal + "\n", []string{"ok", "ok"}},
		{"exactly the buffer", pad(64<<10-1) + "\n" + pad(64<<10) + "\n" + pad(64<<10) + "\n" + minimal, []string{"ok", "ok", "ok", "ok"}},
		{"a megabyte", pad(MaxLine) + "\n" + minimal, []string{"ok", "ok"}},
		{"more than a megabyte", pad(MaxLine+1) + "\n" + minimal + "\n" + pad(3*MaxLine), []string{"line 1: line longer than 1048576 bytes", "ok", "line 3: line longer than 1048576 bytes"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readAll(NewReader(strings.NewReader(tt.text)))
			if err != io.EOF || strings.Join(got, "\n") != strings.Join(tt.want, "\n") {
				t.Errorf("%v:\ngot  %q\nwant %q", err, got, tt.want)
			}
		})
	}
}

func TestReaderFailingInput(t *testing.T) {
	broken := errors.New("cable pulled")
	for _, text := range []string{minimal + "\n" + minimal, minimal + "\n"} {
		got, err := readAll(NewReader(io.MultiReader(strings.NewReader(text), iotest.ErrReader(broken))))
		if !errors.Is(err, broken) || len(got) != 1 || got[0] != "ok" {
			t.Errorf("%q, then %v", got, err)
		}
	}
}

// A record is there as soon as its line is.
func TestReaderDoesNotWait(t *testing.T) {
	in, out := io.Pipe()
	defer in.Close()
	r := NewReader(in)
	for range 3 {
		go func() { _, _ = io.WriteString(out, minimal+"\n") }()
		var c encoder.Conn
		if err := r.Read(&c); err != nil {
			t.Fatal(err)
		}
	}
	if r.Line() != 3 {
		t.Errorf("line %d", r.Line())
	}
}

// An error quotes no more of a line than a terminal takes.
func TestErrorIsShort(t *testing.T) {
	line := `{"protocol":"tcp","client":"192.0.2.1:1","virtual":"192.0.2.1:1","dest":"192.0.2.1:1","timeout":` + strings.Repeat("9", 10000) + "}"
	var c encoder.Conn
	err := NewReader(strings.NewReader(line)).Read(&c)
	if err == nil || len(err.Error()) > 400 {
		t.Errorf("%.1000v", err)
	}
}
