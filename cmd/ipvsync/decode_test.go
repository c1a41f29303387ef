package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/cmd/ipvsync/internal/record"
	"github.com/ipvsync/ipvsync/encoder"
)

var update = flag.Bool("update", false, "write testdata/*.golden anew")

// execute runs the program as main does.
func execute(t testing.TB, stdin io.Reader, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	err := run(t.Context(), args, stdin, &out, &errs)
	return report(&errs, err), out.String(), errs.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	name = filepath.Join("testdata", name+".golden")
	if *update {
		mustDo(t, os.WriteFile(name, []byte(got), 0o644))
	}
	want, err := os.ReadFile(name)
	mustDo(t, err)
	if got != string(want) {
		t.Errorf("%s (go test -update writes it anew)\ngot\n%s\nwant\n%s", name, got, want)
	}
}

func TestDecodeGolden(t *testing.T) {
	file := testFile(t, showcase(t))
	for _, tt := range []struct {
		name string
		args []string
	}{
		{"json", nil},
		{"text", []string{"--format", "text"}},
		{"syncid", []string{"--syncid=9", "--format=text"}},
		{"ports", []string{"--port", "8849-8911", "--format", "text"}},
		{"all-ports", []string{"--port", "0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := execute(t, nil, append([]string{"decode", file}, tt.args...)...)
			if code != exitOK {
				t.Errorf("exit code %d", code)
			}
			golden(t, "decode-"+tt.name, stdout+"--- stderr\n"+stderr)
		})
	}
}

func TestDecodeStdin(t *testing.T) {
	content := showcase(t)
	_, want, _ := execute(t, nil, "decode", testFile(t, content))
	code, got, _ := execute(t, bytes.NewReader(content), "decode", "-")
	if code != exitOK || got != want {
		t.Errorf("exit code %d\ngot\n%s\nwant\n%s", code, got, want)
	}
}

// What decode prints, master can read: every accepted record.
func TestDecodeFeedsReader(t *testing.T) {
	_, stdout, _ := execute(t, nil, "decode", testFile(t, showcase(t)))
	records := 0
	for line := range strings.Lines(stdout) {
		var m struct{ Records []json.RawMessage }
		mustDo(t, json.Unmarshal([]byte(line), &m))
		for _, text := range m.Records {
			var c encoder.Conn
			if err := record.Parse(text, &c); err != nil {
				t.Errorf("%v: %s", err, text)
			}
			records++
		}
	}
	if records < 10 {
		t.Errorf("%d records", records)
	}
}

// What a stock kernel's master sent is taken by a backup without exception.
func TestDecodeKernelCaptures(t *testing.T) {
	files, err := filepath.Glob("../../encoder/testdata/golden/*.pcap")
	mustDo(t, err)
	if len(files) == 0 {
		t.Fatal("no captures of a kernel in encoder/testdata/golden")
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			code, stdout, stderr := execute(t, nil, "decode", "--port=8848-8911", file)
			records := 0
			for line := range strings.Lines(stdout) {
				var m struct {
					Packet  int
					Error   string
					Count   int
					Trailer []byte
					Records []struct {
						Accepted bool
						Reason   string
					}
				}
				mustDo(t, json.Unmarshal([]byte(line), &m))
				if m.Error != "" || len(m.Records) != m.Count || m.Count == 0 || m.Trailer != nil {
					t.Errorf("packet %d: %q, %d of %d records, trailer %x", m.Packet, m.Error, len(m.Records), m.Count, m.Trailer)
				}
				for i, r := range m.Records {
					records++
					if !r.Accepted || r.Reason != "" {
						t.Errorf("packet %d, record %d: %s", m.Packet, i+1, r.Reason)
					}
				}
			}
			if code != exitOK || records == 0 {
				t.Errorf("exit code %d, %d records, %s", code, records, stderr)
			}
		})
	}
}

func TestDecodeDamaged(t *testing.T) {
	content := showcase(t)
	_, whole, _ := execute(t, nil, "decode", testFile(t, content))
	code, stdout, stderr := execute(t, nil, "decode", testFile(t, content[:len(content)-1]))
	if lines := strings.Count(whole, "\n"); code != exitError || strings.Count(stdout, "\n") != lines-1 || !strings.HasPrefix(whole, stdout) {
		t.Errorf("exit code %d, %d lines of %d", code, strings.Count(stdout, "\n"), lines)
	}
	last := stderr[strings.LastIndex(strings.TrimSpace(stderr), "\n")+1:]
	if !strings.HasPrefix(last, "ipvsync: ") || !strings.Contains(last, "packet 11, at byte ") {
		t.Errorf("stderr ends with %q", last)
	}
}

// With a live capture every message is printed before the next one comes, and
// a signal ends it without an error.
func TestDecodeLive(t *testing.T) {
	content := showcase(t)
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stderr bytes.Buffer
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{"decode", "-"}, inR, outW, &stderr) }()

	first := len(content) / 2
	go func() { _, _ = inW.Write(content[:first]) }()
	buf := make([]byte, 64<<10)
	if n, err := outR.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), `{"packet":1,`) {
		t.Fatalf("%v: %s", err, buf[:n])
	}
	cancel()
	go func() { _, _ = io.Copy(io.Discard, outR) }()
	select {
	case err := <-done:
		if err != nil || !strings.Contains(stderr.String(), "messages") {
			t.Errorf("%v, %q", err, stderr.String())
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a signal does not end it")
	}
}

// A named pipe waits as stdin does.
func TestDecodeNamedPipe(t *testing.T) {
	name := filepath.Join(t.TempDir(), "pipe")
	mustDo(t, syscall.Mkfifo(name, 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	outR, outW := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{"decode", name}, nil, outW, io.Discard) }()
	w, err := os.OpenFile(name, os.O_WRONLY, 0)
	mustDo(t, err)
	defer w.Close()
	_, err = w.Write(showcase(t))
	mustDo(t, err)
	if _, err := outR.Read(make([]byte, 64<<10)); err != nil {
		t.Fatal(err)
	}
	cancel()
	go func() { _, _ = io.Copy(io.Discard, outR) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a signal does not end it")
	}
}

func TestDecodeInterruptedFile(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := run(ctx, []string{"decode", testFile(t, showcase(t))}, nil, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "interrupted after packet 0") {
		t.Error(err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// A reader that leaves is the end, a full disk is an error.
func TestDecodeOutputFails(t *testing.T) {
	file := testFile(t, showcase(t))
	var stderr bytes.Buffer
	if err := run(t.Context(), []string{"decode", file}, nil, failingWriter{&os.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE}}, &stderr); err != nil || stderr.Len() > 0 {
		t.Errorf("reader gone: %v, %q", err, stderr.String())
	}
	if err := run(t.Context(), []string{"decode", file}, nil, failingWriter{syscall.ENOSPC}, &stderr); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("disk full: %v", err)
	}
}

// FuzzDecode: no file makes the command panic, whatever the format.
func FuzzDecode(f *testing.F) {
	f.Add(showcase(f))
	files, err := filepath.Glob("../../encoder/testdata/golden/*.pcap")
	mustDo(f, err)
	for _, file := range files {
		content, err := os.ReadFile(file)
		mustDo(f, err)
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > 1 && content[0] == 0x1f && content[1] == 0x8b {
			return // a few zipped bytes may be gigabytes
		}
		for _, format := range []string{"json", "text"} {
			_, stdout, _ := execute(t, bytes.NewReader(content), "decode", "--port=0", "--format", format, "-")
			for line := range strings.Lines(stdout) {
				if format == "json" && !json.Valid([]byte(line)) {
					t.Fatalf("no JSON: %s", line)
				}
			}
		}
	})
}
