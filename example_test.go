package ipvsync_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"os"
	"os/signal"

	"github.com/ipvsync/ipvsync"
	"github.com/ipvsync/ipvsync/encoder"
)

// A load balancer tells its backups of every connection. Each worker has a
// shard of its own.
func ExampleSender() {
	const workers = 4
	s, err := ipvsync.NewSender(ipvsync.SenderConfig{
		Link:   ipvsync.Link{Interface: "eth0"},
		SyncID: 7,
		Shards: workers,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close() // sends what is in the rings

	worker := func(i int, client, service, server netip.AddrPort) {
		err := s.Shard(i).Publish(&ipvsync.Conn{
			Client:   encoder.EndpointFrom(client),
			Virtual:  encoder.EndpointFrom(service),
			Dest:     encoder.EndpointFrom(server),
			Protocol: encoder.TCP,
			State:    encoder.TCPEstablished,
			Timeout:  900, // seconds
		})
		if err != nil {
			log.Print(err) // and counted: see Stats
		}
	}
	worker(0, netip.MustParseAddrPort("192.0.2.1:1024"), netip.MustParseAddrPort("198.51.100.1:80"), netip.MustParseAddrPort("10.0.0.1:80"))
}

// A backup takes over the connections of the masters in its network.
func ExampleReceiver() {
	r, err := ipvsync.NewReceiver(ipvsync.ReceiverConfig{
		Link:   ipvsync.Link{Interface: "eth0"},
		SyncID: 7,
	}, func(m *ipvsync.Message) {
		for i := range m.Conns { // lent: copy what is to be kept
			fmt.Println(m.Src, &m.Conns[i])
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := r.Run(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%+v\n", r.Stats())
}
