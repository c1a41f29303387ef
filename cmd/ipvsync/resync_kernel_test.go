package main

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/encoder"
	"github.com/ipvsync/ipvsync/encoder/kernellab"
	"github.com/ipvsync/ipvsync/xsk"
)

// moreServices are forwarding methods that the lab's master does not have, one of
// them by firewall mark.
const moreServices = `
tc filter add dev eth0 ingress protocol ip u32 match ip protocol 17 0xff match ip dport 56 0xffff action skbedit mark 8
ipvsadm -R <<B
-A -u 10.88.0.2:54 -s rr
-a -u 10.88.0.2:54 -r 10.99.0.54:54 -g
-A -u 10.88.0.2:55 -s rr -p 200
-a -u 10.88.0.2:55 -r 10.99.0.55:55 -i
-A -f 8 -s rr
-a -f 8 -r 10.99.0.56:56 -g
B
`

// The connections of a kernel master with every kind of service go, by way of its
// listing, to another kernel's backup: the same table. And records made of the
// listing, on the master itself with its services by netlink, are those that the
// master sends of its own accord, but for sequence data, which no listing shows.
func TestKernelResyncFromProc(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves the kernel lab out")
	}
	program := filepath.Join(t.TempDir(), "ipvsync")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	binary, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	guests := map[kernellab.Kernel]*kernellab.Guest{}
	for _, k := range kernellab.Kernels {
		guests[k] = kernellab.Boot(t, k)
		guests[k].Put(t, "/run/ipvsync", binary)
	}
	for i, k := range kernellab.Kernels {
		master, backup := guests[k], guests[kernellab.Kernels[(i+1)%len(kernellab.Kernels)]]
		t.Run(fmt.Sprintf("%s to %s", master.Kernel(), backup.Kernel()), func(t *testing.T) {
			master.Reset(t)
			backup.Reset(t)
			resyncFromProc(t, master, backup)
		})
	}
}

func resyncFromProc(t *testing.T, master, backup *kernellab.Guest) {
	own := collect(t, master, kernellab.MasterSyncID)
	m := kernellab.NewMaster(t, master, 1, kernellab.DaemonOptions{})
	master.Run(t, moreServices)
	m.Play(t, kernellab.Steps...)
	for _, port := range []uint16{54, 55, 56} {
		err := master.NS().Do(func() error {
			conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 23000 + int(port)})
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(kernellab.GuestAddr, port))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// Three connections, and the template of the service at port 55.
	waitFor(t, "the master has told the last", func() bool {
		n := 0
		for key := range own.last() {
			if strings.Contains(key, "10.99.0.5") {
				n++
			}
		}
		return n == 4
	})

	// On the master itself.
	made := collect(t, master, 99)
	said := master.Run(t, "/run/ipvsync resync --from /proc -i eth0 --mode udp --syncid 99 2>&1")
	t.Logf("resync on Linux %s says\n%s", master.Release(), said)
	if strings.Contains(said, "bad lines") || strings.Contains(said, "no known service") {
		t.Error("not everything was understood")
	}
	waitFor(t, "all records of the resync are here", func() bool {
		return strings.Contains(said, fmt.Sprintf("%d connections sent", made.count()))
	})
	got, want := made.last(), own.last()
	const unseen = encoder.FlagSeqMask | encoder.FlagSync
	for key, c := range got {
		w, ok := want[key]
		if !ok {
			t.Errorf("never told by the master: %v", &c)
			continue
		}
		w.Flags &^= unseen
		c.Flags &^= unseen
		// The state may have moved on since the master spoke last.
		if c.Flags&^encoder.FlagInactive != w.Flags&^encoder.FlagInactive || c.Fwmark != w.Fwmark ||
			c.State == w.State && c.Flags != w.Flags || c.Timeout == 0 || c.Timeout > w.Timeout+1 {
			t.Errorf("made of the listing: %v\ntold by the master:  %v", &c, &w)
		}
		name, data, _ := c.Options.PE()
		wantName, wantData, _ := w.Options.PE()
		if !bytes.Equal(name, wantName) || !bytes.Equal(data, wantData) {
			t.Errorf("engine data of %v, told %v", &c, &w)
		}
	}
	methods := map[encoder.Flags]int{}
	for _, c := range got {
		methods[c.Flags&encoder.FlagFwdMask]++
	}
	if methods[encoder.FwdMasq] == 0 || methods[encoder.FwdDRoute] != 2 || methods[encoder.FwdTunnel] != 2 {
		t.Errorf("forwarding methods: %v", methods)
	}

	// By way of copies, to another kernel.
	dir := t.TempDir()
	conns, services := filepath.Join(dir, "conns"), filepath.Join(dir, "services")
	listing := master.Run(t, "ipvsadm -Sn >/run/services; cat /proc/net/ip_vs_conn")
	for name, text := range map[string]string{conns: listing, services: master.Run(t, "cat /run/services")} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	backup.StartBackup(t, 9, kernellab.DaemonOptions{})
	records := collect(t, backup, 9)
	var stderr bytes.Buffer
	err := runIn(t.Context(), backup.NS(), "", &stderr, &stderr, "resync", "--from", conns, "--services", services,
		"-i", kernellab.TapName, "--syncid", "9", "--mode", "udp", "--loop")
	if err != nil || strings.Contains(stderr.String(), "no known service") {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	backup.Settle(t)
	list, err := kernellab.ParseConns(listing)
	if err != nil {
		t.Fatal(err)
	}
	// What is left of some lives is seconds: those may be over.
	if got, want := sorted(backup.Conns(t), 0), sorted(list, 15); !contains(got, want) {
		t.Errorf("the backup lists\n%s\nthe master had\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	waitFor(t, "all records of the copy are here", func() bool { return records.count() >= len(list) })
	for key, c := range records.last() {
		if w, ok := want[key]; ok && (c.Flags^w.Flags)&(encoder.FlagFwdMask|encoder.FlagNoOutput|encoder.FlagTemplate|encoder.FlagNoCport) != 0 {
			t.Errorf("made of the copy: %v\ntold by the master: %v", &c, &w)
		}
	}
}

// sorted is what identifies the connections that live for so many seconds more.
func sorted(list []kernellab.ProcConn, least uint64) (lines []string) {
	for _, c := range list {
		if c.Expires >= least {
			lines = append(lines, c.String())
		}
	}
	sort.Strings(lines)
	return lines
}

// contains says whether each of want is in got; both are sorted.
func contains(got, want []string) bool {
	for _, w := range want {
		if i := sort.SearchStrings(got, w); i == len(got) || got[i] != w {
			return false
		}
	}
	return true
}

// collected are the records of a SyncID on a guest's wire.
type collected struct{ conns chan map[string]ipvsync.Conn }

func collect(t *testing.T, g *kernellab.Guest, id uint8) *collected {
	t.Helper()
	k := &collected{make(chan map[string]ipvsync.Conn, 1)}
	k.conns <- map[string]ipvsync.Conn{}
	var r *ipvsync.Receiver
	err := g.NS().Do(func() (err error) {
		link := ipvsync.Link{Interface: kernellab.TapName, SocketBuffer: 8 << 20}
		link.Mode = xsk.ModeUDP
		r, err = ipvsync.NewReceiver(ipvsync.ReceiverConfig{Link: link, SyncID: id}, func(m *ipvsync.Message) {
			all := <-k.conns
			for i := range m.Conns {
				c := m.Conns[i]
				c.Options = bytes.Clone(c.Options)
				_, data, _ := c.Options.PE()
				all[fmt.Sprintf("%v %v %v %v %v %q", c.Protocol, c.Client, c.Virtual, c.Dest, c.Template(), data)] = c
			}
			k.conns <- all
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- r.Run(t.Context()) }()
	t.Cleanup(func() {
		r.Close()
		<-ran
	})
	return k
}

// last is the last record of each connection.
func (k *collected) last() map[string]ipvsync.Conn {
	all := <-k.conns
	defer func() { k.conns <- all }()
	copied := map[string]ipvsync.Conn{}
	for key, c := range all {
		copied[key] = c
	}
	return copied
}

func (k *collected) count() int { return len(k.last()) }
