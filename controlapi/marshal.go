package controlapi

import (
	"fmt"
	"io"
	"reflect"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/proto"

	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

// marshaler is how grpc-gateway reads and writes JSON: strictly in, and out as
// the contract shows it.
type marshaler struct{}

var _ runtime.Marshaler = marshaler{}

// ContentType is the same for every message.
func (marshaler) ContentType(any) string { return "application/json" }

// Marshal encodes a message.
func (marshaler) Marshal(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("controlapi: a %T is no message", v)
	}
	return encodeJSON(m)
}

// Unmarshal decodes into a message or into a pointer to one.
func (marshaler) Unmarshal(data []byte, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		// The gateway passes the address of the field that the body fills.
		field := reflect.ValueOf(v).Elem()
		if field.Kind() != reflect.Pointer {
			return fmt.Errorf("controlapi: a %T is no message", v)
		}
		field.Set(reflect.New(field.Type().Elem()))
		if m, ok = field.Interface().(proto.Message); !ok {
			return fmt.Errorf("controlapi: a %T is no message", v)
		}
	}
	return decodeJSON(data, m)
}

// NewDecoder returns a decoder of the one object that r holds.
func (j marshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		data, err := io.ReadAll(r) // bounded by http.MaxBytesReader
		if _, optional := v.(**hedgerowv1.QuarantineOrder); err == nil && optional && len(data) == 0 {
			return nil // in a hurry nobody should have to say more
		}
		if err == nil {
			err = j.Unmarshal(data, v)
		}
		// The generated code passes on the text of an error alone.
		if b, ok := r.(*body); ok {
			b.refused = err
		}
		return err
	})
}

// NewEncoder returns an encoder of one message.
func (j marshaler) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		data, err := j.Marshal(v)
		if err == nil {
			_, err = w.Write(data)
		}
		return err
	})
}

// body is the body of a request, and why it was refused.
type body struct {
	io.ReadCloser
	refused error
}
