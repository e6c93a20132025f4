// Package rpc is the gRPC of the fault tests and of the benchmarks: a service whose
// messages are bytes, known by its methods alone.
//
// It listens and dials nowhere, and has no generated code: who uses it brings a
// grpc.Server or a connection, with the Codec.
package rpc

import (
	"bytes"
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
)

const service = "chaos.Echo"

// The methods: Unary answers with what it got, Fail with UNAVAILABLE.
const (
	Unary = "/" + service + "/Unary"
	Fail  = "/" + service + "/Fail"
)

// Codec is for messages that are *[]byte.
type Codec struct{}

var _ encoding.Codec = Codec{}

// Name implements encoding.Codec.
func (Codec) Name() string { return "raw" }

// Marshal implements encoding.Codec.
func (Codec) Marshal(v any) ([]byte, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("%T is no bytes", v)
	}
	return *b, nil
}

// Unmarshal implements encoding.Codec.
func (Codec) Unmarshal(data []byte, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T is no bytes", v)
	}
	*b = bytes.Clone(data)
	return nil
}

// Server returns a server of the methods, which serves nowhere yet.
func Server() *grpc.Server {
	s := grpc.NewServer(grpc.ForceServerCodec(Codec{}))
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: service,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			{MethodName: "Unary", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				var message []byte
				err := decode(&message)
				return &message, err
			}},
			{MethodName: "Fail", Handler: func(any, context.Context, func(any) error, grpc.UnaryServerInterceptor) (any, error) {
				return nil, status.Error(codes.Unavailable, "always")
			}},
		},
	}, nil)
	return s
}
