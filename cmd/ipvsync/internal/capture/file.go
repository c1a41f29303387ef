package capture

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// ErrFormat says that the input is no capture file.
var ErrFormat = errors.New("not a pcap or pcapng file")

// Magic numbers: the pcap and pcapng specifications.
const (
	magicMicro = 0xa1b2c3d4
	magicNano  = 0xa1b23c4d
	magicNG    = 0x0a0d0d0a // the same in both byte orders
)

// frame is one packet of the file.
type frame struct {
	link    layers.LinkType
	data    []byte // lent until the next one
	missing int    // bytes that the capture did not keep
	time    time.Time
}

// file reads frames and knows where it is. pcapgo keeps a bufio.Reader that it
// is given, instead of wrapping it, so what that has not handed out yet tells
// the offset exactly.
type file struct {
	count *counter
	buf   *bufio.Reader
	read  func() ([]byte, gopacket.CaptureInfo, error)
	link  layers.LinkType
	mixed bool  // pcapng: each packet tells its link type
	begin int64 // offset of the packet that was read last
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func (f *file) offset() int64 { return f.count.n - int64(f.buf.Buffered()) }

func newFile(r io.Reader) *file {
	c := &counter{r: r}
	return &file{count: c, buf: bufio.NewReaderSize(c, 64<<10)}
}

func open(r io.Reader) (*file, error) {
	f := newFile(r)
	if magic, _ := f.buf.Peek(2); len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(f.buf)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		f = newFile(z)
	}
	head, err := f.buf.Peek(4)
	switch {
	case err == io.EOF && len(head) == 0:
		return nil, fmt.Errorf("%w: it is empty", ErrFormat)
	case err == io.EOF:
		return nil, fmt.Errorf("%w: it has %d bytes", ErrFormat, len(head))
	case err != nil:
		return nil, err
	}
	little, big := binary.LittleEndian.Uint32(head), binary.BigEndian.Uint32(head)
	switch {
	case little == magicNG:
		// One file may hold several interfaces of different kinds.
		ng, err := pcapgo.NewNgReader(f.buf, pcapgo.NgReaderOptions{WantMixedLinkType: true})
		if err != nil {
			return nil, fmt.Errorf("pcapng header: %w", unexpected(err))
		}
		f.read, f.mixed = ng.ZeroCopyReadPacketData, true
	case little == magicMicro, big == magicMicro, little == magicNano, big == magicNano:
		old, err := pcapgo.NewReader(f.buf)
		if err != nil {
			return nil, fmt.Errorf("pcap header: %w", unexpected(err))
		}
		f.read, f.link = old.ZeroCopyReadPacketData, old.LinkType()
		if !supported(f.link) {
			return nil, fmt.Errorf("link type %d is not supported: want Ethernet, Linux cooked, raw IP, null or loop", uint16(f.link))
		}
	default:
		return nil, fmt.Errorf("%w: it begins with % x", ErrFormat, head)
	}
	return f, nil
}

// next is the next frame; io.EOF only at the end of a whole file.
func (f *file) next() (frame, error) {
	f.begin = f.offset()
	data, info, err := f.read()
	if err != nil && errors.Is(err, io.ErrUnexpectedEOF) {
		err = unexpected(err)
	}
	if err != nil {
		// For pcap, pcapgo gives io.EOF too if the file ends behind a packet's
		// header. For pcapng it never does, and blocks without a packet may
		// have been skipped.
		if !f.mixed && f.offset() != f.begin {
			err = unexpected(err)
		}
		return frame{}, err
	}
	fr := frame{link: f.link, data: data, missing: max(0, info.Length-info.CaptureLength)}
	if f.mixed {
		fr.link = info.AncillaryData[0].(layers.LinkType)
	}
	if !info.Timestamp.IsZero() {
		fr.time = info.Timestamp.UTC()
	}
	return fr, nil
}

// unexpected says in words that the file ends too early.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the file ends in the middle of it (%w)", io.ErrUnexpectedEOF)
	}
	return err
}
