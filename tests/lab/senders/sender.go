// Standard input to a port with TLS, and back, by Go's own TLS.
package main

import (
	"crypto/tls"
	"io"
	"log"
	"os"
)

func main() {
	config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10}
	connection, err := tls.Dial("tcp", "127.0.0.1:"+os.Args[1], config)
	if err != nil {
		log.Fatal(err)
	}
	go io.Copy(connection, os.Stdin)
	io.Copy(os.Stdout, connection)
}
