package main

import (
	"context"
	"fmt"
	"io"
	"os"
)

// input is where a command reads from. It flushes what the command has printed
// before it may have to wait, and ends when ctx does, even while it waits.
type input struct {
	ctx   context.Context
	r     io.Reader
	flush func() error
	live  bool // stdin, a pipe: a read may take forever

	chunks chan chunk    // live: from the goroutine that reads
	free   chan struct{} // live: the last chunk has been used up
	rest   chunk
}

// openFile is os.Open that ends when ctx does: a named pipe without a writer
// keeps an open waiting.
func openFile(ctx context.Context, name string) (*os.File, error) {
	if info, err := os.Stat(name); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return os.Open(name)
	}
	type result struct {
		f   *os.File
		err error
	}
	opened := make(chan result, 1)
	go func() {
		f, err := os.Open(name)
		opened <- result{f, err}
	}()
	select {
	case r := <-opened:
		return r.f, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("open %s: %w", name, ctx.Err())
	}
}

type chunk struct {
	data []byte
	err  error
}

func (in *input) Read(p []byte) (int, error) {
	if len(in.rest.data) > 0 {
		n := copy(p, in.rest.data)
		in.rest.data = in.rest.data[n:]
		return n, nil
	}
	if in.rest.err != nil {
		return 0, in.rest.err
	}
	if err := in.flush(); err != nil {
		return 0, err
	}
	if err := in.ctx.Err(); err != nil {
		return 0, err
	}
	if !in.live {
		return in.r.Read(p)
	}
	if in.chunks == nil {
		in.chunks, in.free = make(chan chunk), make(chan struct{})
		go in.pump()
	} else {
		select {
		case in.free <- struct{}{}:
		case <-in.ctx.Done():
			return 0, in.ctx.Err()
		}
	}
	select {
	case in.rest = <-in.chunks:
	case <-in.ctx.Done():
		return 0, in.ctx.Err()
	}
	return in.Read(p)
}

// pump reads ahead by one chunk. A read of stdin cannot be interrupted: after
// ctx is done, the goroutine may stay in it until the process ends.
func (in *input) pump() {
	buf := make([]byte, 64<<10)
	for {
		n, err := in.r.Read(buf)
		select {
		case in.chunks <- chunk{buf[:n], err}:
		case <-in.ctx.Done():
			return
		}
		if err != nil {
			return
		}
		select {
		case <-in.free:
		case <-in.ctx.Done():
			return
		}
	}
}
