package doctor

// Report is what was found out. Its JSON is the output of --json: fields may be
// added, but none changes its meaning.
type Report struct {
	Host       Host     `json:"host"`
	Interfaces []Device `json:"interfaces"`
}

// OK says whether something works: on some interface messages can be sent or
// received, by whatever mode.
func (r *Report) OK() bool {
	for i := range r.Interfaces {
		if r.Interfaces[i].Send.Mode != "" || r.Interfaces[i].Receive.Mode != "" {
			return true
		}
	}
	return false
}

// Finding is something that limits, and what to do about it.
type Finding struct {
	What string `json:"what"`
	Do   string `json:"do,omitempty"` // a command, or a sentence
}

// Host is what does not depend on a device.
type Host struct {
	Kernel       string    `json:"kernel"`
	Arch         string    `json:"arch"`
	Capabilities []string  `json:"capabilities"` // effective ones, of those that matter here
	Memlock      int64     `json:"memlock"`      // RLIMIT_MEMLOCK in bytes, −1: unlimited
	RmemMax      int       `json:"rmem_max"`     // net.core.rmem_max in bytes, 0: not known
	Findings     []Finding `json:"findings"`
}

// Device is one interface.
type Device struct {
	Name      string   `json:"name"`
	Index     int      `json:"index"`
	Driver    string   `json:"driver,omitempty"`
	Kind      string   `json:"kind,omitempty"` // of a virtual one: veth, bridge, vlan, …
	Up        bool     `json:"up"`
	Carrier   bool     `json:"carrier"`
	MTU       int      `json:"mtu"`
	MAC       string   `json:"mac,omitempty"`
	Addresses []string `json:"addresses"` // with prefix lengths

	RxQueues     int      `json:"rx_queues"` // in use; 0: the driver does not tell
	TxQueues     int      `json:"tx_queues"`
	RxAllocated  int      `json:"rx_queues_allocated"` // what the driver made room for
	TxAllocated  int      `json:"tx_queues_allocated"`
	XDPFeatures  []string `json:"xdp_features"` // null: the kernel does not tell, before 6.3
	Program      *Program `json:"xdp_program,omitempty"`
	DeferIRQs    *int     `json:"napi_defer_hard_irqs,omitempty"` // missing: not known
	FlushTimeout *int     `json:"gro_flush_timeout,omitempty"`    // nanoseconds

	PortUsers []string  `json:"port_users"`           // who uses the port of the synchronisation here
	NotProbed *Finding  `json:"not_probed,omitempty"` // why AF_XDP was not tried, but only looked at
	Send      Way       `json:"send"`
	Receive   Way       `json:"receive"`
	Findings  []Finding `json:"findings"`
}

// Program is an XDP program that is attached.
type Program struct {
	ID      uint32 `json:"id"`
	Name    string `json:"name,omitempty"` // "": not allowed to ask (CAP_SYS_ADMIN)
	Generic bool   `json:"generic"`
}

// Way is how messages would be sent, or received.
type Way struct {
	Mode   string `json:"mode"`             // "": none can be had
	Queues []int  `json:"queues,omitempty"` // of AF_XDP
	Locked int    `json:"locked_bytes"`     // packet memory, which counts against RLIMIT_MEMLOCK
	Not    []Not  `json:"not"`              // the modes that would be better
}

// Not is a mode that cannot be had, or was not tried.
type Not struct {
	Mode  string `json:"mode"`
	Tried bool   `json:"tried"`
	Finding
}
