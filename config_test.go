package ipvsync

import (
	"errors"
	"strings"
	"testing"

	"github.com/ipvsync/ipvsync/ring"
	"github.com/ipvsync/ipvsync/xsk"
)

func TestConfigErrors(t *testing.T) {
	for _, tc := range []struct {
		field string
		cfg   SenderConfig
	}{
		{"Interface", SenderConfig{}},
		{"TTL", SenderConfig{Link: Link{Interface: "lo"}, TTL: 256}},
		{"Shards", SenderConfig{Link: Link{Interface: "lo"}, Shards: -1}},
		{"Ports", SenderConfig{Link: Link{Interface: "lo"}, Ports: 65}},
		{"Ports", SenderConfig{Link: Link{Interface: "lo", Port: 65535}, Ports: 2}},
		{"Queues", SenderConfig{Link: Link{Interface: "lo", Queues: []int{0, 1}}}},
		{"Queues", SenderConfig{Link: Link{Interface: "lo", Queues: []int{-1}}}},
		{"Queues", SenderConfig{Link: Link{Interface: "lo", Queues: []int{1, 1}}, Ports: 2}},
		{"Watermarks", SenderConfig{Link: Link{Interface: "lo"}, Watermarks: Watermarks{Refresh: 95}}},
		{"Coalesce", SenderConfig{Link: Link{Interface: "lo"}, Coalesce: 100}},
		{"MaxSize", SenderConfig{Link: Link{Interface: "lo", MaxSize: 79}}},
		{"RingSize", SenderConfig{Link: Link{Interface: "lo"}, RingSize: 1000, OpenTx: func(int, func([]byte)) (xsk.Tx, error) { return &discard{}, nil }}},
	} {
		_, err := NewSender(tc.cfg)
		var ce *ConfigError
		if !errors.As(err, &ce) || ce.Field != tc.field || !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", tc.field, err)
		}
	}
	for _, queues := range [][]int{{-1}, {0, 0}} {
		_, err := NewReceiver(ReceiverConfig{Link: Link{Interface: "lo", Queues: queues}}, func(*Message) {})
		var ce *ConfigError
		if !errors.As(err, &ce) || ce.Field != "Queues" {
			t.Errorf("queues %v: %v", queues, err)
		}
	}
	for _, n := range []int{-1, xsk.MaxBuffer + 1, 1 << 32} {
		link := Link{Interface: "lo", SocketBuffer: n}
		_, err1 := NewSender(SenderConfig{Link: link})
		_, err2 := NewReceiver(ReceiverConfig{Link: link}, func(*Message) {})
		for _, err := range []error{err1, err2} {
			var ce *ConfigError
			if !errors.As(err, &ce) || ce.Field != "SocketBuffer" || !strings.Contains(ce.Msg, "0 to 2147483647 bytes") {
				t.Errorf("SocketBuffer %d: %v", n, err)
			}
		}
	}
	if _, err := NewReceiver(ReceiverConfig{}, func(*Message) {}); !errors.Is(err, ErrConfig) {
		t.Error(err)
	}
	for _, cpu := range []int{-65, -1, maxCPUs} {
		if _, err := NewReceiver(ReceiverConfig{Link: Link{Interface: "lo"}, CPUs: []int{cpu}}, func(*Message) {}); !errors.Is(err, ErrConfig) {
			t.Errorf("processor %d: %v", cpu, err)
		}
		if _, err := NewSender(SenderConfig{Link: Link{Interface: "lo"}, CPUs: []int{cpu}}); !errors.Is(err, ErrConfig) {
			t.Errorf("processor %d: %v", cpu, err)
		}
	}
	if _, err := NewReceiver(ReceiverConfig{Link: Link{Interface: "lo"}}, nil); !errors.Is(err, ErrConfig) {
		t.Error(err)
	}
	if _, err := NewSender(SenderConfig{Link: Link{Interface: "no-such0"}}); !errors.Is(err, xsk.ErrInterface) {
		t.Error(err)
	}
}

// Every size outside the one range is refused by the same words, and its ends are taken.
func TestRingSize(t *testing.T) {
	open := func(int, func([]byte)) (xsk.Tx, error) { return &discard{}, nil }
	for _, size := range []int{-1, 256, MinRingSize - 1, MinRingSize / 2, MinRingSize + 1, 3 << 14, 1<<31 + 1, 1 << 32} {
		_, err := NewSender(SenderConfig{Shards: 1, RingSize: size, OpenTx: open})
		var ce *ConfigError
		if !errors.As(err, &ce) || ce.Field != "RingSize" || !strings.HasSuffix(ce.Msg, "want a power of two from 16384 to 2147483648") {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	for _, size := range []int{MinRingSize, ring.MaxSize} {
		cfg := SenderConfig{RingSize: size}
		cfg.Interface = "lo"
		if err := cfg.setDefaults(); err != nil { // making the largest takes 4 GiB
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// A priority that there is not is a fault of the caller, at every entry.
func TestUnknownPriorityPanics(t *testing.T) {
	s, err := NewSender(SenderConfig{Shards: 1, OpenTx: func(int, func([]byte)) (xsk.Tx, error) { return &discard{}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := flow(1, 1)
	for name, publish := range map[string]func(){
		"Shard.PublishPriority":       func() { _ = s.Shard(0).PublishPriority(&c, numPriorities) },
		"Shard.PublishBatchPriority":  func() { _, _ = s.Shard(0).PublishBatchPriority([]Conn{c, c}, numPriorities) },
		"Sender.PublishPriority":      func() { _ = s.PublishPriority(&c, numPriorities) },
		"Sender.PublishBatchPriority": func() { _, _ = s.PublishBatchPriority([]Conn{c, c}, numPriorities) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s takes priority %d", name, numPriorities)
				}
			}()
			publish()
		}()
	}
}
