package main

import (
	"bytes"
	"errors"
	"runtime/debug"
	"strings"
	"testing"
)

func TestCommandLine(t *testing.T) {
	file := testFile(t, showcase(t))
	for _, tt := range []struct {
		args   string
		code   int
		stdout string // holds this
		stderr string // holds this; "" is nothing at all
	}{
		{"", exitOK, "Available Commands", ""},
		{"--help", exitOK, "ipvsync decode", ""},
		{"help decode", exitOK, "ipvsync master -i eth0 --syncid 7", ""},
		{"help", exitOK, "Available Commands", ""},
		{"help decde", exitUsage, "", `ipvsync: help: unknown command "decde"`},
		{"decode --help", exitOK, "--port PORTS", ""},
		{"version", exitOK, "ipvsync ", ""},
		{"version x", exitUsage, "", `ipvsync: ipvsync version: unexpected argument "x" (usage: ipvsync version`},
		{"decde x", exitUsage, "", `ipvsync: unknown command "decde", did you mean decode?`},
		{"--loud", exitUsage, "", "ipvsync: unknown flag: --loud (ipvsync --help lists the flags)"},
		{"decode", exitUsage, "", "ipvsync: ipvsync decode: FILE is missing (usage: ipvsync decode FILE"},
		{"decode a b", exitUsage, "", `unexpected argument "b"`},
		{"decode --format xml x", exitUsage, "", "want json or text"},
		{"decode --syncid 256 x", exitUsage, "", "want a number from 0 to 255"},
		{"decode --port 70000 x", exitUsage, "", "want ports such as 8848"},
		{"decode --port 9-8 x", exitUsage, "", "want ports such as 8848"},
		{"decode --port 8848, x", exitUsage, "", "want ports such as 8848"},
		{"decode /nowhere/x", exitError, "", "ipvsync: open /nowhere/x: no such file or directory\n"},
		{"decode root_test.go", exitError, "", "ipvsync: root_test.go: not a pcap or pcapng file"},
		{"decode -", exitError, "", "ipvsync: stdin: not a pcap or pcapng file: it is empty\n"},
		{"decode " + file, exitOK, `{"packet":1,`, "11 packets: "},
	} {
		t.Run(tt.args, func(t *testing.T) {
			code, stdout, stderr := execute(t, strings.NewReader(""), strings.Fields(tt.args)...)
			if code != tt.code || !strings.Contains(stdout, tt.stdout) || !strings.Contains(stderr, tt.stderr) || tt.stderr == "" && stderr != "" {
				t.Errorf("exit code %d\nstdout %s\nstderr %s", code, stdout, stderr)
			}
			if code != exitOK && (stdout != "" || strings.Count(stderr, "\n") != 1) {
				t.Errorf("want one line on stderr\nstdout %s\nstderr %s", stdout, stderr)
			}
		})
	}
}

func TestReport(t *testing.T) {
	var b bytes.Buffer
	if code := report(&b, errors.New("two\nlines\n")); code != exitError || b.String() != "ipvsync: two; lines\n" {
		t.Errorf("%d %q", code, b.String())
	}
}

func TestPorts(t *testing.T) {
	for _, tt := range []struct {
		text    string
		in, out []uint16
		shown   string
	}{
		{"8848", []uint16{8848}, []uint16{8847, 8849, 0}, "8848"},
		{"8848-8911", []uint16{8848, 8900, 8911}, []uint16{8847, 8912}, "8848-8911"},
		{"8848,9000-9001", []uint16{8848, 9000, 9001}, []uint16{8999, 9002}, "8848,9000-9001"},
		{"0", []uint16{0, 1, 65535}, nil, "0"},
	} {
		var p ports
		mustDo(t, p.Set(tt.text))
		for _, port := range tt.in {
			if !p.has(port) {
				t.Errorf("%s has not %d", tt.text, port)
			}
		}
		for _, port := range tt.out {
			if p.has(port) {
				t.Errorf("%s has %d", tt.text, port)
			}
		}
		if p.String() != tt.shown {
			t.Errorf("%s is shown as %s", tt.text, p.String())
		}
	}
}

func TestPrintVersion(t *testing.T) {
	var b bytes.Buffer
	info := &debug.BuildInfo{GoVersion: "go1.26.0", Main: debug.Module{Version: "v0.1.0"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123456789abcdef0123"}, {Key: "vcs.time", Value: "2026-03-01T12:00:00Z"}, {Key: "vcs.modified", Value: "true"}}}
	mustDo(t, printVersion(&b, info))
	if want := "ipvsync v0.1.0, commit 0123456789ab of 2026-03-01T12:00:00Z, modified, go1.26.0 "; !strings.HasPrefix(b.String(), want) {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}
