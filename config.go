package ipvsync

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/ring"
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
	// DefaultReceiveBuffer is the socket buffer of a Receiver over UDP, in bytes:
	// a stream at full rate for the milliseconds that a busy machine may take to
	// come back. Without CAP_NET_ADMIN it ends at net.core.rmem_max.
	DefaultReceiveBuffer = 8 << 20

	// Immediately, as FlushInterval, sends a message as soon as there is
	// nothing more to put into it.
	Immediately time.Duration = -1
)

// Link is where messages go or come from. The zero value of each field is the
// default.
type Link struct {
	// Interface to send or receive on, by name. Required.
	Interface string
	// Group is the multicast group, IPv4 or IPv6; DefaultGroup if it is not set,
	// unless a Sender has Peers, or a Receiver Unicast: then they use no group.
	Group netip.Addr
	// Port is the UDP port; 0 means DefaultPort.
	Port uint16
	// MaxSize is the most bytes of a message; 0 means what a Linux master
	// takes: min(MTU, 1500) less the IP and UDP headers. A Receiver takes
	// longer messages too, up to the interface's MTU, if this is larger.
	MaxSize int
	// SocketBuffer is the size of the socket's buffer in bytes, up to
	// xsk.MaxBuffer; 0 means DefaultReceiveBuffer, or for a Sender the kernel's
	// default. A Receiver over AF_XDP has that much packet memory for each queue, up
	// to 128 MiB, 4 MiB by default; a Sender always has 4 MiB.
	SocketBuffer int

	// Mode is how packets are moved. The zero value, xsk.ModeAuto, takes the best
	// that interface, kernel and rights allow: AF_XDP, else UDP; see xsk.OpenTx and
	// xsk.OpenRx. Any other that cannot be had is an error. With a Receiver over
	// AF_XDP, no other program of this host gets the messages any more; auto leaves
	// a port alone on which another one receives already.
	Mode xsk.Mode
	// Queues are the device queues that AF_XDP uses: port i of a Sender sends by
	// Queues[i], or queue i by default. In ModeAuto a port for which there is none,
	// because Queues or the device has fewer than there are ports, sends by UDP; more
	// Queues than ports are an error, and so is a queue that the device has not.
	// A Receiver receives from all of Queues, by default from all of the device.
	Queues []int
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

	// Shards is the number of single-producer handles, 1 to 1024; 0 means as
	// many as there are processors to run goroutines.
	Shards int
	// Ports is the number of UDP ports, 1 to 64, from Port on, like a kernel's
	// sync_ports: each has a transmit loop of its own, and every flow always
	// goes by the same one. Shard i belongs to port i mod Ports. 0 means one.
	Ports int
	// RingSize is the memory of each ring in bytes, a power of two from
	// MinRingSize to ring.MaxSize; a shard has two. 0 means DefaultRingSize.
	RingSize int
	// Watermarks are the fillings of a ring, in percent, above which updates of
	// lesser priority are refused. The zero value of each is its default.
	Watermarks Watermarks
	// FlushInterval is the longest that an update waits for others to fill its
	// message; 0 means DefaultFlushInterval. See Immediately.
	FlushInterval time.Duration
	// Coalesce merges updates of one flow that wait at the same time: the last
	// state wins. Updates then wait in a window of that many bytes for each
	// port, until it is full, or FlushInterval is over. 0 merges nothing.
	Coalesce int
	// BusyPoll keeps the transmit loops turning when there is nothing to do, for
	// the least delay. It takes a whole processor for each port. Sockets of AF_XDP
	// run the driver's polling loop then, which needs CAP_NET_ADMIN.
	BusyPoll bool
	// CPUs binds the transmit loop of port i to processor CPUs[i]; a loop
	// without an entry goes where the kernel puts it.
	CPUs []int
	// CloseTimeout is the longest that Close tries to send what is there; 0
	// means DefaultCloseTimeout.
	CloseTimeout time.Duration

	// Logger is told when sending fails and when it resumes; nil is silence.
	Logger *slog.Logger

	// OpenTx opens the transport of a port, counted from 0, in place of Mode. lost
	// must be called for each message that was committed and that no destination
	// will get, from within Flush or Close.
	OpenTx func(port int, lost func(message []byte)) (xsk.Tx, error)
}

// Watermarks are fillings of a ring in percent, 1 to 100. Above its watermark
// an update is refused; state changes may fill the ring.
type Watermarks struct {
	Refresh int // 0 means 75
	Update  int // 0 means 90
}

// Priority of an update, when a ring fills up. Nothing is ever sent earlier for
// its priority, or the updates of a flow would overtake each other.
type Priority uint8

// Priorities, the least first.
const (
	Refresh     Priority = iota // tells nothing new: the connection lives on
	Update                      // something changed; what Publish has
	StateChange                 // the connection came, went or changed its state
	numPriorities
)

// Limits of a Sender.
const (
	MaxShards = 1024
	MaxPorts  = 64 // IP_VS_SYNC_PORTS_MAX

	MinRingSize = 1 << 14 // bytes; it takes the longest record
)

// ReceiverConfig says where a Receiver listens and what it accepts.
type ReceiverConfig struct {
	Link
	// SyncID of the messages to accept; 0 accepts all.
	SyncID uint8
	// Engines are the persistence engines that the backup has; nil means
	// "sip", the one that Linux has.
	Engines []string
	// Ports is the number of UDP ports, 1 to 64, from Port on, that the master
	// sends to (sync_ports of a kernel's). 0 means one.
	Ports int
	// BusyPoll keeps Run looking for messages instead of sleeping, for the least
	// delay. It takes a whole processor. Sockets of AF_XDP run the driver's polling
	// loop then, which needs CAP_NET_ADMIN.
	BusyPoll bool
	// CPUs are the processors that Run is bound to, with a thread of its own; none:
	// it runs where the scheduler puts it, on any thread.
	CPUs []int
	// Unicast accepts messages addressed to this host, beside those to Group or,
	// if that is not set, in place of them.
	Unicast bool

	// Logger is told when receiving fails and when it resumes; nil is silence.
	Logger *slog.Logger

	// OpenRx opens the transport in place of Mode.
	OpenRx func() (xsk.Rx, error)
}

// Errors that a caller can decide by, with errors.Is. Those of package encoder
// and package xsk come through as well.
var (
	// ErrRingFull says that the update was dropped, and counted, because its
	// ring has no room: the transmit loop or the network is slower than the
	// producer.
	ErrRingFull = errors.New("ring full")
	// ErrLost says that the transport gave up messages, and that their updates
	// are counted as dropped.
	ErrLost = errors.New("updates were given up by the transport")
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

// check is about what a Sender and a Receiver have in common.
func (l *Link) check() error {
	if l.SocketBuffer < 0 || l.SocketBuffer > xsk.MaxBuffer {
		return configError("SocketBuffer", "is %d, want 0 to %d bytes", l.SocketBuffer, xsk.MaxBuffer)
	}
	for i, q := range l.Queues {
		if q < 0 || slices.Contains(l.Queues[:i], q) {
			return configError("Queues", "has queue %d, which is negative or there twice", q)
		}
	}
	return nil
}

func (c *SenderConfig) setDefaults() error {
	c.Link.setDefaults(len(c.Peers) == 0)
	if c.TTL == 0 {
		c.TTL = DefaultTTL
	}
	if c.Shards == 0 {
		c.Shards = runtime.GOMAXPROCS(0)
	}
	if c.Ports == 0 {
		c.Ports = 1
	}
	if c.Watermarks.Refresh == 0 {
		c.Watermarks.Refresh = 75
	}
	if c.Watermarks.Update == 0 {
		c.Watermarks.Update = 90
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
	case c.Shards < 0 || c.Shards > MaxShards:
		return configError("Shards", "is %d, want 1 to %d", c.Shards, MaxShards)
	case c.Ports < 0 || c.Ports > MaxPorts:
		return configError("Ports", "is %d, want 1 to %d", c.Ports, MaxPorts)
	case int(c.Port)+c.Ports-1 > 65535:
		return configError("Ports", "%d from port %d on go past 65535", c.Ports, c.Port)
	case len(c.Queues) > c.Ports:
		return configError("Queues", "are %d, ports %d: want one for each port at most", len(c.Queues), c.Ports)
	case c.Watermarks.Refresh < 1 || c.Watermarks.Update < c.Watermarks.Refresh || c.Watermarks.Update > 100:
		return configError("Watermarks", "are %d %% and %d %%, want 1 to 100, Update not below Refresh", c.Watermarks.Refresh, c.Watermarks.Update)
	case c.RingSize < MinRingSize || c.RingSize > ring.MaxSize || c.RingSize&(c.RingSize-1) != 0:
		return configError("RingSize", "is %d bytes, want a power of two from %d to %d", c.RingSize, MinRingSize, ring.MaxSize)
	case c.FlushInterval < Immediately:
		return configError("FlushInterval", "is %v, want 0 or more, or Immediately", c.FlushInterval)
	case c.CloseTimeout < 0:
		return configError("CloseTimeout", "is %v, want 0 or more", c.CloseTimeout)
	case c.Coalesce != 0 && (c.Coalesce < minWindow || c.Coalesce > maxWindow):
		return configError("Coalesce", "is %d bytes, want %d to %d", c.Coalesce, minWindow, maxWindow)
	case c.MaxSize != 0 && (c.MaxSize < encoder.MinMessageSize || c.MaxSize > encoder.MaxMessageSize):
		return configError("MaxSize", "is %d, want %d to %d", c.MaxSize, encoder.MinMessageSize, encoder.MaxMessageSize)
	}
	if err := c.Link.check(); err != nil {
		return err
	}
	return checkCPUs(c.CPUs)
}

func (c *ReceiverConfig) setDefaults() error {
	c.Link.setDefaults(!c.Unicast)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Ports == 0 {
		c.Ports = 1
	}
	switch {
	case c.Interface == "" && c.OpenRx == nil:
		return configError("Interface", "is required: the name of the interface to receive on")
	case c.Ports < 0 || c.Ports > MaxPorts:
		return configError("Ports", "is %d, want 1 to %d", c.Ports, MaxPorts)
	case int(c.Port)+c.Ports-1 > 65535:
		return configError("Ports", "%d from port %d on go past 65535", c.Ports, c.Port)
	}
	if err := c.Link.check(); err != nil {
		return err
	}
	return checkCPUs(c.CPUs)
}

// maxCPUs is how many processors a unix.CPUSet has room for: CPU_SETSIZE of glibc.
const maxCPUs = 1024

func checkCPUs(cpus []int) error {
	for _, cpu := range cpus {
		if cpu < 0 || cpu >= maxCPUs {
			return configError("CPUs", "has processor %d, want 0 to %d", cpu, maxCPUs-1)
		}
	}
	return nil
}

func (c *SenderConfig) version() encoder.Version {
	if c.Version0 {
		return encoder.Version0
	}
	return encoder.Version1
}
