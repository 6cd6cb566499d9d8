// Command forward accepts connections on the listening socket that it was given as its standard input and joins each to
// the address in its argument. Started inside a network namespace with a socket made outside, it is a door between the two.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fail("usage: forward HOST:PORT <LISTENING-SOCKET")
	}
	listener, err := net.FileListener(os.Stdin)
	if err != nil {
		fail("standard input is no listening socket: %v", err)
	}
	for {
		client, err := listener.Accept()
		if err != nil {
			fail("accept: %v", err)
		}
		go join(client, os.Args[1])
	}
}

func join(client net.Conn, address string) {
	defer client.Close()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return // the client sees a closed connection, as it would without a door
	}
	defer server.Close()
	done := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
		go func() {
			_, _ = io.Copy(pair[0], pair[1])
			// One direction ended: say so to the other end, and let what still comes back pass.
			_ = pair[0].(*net.TCPConn).CloseWrite()
			done <- struct{}{}
		}()
	}
	<-done
	<-done
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "forward: "+format+"\n", args...)
	os.Exit(1)
}
