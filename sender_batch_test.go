package ipvsync

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/ipvsync/ipvsync/encoder"
)

// waiting is the records that wait in the shared ring of each shard, in order.
func waiting(s *Sender) [][][]byte {
	all := make([][][]byte, len(s.shards))
	for i, sh := range s.shards {
		for run := sh.shared.Look(); run.Len() > 0; run = sh.shared.Look() {
			for rec, ok := run.Peek(); ok; rec, ok = run.Peek() {
				all[i] = append(all[i], bytes.Clone(rec))
				run.Advance()
			}
			sh.shared.Release(run)
		}
	}
	return all
}

// anyConn is an update of one of few flows, of any kind: most are plain, some
// cannot be encoded.
func anyConn(rng *rand.Rand, update uint32) Conn {
	c := flow(rng.IntN(100), update)
	switch rng.IntN(10) {
	case 0:
		c = flow6(rng.IntN(100), update)
	case 1:
		c.Options, _ = c.Options.AppendPE("sip", make([]byte, 1+rng.IntN(200)))
	case 2:
		c.Dest = encoder.Endpoint{}
	}
	return c
}

// PublishBatch does what Publish does, one after the other: the same records in the
// same order in each shard, the same counters.
func TestSenderPublishBatchTwin(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, shards := range []int{1, 2, 3, 31, 32, 33, 150} {
		fast, slow := benchSender(t, shards), benchSender(t, shards)
		for range 30 {
			batch := make([]Conn, rng.IntN(200))
			want, wantErr := 0, false
			for i := range batch {
				batch[i] = anyConn(rng, rng.Uint32())
				if slow.Publish(&batch[i]) == nil {
					want++
				} else {
					wantErr = true
				}
			}
			if n, err := fast.PublishBatch(batch); n != want || (err != nil) != wantErr {
				t.Fatalf("%d shards: %d of %d taken, %v; want %d, an error: %v", shards, n, len(batch), err, want, wantErr)
			}
			got, wanted := waiting(fast), waiting(slow)
			for i := range wanted {
				if len(got[i]) != len(wanted[i]) {
					t.Fatalf("shard %d of %d: %d records, want %d", i, shards, len(got[i]), len(wanted[i]))
				}
				for j := range wanted[i] {
					if !bytes.Equal(got[i][j], wanted[i][j]) {
						t.Fatalf("shard %d of %d: record %d is %x, want %x", i, shards, j, got[i][j], wanted[i][j])
					}
				}
			}
		}
		if got, want := fast.Stats().Dropped, slow.Stats().Dropped; got != want || got[DropUnencodable] == 0 {
			t.Errorf("%d shards: dropped %v, want %v", shards, got, want)
		}
	}
}

// A batch that finds no room, or a closed Sender, is counted update by update.
func TestSenderPublishBatchRefused(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, shards := range []int{1, 3} {
		s := benchSender(t, shards)
		batch := make([]Conn, 1000)
		for i := range batch {
			batch[i] = flow(rng.IntN(100), uint32(i))
		}
		taken, offered := 0, 0
		for {
			n, err := s.PublishBatch(batch)
			taken, offered = taken+n, offered+len(batch)
			if n == 0 {
				if !errors.Is(err, ErrRingFull) {
					t.Errorf("a full ring: %v", err)
				}
				break
			}
		}
		if got := s.Stats().Dropped[DropRingFull]; got != uint64(offered-taken) {
			t.Errorf("%d of %d were taken, %d are counted as refused", taken, offered, got)
		}
		records := 0
		for _, sh := range waiting(s) {
			records += len(sh)
		}
		if records != taken {
			t.Errorf("%d records for %d updates", records, taken)
		}
		s.closed.Store(true)
		if n, err := s.PublishBatch(batch); n != 0 || !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %d taken, %v", n, err)
		}
		if got := s.Stats().Dropped[DropClosed]; got != uint64(len(batch)) {
			t.Errorf("after Close: %d of %d counted", got, len(batch))
		}
	}
}

// Two goroutines publish updates of the same flows by turns, one after the other
// has, singly and in batches, while a third is in their way: the order is theirs.
func TestOrderFromHandToHand(t *testing.T) {
	const flows, rounds = 8, 500
	s := benchSender(t, 2)
	turn := [2]chan uint32{make(chan uint32, 1), make(chan uint32, 1)}
	turn[0] <- 1
	done := make(chan struct{})
	var players, other sync.WaitGroup
	for me := range turn {
		players.Go(func() {
			for u := range turn[me] {
				batch := make([]Conn, flows)
				for i := range batch {
					batch[i] = flow(i, u)
				}
				if me == 0 {
					if n, err := s.PublishBatch(batch); n != flows {
						t.Error(err)
					}
				} else {
					for i := range batch {
						if err := s.Publish(&batch[i]); err != nil {
							t.Error(err)
						}
					}
				}
				if u == rounds {
					close(turn[0])
					close(turn[1])
					return
				}
				turn[1-me] <- u + 1
			}
		})
	}
	other.Go(func() {
		c := flow(flows, 0)
		for n := 0; n < benchRing/256; n++ {
			select {
			case <-done:
				return
			default:
				_ = s.Publish(&c)
			}
		}
	})
	players.Wait()
	close(done)
	other.Wait()
	next := make(map[uint32]uint32)
	for _, records := range waiting(s) {
		for _, rec := range records {
			update, client := binary.BigEndian.Uint32(rec[20:]), binary.BigEndian.Uint32(rec[24:])
			if update == 0 {
				continue // of the third
			}
			if update != next[client]+1 {
				t.Fatalf("update %d of flow %x came after %d", update, client, next[client])
			}
			next[client] = update
		}
	}
	if len(next) != flows {
		t.Errorf("%d flows of %d", len(next), flows)
	}
	for client, n := range next {
		if n != rounds {
			t.Errorf("%d updates of flow %x, want %d", n, client, rounds)
		}
	}
}
