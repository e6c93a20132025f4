package proxy

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// Status codes of gRPC that this proxy gives or looks at.
const (
	grpcUnknown           = 2
	grpcDeadlineExceeded  = 4
	grpcPermissionDenied  = 7
	grpcResourceExhausted = 8
	grpcUnimplemented     = 12
	grpcInternal          = 13
	grpcUnavailable       = 14
	grpcDataLoss          = 15
	grpcUnauthenticated   = 16
)

// isGRPC reports whether a request with that Content-Type is one of gRPC.
func isGRPC(contentType string) bool {
	rest, ok := strings.CutPrefix(contentType, "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// grpcStatusOf returns the code that a caller by gRPC gets for an answer of our own
// ("http-grpc-status-mapping", but that what is known better is said).
func grpcStatusOf(status int) int {
	switch status {
	case http.StatusBadRequest, http.StatusRequestURITooLong, http.StatusRequestHeaderFieldsTooLarge:
		return grpcInternal
	case http.StatusUnauthorized:
		return grpcUnauthenticated
	case http.StatusForbidden:
		return grpcPermissionDenied
	case http.StatusNotFound:
		return grpcUnimplemented
	case http.StatusTooManyRequests, http.StatusRequestEntityTooLarge:
		return grpcResourceExhausted
	case http.StatusGatewayTimeout, http.StatusRequestTimeout:
		return grpcDeadlineExceeded
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return grpcUnavailable
	}
	return grpcUnknown
}

// grpcProblem returns the answer that says refusal to a caller by gRPC: trailers
// alone, whose head looks fine to HTTP.
func grpcProblem(refusal *Refusal, id string) *responseHead {
	return &responseHead{status: http.StatusOK, length: -1, fields: header.List{
		{Name: "Content-Type", Value: "application/grpc"},
		{Name: "Grpc-Status", Value: strconv.Itoa(grpcStatusOf(refusal.Status))},
		{Name: "Grpc-Message", Value: grpcMessage(refusal.Code + ": " + refusal.Detail)},
		{Name: decisionHeader, Value: id},
	}}
}

// grpcMessage percent-encodes what a message of gRPC may not have as it is.
func grpcMessage(s string) string {
	out := make([]byte, 0, len(s))
	for _, c := range []byte(s) {
		if c < 0x20 || c > 0x7e || c == '%' {
			out = append(out, '%', upperHex[c>>4], upperHex[c&15])
		} else {
			out = append(out, c)
		}
	}
	return string(out)
}

// effectiveStatus returns the status of a response as retries and outlier detection
// see it: that of gRPC where the response is nothing but one that failed.
func (x *exchange) effectiveStatus() int {
	if !x.grpc || x.resp.status != http.StatusOK {
		return x.resp.status
	}
	value, ok := x.resp.fields.Get("Grpc-Status")
	if !ok {
		return x.resp.status
	}
	code, err := strconv.Atoi(value)
	if err != nil {
		return http.StatusBadGateway
	}
	switch code {
	case grpcUnavailable:
		return http.StatusServiceUnavailable
	case grpcDeadlineExceeded:
		return http.StatusGatewayTimeout
	case grpcResourceExhausted:
		return http.StatusTooManyRequests
	case grpcUnknown, grpcInternal, grpcDataLoss:
		return http.StatusInternalServerError
	}
	return x.resp.status
}
