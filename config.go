package ipvsync

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/xsk"
)

// Conn is one connection, as an update carries it.
type Conn = encoder.Conn

// Defaults of the protocol: IP_VS_SYNC_GROUP and IP_VS_SYNC_PORT of
// net/netfilter/ipvs/ip_vs_sync.c, and the TTL that a Linux master uses.
const (
	DefaultPort = 8848
	DefaultTTL  = 1
)

// DefaultGroup is the multicast group of the protocol, 224.0.0.81.
var DefaultGroup = netip.AddrFrom4([4]byte{224, 0, 0, 81})

// Tuning defaults.
const (
	DefaultFlushInterval = time.Millisecond
	DefaultRingSize      = 1 << 20 // bytes of each shard's ring: 21 thousand IPv4 records
	DefaultCloseTimeout  = time.Second

	// Immediately, as FlushInterval, sends a message as soon as there is
	// nothing more to put into it.
	Immediately time.Duration = -1
)

// Link is where messages go or come from. The zero value of each field is the
// default.
type Link struct {
	// Interface to send or receive on, by name. Required.
	Interface string
	// Group is the multicast group, IPv4 or IPv6; DefaultGroup if it is not set
	// (for a Sender: and no Peers are).
	Group netip.Addr
	// Port is the UDP port; 0 means DefaultPort.
	Port uint16
	// MaxSize is the most bytes of a message; 0 means what a Linux master
	// takes: min(MTU, 1500) less the IP and UDP headers. A Receiver takes
	// longer messages too, up to the interface's MTU, if this is larger.
	MaxSize int
	// SocketBuffer is the size of the socket's buffer in bytes; 0 means the
	// transport's default.
	SocketBuffer int
}

// SenderConfig says where and how a Sender sends. The zero value of each field
// but Interface is the default.
type SenderConfig struct {
	Link
	// SyncID of the messages. A Linux backup with another one ignores them,
	// unless its own is 0.
	SyncID uint8
	// Version0 sends version 0 of the protocol, which carries neither IPv6 nor
	// timeouts, firewall marks and persistence engines.
	Version0 bool
	// TTL of multicast packets, the hop limit in IPv6; 0 means DefaultTTL.
	TTL int
	// Loop delivers multicast packets to this host as well.
	Loop bool
	// Peers get every message by unicast, beside Group or, if that is not set,
	// in place of it.
	Peers []netip.AddrPort

	// Shards is the number of single-producer handles; 0 means one.
	Shards int
	// RingSize is the memory of each shard in bytes, a power of two; 0 means
	// DefaultRingSize.
	RingSize int
	// FlushInterval is the longest that an update waits for others to fill its
	// message; 0 means DefaultFlushInterval. See Immediately.
	FlushInterval time.Duration
	// CloseTimeout is the longest that Close tries to send what is there; 0
	// means DefaultCloseTimeout.
	CloseTimeout time.Duration

	// Logger is told when sending fails and when it resumes; nil is silence.
	Logger *slog.Logger

	// OpenTx opens the transport in place of UDP. lost must be called for each
	// message that was committed and that no destination will get, from
	// within Flush or Close.
	OpenTx func(lost func(message []byte)) (xsk.Tx, error)
}

// ReceiverConfig says where a Receiver listens and what it accepts.
type ReceiverConfig struct {
	Link
	// SyncID of the messages to accept; 0 accepts all.
	SyncID uint8
	// Engines are the persistence engines that the backup has; nil means
	// "sip", the one that Linux has.
	Engines []string
	// Unicast accepts messages addressed to this host as well.
	Unicast bool

	// Logger is told when receiving fails and when it resumes; nil is silence.
	Logger *slog.Logger

	// OpenRx opens the transport in place of UDP.
	OpenRx func() (xsk.Rx, error)
}

// Errors that a caller can decide by, with errors.Is. Those of package encoder
// and package xsk come through as well.
var (
	// ErrRingFull says that the update was dropped, and counted, because its
	// ring has no room: the transmit loop or the network is slower than the
	// producer.
	ErrRingFull = errors.New("ring full")
	// ErrClosed says that the Sender or Receiver was closed.
	ErrClosed = errors.New("closed")
	// ErrConfig says that a configuration makes no sense.
	ErrConfig = errors.New("configuration")
)

// ConfigError names the field of a configuration that makes no sense.
type ConfigError struct {
	Field string
	Msg   string
}

func (e *ConfigError) Error() string { return fmt.Sprintf("%s: %s", e.Field, e.Msg) }

// Unwrap gives ErrConfig.
func (e *ConfigError) Unwrap() error { return ErrConfig }

func configError(field, format string, args ...any) error {
	return &ConfigError{Field: field, Msg: fmt.Sprintf(format, args...)}
}

func (l *Link) setDefaults(group bool) {
	if group && !l.Group.IsValid() {
		l.Group = DefaultGroup
	}
	if l.Port == 0 {
		l.Port = DefaultPort
	}
}

// udp is what a sender and a receiver over UDP have in common.
func (l *Link) udp() xsk.UDPConfig {
	return xsk.UDPConfig{Interface: l.Interface, Group: l.Group, Port: int(l.Port), MaxPayload: l.MaxSize}
}

func (c *SenderConfig) setDefaults() error {
	c.Link.setDefaults(len(c.Peers) == 0)
	if c.TTL == 0 {
		c.TTL = DefaultTTL
	}
	if c.Shards == 0 {
		c.Shards = 1
	}
	if c.RingSize == 0 {
		c.RingSize = DefaultRingSize
	}
	if c.FlushInterval == 0 {
		c.FlushInterval = DefaultFlushInterval
	}
	if c.CloseTimeout == 0 {
		c.CloseTimeout = DefaultCloseTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.Interface == "" && c.OpenTx == nil:
		return configError("Interface", "is required: the name of the interface to send on")
	case c.TTL < 1 || c.TTL > 255:
		return configError("TTL", "is %d, want 1 to 255", c.TTL)
	case c.Shards < 0 || c.Shards > 1024:
		return configError("Shards", "is %d, want 1 to 1024", c.Shards)
	case c.MaxSize != 0 && (c.MaxSize < encoder.MinMessageSize || c.MaxSize > encoder.MaxMessageSize):
		return configError("MaxSize", "is %d, want %d to %d", c.MaxSize, encoder.MinMessageSize, encoder.MaxMessageSize)
	}
	return nil
}

func (c *ReceiverConfig) setDefaults() error {
	c.Link.setDefaults(true)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Interface == "" && c.OpenRx == nil {
		return configError("Interface", "is required: the name of the interface to receive on")
	}
	return nil
}

func (c *SenderConfig) version() encoder.Version {
	if c.Version0 {
		return encoder.Version0
	}
	return encoder.Version1
}
