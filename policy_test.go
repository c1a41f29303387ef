package ipvsync

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/ipvsync/ipvsync/encoder"
)

// A UDP connection under the kernel's default settings.
func ExamplePolicy() {
	var policy Policy
	var state PolicyState
	conn := flow(1, 300)
	conn.Protocol, conn.State = encoder.UDP, encoder.UDPNormal
	for packets := uint32(1); packets <= 110; packets++ {
		if send, priority := policy.Needed(&state, &conn, packets, 0, false); send {
			fmt.Println("packet", packets, priority == StateChange)
		}
	}
	// Output:
	// packet 3 true
	// packet 53 false
	// packet 103 false
}

// policyStep is a packet, or the expiry of a timer, and what becomes of it.
type policyStep struct {
	at      time.Duration
	state   encoder.State
	packets uint32
	want    string // "", "change" or "refresh"
}

func TestPolicyRules(t *testing.T) {
	const (
		est, recv, fin, closed = encoder.TCPEstablished, encoder.TCPSynRecv, encoder.TCPFinWait, encoder.TCPClose
		ms                     = time.Millisecond
		s                      = time.Second
	)
	for _, tc := range []struct {
		name       string
		policy     Policy
		proto      encoder.Protocol
		flags      encoder.Flags
		timeout    uint32
		controlled bool
		steps      []policyStep
	}{
		{name: "tcp: changes at once, ESTABLISHED by count", proto: encoder.TCP, timeout: 900, steps: []policyStep{
			{0, recv, 1, ""}, {0, est, 2, ""}, {0, est, 3, "change"}, {0, est, 4, ""}, {0, fin, 5, "change"},
			{0, fin, 6, ""}, {0, fin, 53, "refresh"}, {0, closed, 54, "change"}, {0, closed, 55, ""},
			{0, recv, 56, ""}, {0, recv, 103, ""}, {0, closed, 104, ""}, {0, recv, 105, ""}, {0, est, 106, ""}, {0, est, 153, "change"}}},
		{name: "tcp: states that are never told", proto: encoder.TCP, timeout: 60, steps: []policyStep{
			{0, encoder.TCPNone, 3, ""}, {0, encoder.TCPSynSent, 3, ""}, {0, recv, 3, ""},
			{0, encoder.TCPLastAck, 3, ""}, {0, encoder.TCPListen, 3, ""}, {0, encoder.TCPSynAck, 3, ""}, {0, 200, 3, ""}}},
		{name: "sctp", proto: encoder.SCTP, timeout: 900, steps: []policyStep{
			{0, encoder.SCTPInit1, 3, ""}, {0, encoder.SCTPCookieEchoed, 3, ""}, {0, encoder.SCTPRejected, 3, ""},
			{0, encoder.SCTPEstablished, 4, ""}, {0, encoder.SCTPEstablished, 53, "change"},
			{0, encoder.SCTPShutdownSent, 54, "change"}, {0, encoder.SCTPShutdownReceived, 55, "change"},
			{0, encoder.SCTPShutdownAckSent, 56, "change"}, {0, encoder.SCTPClosed, 57, "change"}, {0, encoder.SCTPClosed, 58, ""}}},
		{name: "another protocol", proto: 47, timeout: 60, steps: []policyStep{{0, 0, 3, "change"}, {0, 0, 4, ""}, {0, 0, 53, "refresh"}}},
		{name: "0 5", policy: Policy{Period: 5}, proto: encoder.UDP, timeout: 300, steps: []policyStep{
			{0, 0, 1, ""}, {0, 0, 5, "change"}, {0, 0, 6, ""}, {0, 0, 10, "refresh"}, {0, 0, 1 << 31 / 5 * 5, "refresh"}, {0, 0, 1<<32 - 1, "refresh"}}},
		{name: "1 0", policy: Policy{Threshold: 1}, proto: encoder.UDP, timeout: 300, steps: []policyStep{
			{0, 0, 1, "change"}, {0, 0, 2, ""}, {0, 0, 51, ""}}},
		{name: "0 0", policy: Policy{Threshold: -1}, proto: encoder.TCP, timeout: 900, steps: []policyStep{
			{0, est, 1, ""}, {0, est, 3, ""}, {0, est, 50, ""}, {0, est, 0, "change"}, {0, fin, 51, "change"}}},
		{name: "never due", policy: Policy{Threshold: 5, Period: 5}, proto: encoder.UDP, timeout: 300, steps: []policyStep{
			{0, 0, 5, ""}, {0, 0, 10, ""}}},
		{name: "template at every packet", proto: encoder.TCP, flags: encoder.FlagTemplate, timeout: 300, steps: []policyStep{
			{0, 0, 1, "change"}, {0, 0, 2, "refresh"}, {0, 1, 3, "change"}, {0, 1, 4, "refresh"}}},
		{name: "template without a period", policy: Policy{Threshold: 2}, proto: encoder.TCP, flags: encoder.FlagTemplate, timeout: 300, steps: []policyStep{
			{0, 0, 1, ""}, {0, 0, 2, "change"}, {0, 0, 3, ""}}},
		{name: "template with a refresh period", policy: Policy{RefreshPeriod: 20 * s}, proto: encoder.TCP, flags: encoder.FlagTemplate, timeout: 300, steps: []policyStep{
			{0, 0, 1, "change"}, {0, 0, 2, ""}, {20*s - 1, 0, 3, ""}, {20 * s, 0, 4, "refresh"}}},
		{name: "template, whatever its connections' mode", policy: Policy{PersistMode: true}, proto: encoder.TCP, flags: encoder.FlagTemplate,
			timeout: 300, controlled: true, steps: []policyStep{{0, 0, 1, "change"}}},
		{name: "persist mode", policy: Policy{PersistMode: true}, proto: encoder.TCP, timeout: 900, controlled: true, steps: []policyStep{
			{0, est, 3, ""}, {0, fin, 4, ""}}},
		{name: "persist mode, not controlled", policy: Policy{PersistMode: true}, proto: encoder.TCP, timeout: 900, steps: []policyStep{
			{0, est, 3, "change"}, {0, fin, 4, "change"}}},
		{name: "controlled", proto: encoder.TCP, timeout: 900, controlled: true, steps: []policyStep{{0, est, 3, "change"}}},
		{name: "one packet", policy: Policy{Threshold: 1}, proto: encoder.UDP, flags: encoder.FlagOnePacket, timeout: 300, steps: []policyStep{
			{0, 0, 1, ""}, {0, 0, 3, ""}}},
		{name: "refresh period", policy: Policy{Threshold: 1, RefreshPeriod: 8 * s}, proto: encoder.UDP, timeout: 300, steps: []policyStep{
			{5 * s, 0, 1, "change"}, {5 * s, 0, 2, ""}, {13*s - 1, 0, 3, ""}, {13 * s, 0, 4, "refresh"}, {13 * s, 0, 5, ""}, {21 * s, 0, 6, "refresh"}}},
		{name: "refresh period and count", policy: Policy{RefreshPeriod: 8 * s}, proto: encoder.UDP, timeout: 300, steps: []policyStep{
			{0, 0, 1, ""}, {0, 0, 3, "change"}, {0, 0, 53, ""}, {8 * s, 0, 54, ""}, {8 * s, 0, 103, "refresh"}, {9 * s, 0, 153, ""}}},
		{name: "half of the timeout", policy: Policy{Threshold: 1, RefreshPeriod: 1000 * s}, proto: encoder.UDP, timeout: 41, steps: []policyStep{
			{0, 0, 1, "change"}, {20500*ms - 1, 0, 2, ""}, {20500 * ms, 0, 3, "refresh"}}},
		{name: "half of a short timeout is ten seconds", policy: Policy{Threshold: 1, RefreshPeriod: 1000 * s}, proto: encoder.UDP, timeout: 12, steps: []policyStep{
			{0, 0, 1, "change"}, {10*s - 1, 0, 2, ""}, {10 * s, 0, 3, "refresh"}}},
		{name: "a short timeout is told late", policy: Policy{Threshold: 1, RefreshPeriod: 20 * s}, proto: encoder.UDP, timeout: 4, steps: []policyStep{
			{0, 0, 1, ""}, {6*s - 1, 0, 2, ""}, {6 * s, 0, 3, "change"}}},
		{name: "retries", policy: Policy{Threshold: 1, RefreshPeriod: 8 * s, Retries: 2}, proto: encoder.UDP, timeout: 300, steps: []policyStep{
			{0, 0, 1, "change"}, {s - 1, 0, 2, ""}, {s, 0, 3, "refresh"}, {2*s - 1, 0, 4, ""}, {2 * s, 0, 5, "refresh"},
			{3 * s, 0, 6, ""}, {10*s - 1, 0, 7, ""}, {10 * s, 0, 8, "refresh"}, {11 * s, 0, 9, "refresh"}}},
		{name: "never more than three retries", policy: Policy{Threshold: 1, RefreshPeriod: 80 * s, Retries: 9}, proto: encoder.UDP, timeout: 300, steps: []policyStep{
			{0, 0, 1, "change"}, {10 * s, 0, 3, "refresh"}, {20 * s, 0, 3, "refresh"}, {30 * s, 0, 3, "refresh"}, {40 * s, 0, 3, ""}}},
		{name: "a change starts the retries anew", policy: Policy{Threshold: 1, RefreshPeriod: 80 * s, Retries: 1}, proto: encoder.TCP, timeout: 900, steps: []policyStep{
			{0, est, 1, "change"}, {10 * s, est, 2, "refresh"}, {20 * s, est, 3, ""}, {20 * s, fin, 4, "change"}, {30 * s, fin, 5, "refresh"}}},
		{name: "a count that is not due spends no retry", policy: Policy{RefreshPeriod: 80 * s, Retries: 1}, proto: encoder.UDP, timeout: 300, steps: []policyStep{
			{0, 0, 3, "change"}, {10 * s, 0, 4, ""}, {11 * s, 0, 53, "refresh"}, {30 * s, 0, 103, ""}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var state PolicyState
			c := flow(1, tc.timeout)
			c.Protocol, c.Flags = tc.proto, tc.flags
			for i, step := range tc.steps {
				c.State = step.state
				send, priority := tc.policy.Needed(&state, &c, step.packets, step.at, tc.controlled)
				got := ""
				switch {
				case send && priority == StateChange:
					got = "change"
				case send && priority == Refresh:
					got = "refresh"
				case send:
					got = fmt.Sprint("priority ", priority)
				}
				if got != step.want {
					t.Fatalf("step %d, packet %d at %v in state %s: %q, want %q", i, step.packets, step.at, c.StateName(), got, step.want)
				}
			}
		})
	}
}

// A state put back makes the next packet try again.
func TestPolicyStateIsAValue(t *testing.T) {
	var policy Policy
	var state PolicyState
	c := flow(1, 10)
	c.State = encoder.TCPClose
	saved := state
	if send, _ := policy.Needed(&state, &c, 7, 0, false); !send {
		t.Fatal("a change was not told")
	}
	state = saved
	if send, priority := policy.Needed(&state, &c, 8, 0, false); !send || priority != StateChange {
		t.Error("a change was not told again")
	}
	typ := reflect.TypeFor[PolicyState]()
	if typ.Size() > 16 {
		t.Errorf("PolicyState takes %d bytes, want 16 or fewer", typ.Size())
	}
	for i := range typ.NumField() {
		switch f := typ.Field(i); f.Type.Kind() {
		case reflect.Int64, reflect.Uint16, reflect.Uint8:
		default:
			t.Errorf("field %s is %v, want a number", f.Name, f.Type)
		}
	}
}

func TestPolicyController(t *testing.T) {
	template := flow(1, 300)
	template.Flags = encoder.FlagTemplate
	control := flow(1, 900)
	for _, tc := range []struct {
		policy    Policy
		threshold uint32
	}{
		{Policy{}, 3}, {Policy{Threshold: 1}, 1}, {Policy{Period: 5}, 0}, {Policy{Threshold: -1}, 0}, {Policy{Threshold: 10, Period: 20}, 10},
	} {
		packets := uint32(6)
		if got := tc.policy.ControllerPackets(&template, &packets); got != 7 || packets != 7 {
			t.Errorf("%+v: template: %d packets, counter %d, want 7", tc.policy, got, packets)
		}
		if got := tc.policy.ControllerPackets(&control, &packets); got != tc.threshold || packets != 7 {
			t.Errorf("%+v: control connection: %d packets, counter %d, want %d, 7", tc.policy, got, packets, tc.threshold)
		}
		if got := tc.policy.ThresholdPackets(); got != tc.threshold {
			t.Errorf("%+v: threshold %d, want %d", tc.policy, got, tc.threshold)
		}
	}
}

func TestPolicyValidate(t *testing.T) {
	for _, p := range []Policy{
		{}, {Threshold: 1}, {Period: 5}, {Threshold: 4, Period: 5}, {Threshold: -1}, {Threshold: 9},
		{RefreshPeriod: time.Hour, Retries: 3, PersistMode: true},
	} {
		if err := p.Validate(); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
	}
	for field, p := range map[string]Policy{
		"Threshold":     {Threshold: 5, Period: 5},
		"RefreshPeriod": {RefreshPeriod: -1},
		"Retries":       {Retries: 4},
	} {
		var e *ConfigError
		if err := p.Validate(); !errors.As(err, &e) || e.Field != field || !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v, want an error about %s", p, err, field)
		}
	}
	if err := (&Policy{Retries: -1}).Validate(); err == nil {
		t.Error("negative retries are no error")
	}
}

// slowPolicy decides as a kernel does, in jiffies of which the last two bits
// hold the retries, one rule after the other.
type slowPolicy struct {
	threshold, period int32
	refresh           uint64 // jiffies
	retries           uint64
	persistMode       bool
}

type slowState struct {
	endtime uint64
	old     encoder.State
}

// jiffiesPerSecond is CONFIG_HZ of Debian's kernels.
const (
	jiffiesPerSecond = 250
	jiffy            = time.Second / jiffiesPerSecond
	jiffiesBound     = 7 * jiffy // how far from a boundary both may differ
)

func newSlowState(now uint64) slowState { return slowState{endtime: now / 4 * 4} }

func (p *slowPolicy) needed(s *slowState, c *Conn, packets int32, now uint64, inPersistence bool) bool {
	if c.Flags&encoder.FlagOnePacket != 0 {
		return false
	}
	single := c.Template() || c.Protocol != encoder.TCP && c.Protocol != encoder.SCTP
	if !c.Template() && p.persistMode && inPersistence {
		return false
	}
	if !single {
		names := map[string]bool{"ESTABLISHED": true, "CLOSE": true, "FIN_WAIT": true, "CLOSE_WAIT": true, "TIME_WAIT": true,
			"S-SENT": true, "S-RECEIVED": true, "S-ACK-SENT": true, "CLOSED": true}
		if !names[c.StateName()] {
			return false
		}
	}
	timeout := uint64(c.Timeout) * jiffiesPerSecond
	end := (now + timeout) / 4 * 4
	tell := func() bool {
		s.endtime, s.old = end, c.State
		return true
	}
	if !single && c.State != s.old && c.StateName() != "ESTABLISHED" {
		return tell()
	}
	if p.refresh != 0 {
		moved := int64(end - s.endtime)
		if moved < 0 {
			moved = -moved
		}
		bound := timeout / 2
		if bound < 10*jiffiesPerSecond {
			bound = 10 * jiffiesPerSecond
		}
		if p.refresh < bound {
			bound = p.refresh
		}
		if uint64(moved) < bound {
			done := s.endtime % 4
			if done >= p.retries {
				return false
			}
			if int64(now-(s.endtime-timeout+p.refresh/8)) < 0 {
				return false
			}
			end += done + 1
		}
	}
	switch {
	case p.period != 0:
		if !c.Template() && packets%p.period != p.threshold {
			return false
		}
	case p.refresh == 0:
		if packets != p.threshold {
			return false
		}
	}
	return tell()
}

// steady says whether Needed would decide the same, for the same reason, a little
// earlier and later.
func steady(p *Policy, s PolicyState, c *Conn, packets uint32, now time.Duration, controlled bool, little time.Duration) bool {
	decide := func(now time.Duration) (bool, uint8) {
		s := s
		send, _ := p.Needed(&s, c, packets, now, controlled)
		return send, s.retries
	}
	want, retries := decide(now)
	for _, t := range []time.Duration{now - little, now + little} {
		if send, r := decide(t); send != want || r != retries {
			return false
		}
	}
	return true
}

// Random lives of connections under random settings.
func TestPolicyAgainstKernelsArithmetic(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	lives := 4000
	if testing.Short() {
		lives = 400
	}
	var steps, told, cut int
	for range lives {
		slow := slowPolicy{persistMode: rng.IntN(4) == 0}
		slow.threshold = rng.Int32N(6)
		if rng.IntN(3) > 0 {
			slow.period = slow.threshold + 1 + rng.Int32N(8)
		}
		if rng.IntN(2) == 0 {
			slow.refresh = jiffiesPerSecond * uint64(1+rng.IntN(60))
			slow.retries = rng.Uint64N(4)
		}
		p := Policy{
			Threshold: int(slow.threshold), Period: int(slow.period), PersistMode: slow.persistMode,
			RefreshPeriod: time.Duration(slow.refresh) * jiffy, Retries: int(slow.retries),
		}
		if p.Threshold == 0 {
			p.Threshold = -1
		}
		c := flow(1, 0)
		c.Protocol = []encoder.Protocol{encoder.TCP, encoder.TCP, encoder.SCTP, encoder.UDP, encoder.ESP, 1}[rng.IntN(6)]
		states := map[encoder.Protocol]int{encoder.TCP: 11, encoder.SCTP: 14}[c.Protocol]
		switch rng.IntN(8) {
		case 0, 1:
			c.Flags, states = encoder.FlagTemplate, 2
		case 2:
			c.Flags = encoder.FlagOnePacket
		}
		controlled := rng.IntN(2) == 0
		timeouts := []uint32{2, 4, 10, 15, 30, 41, 60, 120, 900}

		const start = ^uint64(0) - 300*jiffiesPerSecond + 1 // as a kernel starts
		var state PolicyState
		ticks := rng.Uint64N(400 * jiffiesPerSecond)
		slowState := newSlowState(start + ticks)
		c.Timeout = timeouts[rng.IntN(len(timeouts))]
		for packets := uint32(1); packets < 200; packets++ {
			if states > 0 && rng.IntN(10) == 0 {
				c.State = encoder.State(rng.IntN(states))
			}
			if rng.IntN(20) == 0 {
				c.Timeout = timeouts[rng.IntN(len(timeouts))]
			}
			now := time.Duration(ticks) * jiffy
			if !steady(&p, state, &c, packets, now, controlled, jiffiesBound+1) {
				cut++
				break
			}
			got, _ := p.Needed(&state, &c, packets, now, controlled)
			want := slow.needed(&slowState, &c, int32(packets), start+ticks, controlled)
			if got != want {
				t.Fatalf("%+v, packet %d at %v of %v, controlled %v: %v, want %v", p, packets, now, &c, controlled, got, want)
			}
			steps++
			if got {
				told++
			}
			if rng.IntN(3) == 0 {
				ticks += rng.Uint64N(20 * jiffiesPerSecond)
			}
		}
	}
	t.Logf("%d packets, %d told, %d of %d lives cut short near a boundary", steps, told, cut, lives)
	if steps < lives*100 || told < lives {
		t.Error("too little was compared")
	}
}

func TestPolicyDoesNotAllocate(t *testing.T) {
	p := Policy{RefreshPeriod: time.Second, Retries: 1}
	var state PolicyState
	c, packets := flow(1, 900), uint32(0)
	c.Flags = encoder.FlagTemplate
	if n := testing.AllocsPerRun(1000, func() {
		n := p.ControllerPackets(&c, &packets)
		p.Needed(&state, &c, n, time.Duration(packets)*time.Second/4, false)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPolicy(b *testing.B) {
	for _, bc := range []struct {
		name   string
		policy Policy
	}{
		{"defaults", Policy{}},
		{"refresh period", Policy{RefreshPeriod: 10 * time.Second, Retries: 1}},
	} {
		b.Run(bc.name, func(b *testing.B) {
			b.ReportAllocs()
			var state PolicyState
			c, packets := flow(1, 900), uint32(0)
			for b.Loop() {
				packets++
				bc.policy.Needed(&state, &c, packets, time.Duration(packets)*time.Microsecond, false)
			}
		})
	}
}
