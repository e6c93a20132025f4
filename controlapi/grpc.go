package controlapi

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"runtime/debug"
	"strconv"

	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

// newGRPC returns the gRPC face of s. It is served through net/http, on the
// port of REST.
func newGRPC(s *service, log zerolog.Logger, m *metrics) *grpc.Server {
	intercept := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (answer any, err error) {
		defer func() {
			if p := recover(); p != nil {
				m.panics.Inc()
				log.Error().Interface("panic", p).Bytes("stack", debug.Stack()).Str("method", info.FullMethod).Msg("a request panicked")
				answer, err = nil, mesh.Errorf("controlapi.grpc", info.FullMethod, mesh.Internal, "panic")
			}
			answered := http.StatusOK
			if err != nil {
				c := classFor(classify(err))
				answered = c.status
				logInternal(log, c.code, info.FullMethod, err)
				s.writer.audit.refused(ctx, targetOf(req), err)
				err = statusOf(err, info.FullMethod)
			}
			m.requests.WithLabelValues("grpc", strconv.Itoa(answered)).Inc()
		}()
		ctx = withRPC(ctx, path.Base(info.FullMethod))
		// The handler in front of this one has found out who calls.
		if err := admit(ctx, path.Base(info.FullMethod)); err != nil {
			return nil, err
		}
		if err := refuseUnknown(req); err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(maxBodyBytes), grpc.UnaryInterceptor(intercept))
	hedgerowv1.RegisterControlServer(g, s)
	return g
}

// targetOf says which object a request is about, if it is about one.
func targetOf(req any) string {
	if r, ok := req.(interface{ GetId() string }); ok {
		return r.GetId()
	}
	return ""
}

// refuseUnknown reports fields that this version does not know: a newer client
// must learn that they would be lost.
func refuseUnknown(req any) error {
	m, ok := req.(proto.Message)
	if !ok {
		return mesh.Errorf("controlapi.grpc", "", mesh.Internal, "a %T is no message", req)
	}
	var v mesh.Violations
	unknown("", m.ProtoReflect(), &v)
	if len(v) == 0 {
		return nil
	}
	return &mesh.Error{Op: "controlapi.grpc", Kind: mesh.Malformed, Err: &mesh.ValidationError{Violations: v}}
}

func unknown(where string, m protoreflect.Message, v *mesh.Violations) {
	if len(m.GetUnknown()) > 0 && len(*v) < maxFound {
		v.Add(where, "the client was made from a newer contract", "unknown field")
	}
	m.Range(func(fd protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		at := join(where, fd.JSONName())
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() != nil {
				value.Map().Range(func(k protoreflect.MapKey, value protoreflect.Value) bool {
					unknown(join(at, k.String()), value.Message(), v)
					return true
				})
			}
		case fd.Message() == nil:
		case fd.IsList():
			for i := range value.List().Len() {
				unknown(fmt.Sprintf("%s[%d]", at, i), value.List().Get(i).Message(), v)
			}
		default:
			unknown(at, value.Message(), v)
		}
		return true
	})
}

// logInternal logs what callers are not shown.
func logInternal(log zerolog.Logger, code, what string, err error) {
	if code == codeInternal {
		log.Error().Err(err).Str("request", what).Msg("a request failed")
	}
}
