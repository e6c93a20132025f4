// Command interop plays the cases of gRPC's interoperability tests that need no cloud
// (grpc/doc/interop-test-descriptions.md), as gRPC's own library for Go has them.
//
//	interop serve ADDRESS
//	interop call ADDRESS AUTHORITY CA-FILE|"" CASE
//
// Unlike gRPC's own client it can name another authority in clear text. A case that
// fails ends it with exit code 1.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	"google.golang.org/grpc/interop/grpc_testing"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "serve":
		return serve(args[1])
	case len(args) == 5 && args[0] == "call":
		return call(args[1], args[2], args[3], args[4])
	}
	return errors.New("usage: interop serve ADDRESS | call ADDRESS AUTHORITY CA-FILE CASE")
}

func serve(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	grpc_testing.RegisterTestServiceServer(s, interop.NewTestServer())
	return s.Serve(l)
}

func call(address, authority, caFile, name string) error {
	with := insecure.NewCredentials()
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s has no certificate", caFile)
		}
		with = credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: authority, MinVersion: tls.VersionTLS12})
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(with), grpc.WithAuthority(authority))
	if err != nil {
		return err
	}
	play, ok := cases()[name]
	if !ok {
		return fmt.Errorf("there is no case %q", name)
	}
	play(context.Background(), conn)
	return conn.Close()
}

// cases returns the cases by name. One that fails ends the program.
func cases() map[string]func(context.Context, *grpc.ClientConn) {
	out := map[string]func(context.Context, *grpc.ClientConn){
		"unknown_method": interop.DoUnimplementedMethod,
		"unknown_service": func(ctx context.Context, conn *grpc.ClientConn) {
			interop.DoUnimplementedService(ctx, grpc_testing.NewUnimplementedServiceClient(conn))
		},
	}
	for name, do := range map[string]func(context.Context, grpc_testing.TestServiceClient, ...grpc.CallOption){
		"empty_unary": interop.DoEmptyUnaryCall, "large_unary": interop.DoLargeUnaryCall,
		"client_streaming": interop.DoClientStreaming, "server_streaming": interop.DoServerStreaming,
		"ping_pong": interop.DoPingPong, "empty_stream": interop.DoEmptyStream,
		"timeout_on_sleeping_server": interop.DoTimeoutOnSleepingServer,
		"cancel_after_begin":         interop.DoCancelAfterBegin, "cancel_after_first_response": interop.DoCancelAfterFirstResponse,
		"custom_metadata": interop.DoCustomMetadata, "status_code_and_message": interop.DoStatusCodeAndMessage,
		"special_status_message": interop.DoSpecialStatusMessage,
	} {
		out[name] = func(ctx context.Context, conn *grpc.ClientConn) { do(ctx, grpc_testing.NewTestServiceClient(conn)) }
	}
	return out
}
