package ipvsync

import (
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
)

// memTx is a Tx that gives each message to a function, and can be stopped from
// taking any. Its methods belong to the transmit loop, but for the atomics.
type memTx struct {
	frames  [][]byte
	queued  []int // lengths; frame i of the queue is frames[(out+i)%len(frames)]
	out     int
	size    int
	take    func(message []byte)
	blocked atomic.Bool
	atOnce  atomic.Int64                    // most messages of one Flush; 0: all
	fail    atomic.Pointer[func(int) error] // asked before each Flush, with what is queued; its error ends it
	lost    func([]byte)
	n       atomic.Uint64
}

func newMemTx(lost func([]byte), take func([]byte)) *memTx {
	tx := &memTx{take: take, lost: lost, size: encoder.DefaultMaxSize}
	for range 8 {
		tx.frames = append(tx.frames, make([]byte, encoder.DefaultMaxSize))
	}
	return tx
}

func (m *memTx) frame(i int) []byte { return m.frames[(m.out+i)%len(m.frames)] }
func (m *memTx) MaxPayload() int    { return m.size }
func (m *memTx) Pending() int       { return len(m.queued) }
func (m *memTx) Stats() xsk.TxStats { return xsk.TxStats{Messages: m.n.Load()} }

func (m *memTx) Next() ([]byte, error) {
	if len(m.queued) == len(m.frames) {
		return nil, xsk.ErrNoFrame
	}
	return m.frame(len(m.queued))[:m.size], nil
}

func (m *memTx) Commit(n int) {
	m.queued = append(m.queued, n)
	m.n.Add(1)
}

func (m *memTx) Flush() error {
	if m.blocked.Load() {
		return nil // back-pressure
	}
	if fail := m.fail.Load(); fail != nil {
		if err := (*fail)(len(m.queued)); err != nil {
			if errors.Is(err, errBroken) {
				m.giveUp()
			}
			return err
		}
	}
	count := len(m.queued)
	if most := int(m.atOnce.Load()); most > 0 {
		count = min(count, most)
	}
	for i, n := range m.queued[:count] {
		m.take(m.frame(i)[:n])
	}
	m.out = (m.out + count) % len(m.frames)
	m.queued = slices.Delete(m.queued, 0, count)
	return nil
}

func (m *memTx) giveUp() {
	for i, n := range m.queued {
		m.lost(m.frame(i)[:n])
	}
	// The buffer that is lent stays where it is.
	m.out = (m.out + len(m.queued)) % len(m.frames)
	m.queued = m.queued[:0]
}

func (m *memTx) Wait(time.Duration) error {
	runtime.Gosched()
	return nil
}

func (m *memTx) Close() error {
	m.giveUp()
	return nil
}

// sink collects the records of the messages that a Sender sends.
type sink struct {
	mu    sync.Mutex
	conns []Conn
	ports map[int]bool
	mu2   sync.Mutex
	txs   []*memTx
	sizes []int         // MaxPayload of one transport after the other; then the default
	empty atomic.Uint64 // messages without a record
	n     atomic.Uint64 // records
}

func (k *sink) openTx(port int, lost func([]byte)) (xsk.Tx, error) {
	tx := newMemTx(lost, func(message []byte) {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.ports == nil {
			k.ports = map[int]bool{}
		}
		k.ports[port] = true
		d := encoder.Decoder{}
		d.Open(message)
		if d.Header().Count == 0 {
			k.empty.Add(1)
		}
		for {
			var c Conn
			reason, ok := d.Next(&c)
			if !ok {
				return
			}
			if reason != encoder.Accepted {
				panic(reason)
			}
			k.conns = append(k.conns, c)
			k.n.Add(1)
		}
	})
	k.mu2.Lock()
	defer k.mu2.Unlock()
	if n := len(k.txs); n < len(k.sizes) {
		tx.size = k.sizes[n]
	}
	k.txs = append(k.txs, tx)
	return tx, nil
}

func (k *sink) tx(i int) *memTx {
	k.mu2.Lock()
	defer k.mu2.Unlock()
	return k.txs[i]
}

func (k *sink) block(on bool) {
	k.mu2.Lock()
	defer k.mu2.Unlock()
	for _, tx := range k.txs {
		tx.blocked.Store(on)
	}
}

func newMemSender(t testing.TB, k *sink, cfg SenderConfig) *Sender {
	t.Helper()
	cfg.OpenTx = k.openTx
	s, err := NewSender(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		k.block(false)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if t, ok := t.(*testing.T); ok {
			checkSender(t, s.Stats())
		}
	})
	return s
}
