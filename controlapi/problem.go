package controlapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

// Codes of problems. They are a part of the contract.
const (
	codeMalformed       = "malformed"
	codeUnauthenticated = "unauthenticated"
	codeDenied          = "denied"
	codeNotFound        = "not_found"
	codeMethod          = "method_not_allowed"
	codeConflict        = "conflict"
	codeStale           = "stale"
	codeTooLarge        = "too_large"
	codeMediaType       = "unsupported_media_type"
	codeInvalid         = "invalid"
	codeUnsupported     = "unsupported"
	codeInternal        = "internal"
	codeUnavailable     = "unavailable"
	codeRateLimited     = "rate_limited"
)

// class is what is answered for a code, and what /docs/errors says of it.
type class struct {
	code    string
	status  int
	grpc    codes.Code
	outcome string // completes the title: "Route refused"
	meaning string
	remedy  string
}

// classes lists every class by status. It is the only place that knows them.
func classes() []class {
	return []class{
		{
			codeMalformed, http.StatusBadRequest, codes.InvalidArgument, "refused",
			"The body is not JSON, or not of the right shape: unknown or duplicate fields, wrong types, nesting deeper than 32. Or a query parameter is unknown.",
			"violations lists every one. Compare with the schema of the kind.",
		},
		{
			codeUnauthenticated, http.StatusUnauthorized, codes.Unauthenticated, "refused",
			"There is no bearer token, or it is not one of this control plane's.",
			"Send Authorization: Bearer TOKEN, or use curl -K with the curlrc that hedgerow up writes.",
		},
		{
			codeDenied, http.StatusForbidden, codes.PermissionDenied, "refused",
			"The caller's role is too low, or the object is outside of its scopes; or the Host is not one of this control plane's, or a web page of another origin made the request.",
			"detail names what is missing. For a Host: call by the address or a loopback name, or add the name to the configured hosts.",
		},
		{
			codeNotFound, http.StatusNotFound, codes.NotFound, "not found",
			"There is no object of this name, or no such path.",
			"LIST the collection.",
		},
		{
			codeMethod, http.StatusMethodNotAllowed, codes.Unimplemented, "refused",
			"The path exists and does not take this method.",
			"The Allow header names the methods that it takes.",
		},
		{
			codeConflict, http.StatusConflict, codes.FailedPrecondition, "refused",
			"Other objects refer to what the write would take away.",
			"Change or delete those that violations names first, or write them in the same apply.",
		},
		{
			codeStale, http.StatusPreconditionFailed, codes.Aborted, "refused",
			"The object has changed since it was read.",
			"Read it again, decide again, and send its new etag.",
		},
		{
			codeTooLarge, http.StatusRequestEntityTooLarge, codes.ResourceExhausted, "refused",
			"The body has more than 1 MiB, or an object more than 256 KiB.",
			"Send fewer objects in one apply, or split the object.",
		},
		{
			codeMediaType, http.StatusUnsupportedMediaType, codes.InvalidArgument, "refused",
			"The body has a Content-Encoding, which is not inflated; or a caller without a bearer token sends another Content-Type than application/json.",
			"Send plain JSON.",
		},
		{
			codeInvalid, http.StatusUnprocessableEntity, codes.InvalidArgument, "refused",
			"The shape is right and a value is not: a bad template or name, or a reference to something that does not exist.",
			"violations lists every one with a hint.",
		},
		{
			codeUnsupported, http.StatusUnprocessableEntity, codes.InvalidArgument, "refused",
			"The object is well-formed and uses a part of the contract that this version does not have.",
			"Leave out what violations names. Nothing is stored and ignored.",
		},
		{
			codeRateLimited, http.StatusTooManyRequests, codes.ResourceExhausted, "refused",
			"The caller sends more requests than it may, or too many from its address were not authenticated.",
			"Wait as long as Retry-After says. POST /v1:apply writes many objects at once.",
		},
		{
			codeInternal, http.StatusInternalServerError, codes.Internal, "failed",
			"A defect of the control plane. The log has the cause.",
			"Please report it.",
		},
		{
			codeUnavailable, http.StatusServiceUnavailable, codes.Unavailable, "refused",
			"The registry or the log is away, or the audit log cannot be written. Nothing was stored.",
			"Try again; /readyz says what is missing.",
		},
	}
}

// classFor returns the class of code.
func classFor(code string) class {
	all := classes()
	i := slices.IndexFunc(all, func(c class) bool { return c.code == code })
	return all[max(i, 0)] // every code is there; a test sees to it
}

// codeOf maps every mesh.Kind to a code, and by that to a status.
func codeOf(k mesh.Kind) string {
	switch k {
	case mesh.Malformed:
		return codeMalformed
	case mesh.Unauthentic:
		return codeUnauthenticated
	case mesh.Denied:
		return codeDenied
	case mesh.NotFound:
		return codeNotFound
	case mesh.Conflict:
		return codeConflict
	case mesh.Stale:
		return codeStale
	case mesh.Invalid:
		return codeInvalid
	case mesh.Unavailable:
		return codeUnavailable
	default:
		return codeInternal
	}
}

// refusal is an error of a code that no mesh.Kind stands for.
type refusal struct {
	code   string
	detail string
}

// Error returns the detail.
func (r *refusal) Error() string { return r.detail }

// classify returns the code of err.
func classify(err error) string {
	var r *refusal
	var tooLarge *http.MaxBytesError
	var invalid *mesh.ValidationError
	var known *mesh.Error
	switch {
	case errors.As(err, &r):
		return r.code
	case errors.As(err, &tooLarge):
		return codeTooLarge
	case errors.As(err, &known):
		if known.Kind == mesh.Invalid && errors.As(err, &invalid) && unsupportedOnly(invalid.Violations) {
			return codeUnsupported
		}
		return codeOf(known.Kind)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return codeUnavailable
	}
	// grpc-gateway's own: a parameter that is not of its type.
	if s, ok := status.FromError(err); ok && s.Code() == codes.InvalidArgument {
		return codeMalformed
	}
	return codeInternal
}

func unsupportedOnly(violations []mesh.Violation) bool {
	for _, v := range violations {
		if !v.Unsupported {
			return false
		}
	}
	return len(violations) > 0
}

// problemOf returns what is answered for err at the path instance.
func problemOf(err error, instance string) (*hedgerowv1.Problem, class) {
	c := classFor(classify(err))
	p := &hedgerowv1.Problem{
		Type:     "/docs/errors#" + c.code,
		Title:    noun(instance) + " " + c.outcome,
		Status:   uint32(c.status),
		Code:     c.code,
		Detail:   strings.ToValidUTF8(detailOf(err, c), "?"),
		Instance: strings.ToValidUTF8(instance, "?"),
	}
	var invalid *mesh.ValidationError
	if errors.As(err, &invalid) && len(invalid.Violations) > 0 {
		for i, v := range invalid.Violations {
			if i == maxFound {
				p.Violations = append(p.Violations, &hedgerowv1.Violation{Message: fmt.Sprintf("and %d more", len(invalid.Violations)-i)})
				break
			}
			p.Violations = append(p.Violations, &hedgerowv1.Violation{Field: v.Field, Message: v.Message, Hint: v.Hint})
		}
		plural := "s"
		if len(invalid.Violations) == 1 {
			plural = ""
		}
		p.Detail = fmt.Sprintf("%d violation%s; nothing was stored", len(invalid.Violations), plural)
	}
	return p, c
}

// detailOf returns what is wrong with this request, and what to do, without
// the names of our functions. Internal errors are logged and not shown.
func detailOf(err error, c class) string {
	if c.status == http.StatusInternalServerError {
		return "an internal error; the log of the control plane has its cause"
	}
	detail := err.Error()
	var known *mesh.Error
	if errors.As(err, &known) && known.Err != nil {
		detail = known.Err.Error()
		if known.Name != "" {
			detail = known.Name + ": " + detail
		}
	} else if s, ok := status.FromError(err); ok {
		detail = s.Message()
	}
	if hint := mesh.HintOf(err); hint != "" {
		detail += "; " + hint
	}
	return detail
}

// noun says what the path is about: "Route".
func noun(path string) string {
	rest, ok := strings.CutPrefix(path, "/v1/")
	if !ok {
		if path == "/v1:apply" {
			return "Batch"
		}
		return "Request"
	}
	of, _, _ := strings.Cut(rest, "/")
	if mesh.Collection(of) == mesh.Instances {
		return "Instance"
	}
	if m := newMessage(mesh.Collection(of)); m != nil {
		return string(m.ProtoReflect().Descriptor().Name())
	}
	return "Request"
}

// writeProblem answers r with err and returns the class.
func writeProblem(w http.ResponseWriter, r *http.Request, err error) class {
	p, c := problemOf(err, r.URL.Path)
	body, marshalErr := compact(protojson.Marshal(p))
	if marshalErr != nil {
		body = []byte(`{"code":"internal"}`) // a violation with bytes that are no UTF-8
	}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Del("ETag")
	if c.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="hedgerow"`)
	}
	if c.status == http.StatusTooManyRequests {
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(c.status)
	w.Write(body) //nolint:errcheck // the caller is gone
	return c
}

// statusOf returns err as gRPC carries it, the Problem in its details.
func statusOf(err error, method string) error {
	p, c := problemOf(err, method)
	s := status.New(c.grpc, p.GetDetail())
	if with, err := s.WithDetails(p); err == nil {
		s = with
	}
	return s.Err()
}
