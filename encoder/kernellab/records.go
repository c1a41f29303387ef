package kernellab

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// Seen is what the lab itself needs to know of a record on the wire, to tell when
// a master has said everything. Tests of the codec must not rely on it, nor it on
// the codec.
type Seen struct {
	IPv6        bool
	Protocol    byte
	Flags       uint32
	State       uint16
	ClientPort  uint16
	VirtualPort uint16
}

// Template reports whether the record is a persistence template.
func (s Seen) Template() bool { return s.Flags&0x1000 != 0 }

// Records lists the records of messages of a Linux master, of either version.
// It trusts them, up to the first that makes no sense.
func Records(msgs [][]byte) []Seen {
	var all []Seen
	for _, m := range msgs {
		switch {
		case len(m) >= 8 && m[0] == 0 && m[5] == 1:
			all = append(all, records1(m)...)
		case len(m) >= 4:
			all = append(all, records0(m)...)
		}
	}
	return all
}

func records1(m []byte) []Seen {
	var all []Seen
	at := 8
	for range m[4] {
		at += -at & 3 // padding stands before a record
		if at+36 > len(m) {
			break
		}
		r := m[at:]
		all = append(all, Seen{
			IPv6:        r[0]&1 != 0,
			Protocol:    r[1],
			Flags:       binary.BigEndian.Uint32(r[4:]),
			State:       binary.BigEndian.Uint16(r[8:]),
			ClientPort:  binary.BigEndian.Uint16(r[10:]),
			VirtualPort: binary.BigEndian.Uint16(r[12:]),
		})
		at += int(binary.BigEndian.Uint16(r[2:]) & 0xfff)
	}
	return all
}

func records0(m []byte) []Seen {
	var all []Seen
	at := 4
	for range m[0] {
		if at+24 > len(m) {
			break
		}
		r := m[at:]
		s := Seen{
			Protocol:    r[1],
			ClientPort:  binary.BigEndian.Uint16(r[2:]),
			VirtualPort: binary.BigEndian.Uint16(r[4:]),
			Flags:       uint32(binary.BigEndian.Uint16(r[20:])),
			State:       binary.BigEndian.Uint16(r[22:]),
		}
		all = append(all, s)
		at += 24
		if s.Flags&0x600 != 0 {
			at += 24
		}
	}
	return all
}

// Conditions for Step.done.

// count is met by n records.
func count(n int, match func(Seen) bool) func([]Seen) bool {
	return func(records []Seen) bool {
		got := 0
		for _, r := range records {
			if match(r) {
				got++
			}
		}
		return got >= n
	}
}

// ended is met by n TCP connections in TIME_WAIT or CLOSE.
func ended(n int, match func(Seen) bool) func([]Seen) bool {
	return count(n, func(r Seen) bool {
		return r.Protocol == 6 && !r.Template() && (r.State == 5 || r.State == 6) && match(r)
	})
}

// template is met by a template for the virtual port.
func template(port uint16) func([]Seen) bool {
	return count(1, func(r Seen) bool { return r.Template() && r.VirtualPort == port })
}

func both(a, b func([]Seen) bool) func([]Seen) bool {
	return func(r []Seen) bool { return a(r) && b(r) }
}

// listed waits until /proc/net/ip_vs_conn has a line with the words.
func (m *Master) listed(words string) error {
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	for {
		out, _, err := m.g.RunErr(ctx, "cat /proc/net/ip_vs_conn")
		if err != nil {
			return fmt.Errorf("wait for%sin the table: %w", words, err)
		}
		if strings.Contains(out, words) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for%sin the table: %w", words, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
