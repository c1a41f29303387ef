// Command deaf opens UDP sockets, one for each address given, with the default
// buffer, and never reads from them: what they hold is what the kernel lets them.
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	for _, addr := range os.Args[1:] {
		conn, err := net.ListenPacket("udp", addr)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		defer conn.Close()
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	fmt.Println("deaf")
	<-stop
}
