package controlapi

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/structpb"

	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

func dialGRPC(t *testing.T, addr string, c credentials.TransportCredentials) hedgerowv1.ControlClient {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(c))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return hedgerowv1.NewControlClient(conn)
}

func withToken(t *testing.T) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+testToken)
}

func TestGRPCOnTheSamePort(t *testing.T) {
	a := newAPI(t)
	c := dialGRPC(t, a.addr, insecure.NewCredentials())
	ctx := withToken(t)
	var header metadata.MD
	stored, err := c.PutService(ctx, &hedgerowv1.PutServiceRequest{Id: "orders", Service: &hedgerowv1.Service{
		Protocol: hedgerowv1.Service_HTTP2.Enum(),
		Subsets:  []*hedgerowv1.Subset{{Name: "v1", Labels: map[string]string{"version": "v1"}}},
	}}, grpc.Header(&header))
	if err != nil {
		t.Fatal(err)
	}
	if stored.GetName() != "services/orders" || stored.GetEtag() != "1" || header.Get(headerPublished)[0] != "true" {
		t.Errorf("%v %v", stored, header)
	}
	if got := a.must("GET", "/v1/services/orders", ""); got.json["protocol"] != "HTTP2" {
		t.Errorf("REST shows %s", got.body)
	}
	list, err := c.ListServices(ctx, &hedgerowv1.ListServicesRequest{})
	if err != nil || len(list.GetServices()) != 1 {
		t.Errorf("%v %v", list, err)
	}
	object, err := structpb.NewStruct(map[string]any{"name": "policies/p", "target": map[string]any{"service": "orders"}, "action": "ALLOW", "rules": []any{map[string]any{}}})
	if err != nil {
		t.Fatal(err)
	}
	applied, err := c.Apply(ctx, &hedgerowv1.ApplyRequest{Batch: &hedgerowv1.Batch{Objects: []*structpb.Struct{object}}})
	if err != nil || applied.GetRevision() != 2 || applied.GetChanges()[0].GetAction() != hedgerowv1.Change_CREATED {
		t.Errorf("%v %v", applied, err)
	}
	if _, err := c.DeletePolicy(ctx, &hedgerowv1.DeletePolicyRequest{Id: "p", Etag: "2"}); err != nil {
		t.Error(err)
	}
	if a.log.revision() != 3 {
		t.Errorf("revision %d", a.log.revision())
	}
}

func TestGRPCErrorsCarryTheProblem(t *testing.T) {
	a := newAPI(t)
	c := dialGRPC(t, a.addr, insecure.NewCredentials())
	newer := &hedgerowv1.Service{}
	newer.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 999, protowire.VarintType), 1))
	for _, tc := range []struct {
		name  string
		call  func(ctx context.Context) error
		token bool
		code  codes.Code
		want  string // the problem's code
		field string // of its first violation
	}{
		{"no token", func(ctx context.Context) error {
			_, err := c.GetRoute(ctx, &hedgerowv1.GetRouteRequest{Id: "demo"})
			return err
		}, false, codes.Unauthenticated, "unauthenticated", ""},
		{"not found", func(ctx context.Context) error {
			_, err := c.GetRoute(ctx, &hedgerowv1.GetRouteRequest{Id: "demo"})
			return err
		}, true, codes.NotFound, "not_found", ""},
		{"invalid", func(ctx context.Context) error {
			_, err := c.PutRoute(ctx, &hedgerowv1.PutRouteRequest{Id: "demo", Route: &hedgerowv1.Route{}})
			return err
		}, true, codes.InvalidArgument, "invalid", "targets"},
		{"no object", func(ctx context.Context) error {
			_, err := c.PutRoute(ctx, &hedgerowv1.PutRouteRequest{Id: "demo"})
			return err
		}, true, codes.InvalidArgument, "malformed", ""},
		{"stale", func(ctx context.Context) error {
			_, err := c.PutService(ctx, &hedgerowv1.PutServiceRequest{Id: "s", Service: &hedgerowv1.Service{Etag: "4"}})
			return err
		}, true, codes.Aborted, "stale", ""},
		{"a field of a newer contract", func(ctx context.Context) error {
			_, err := c.PutService(ctx, &hedgerowv1.PutServiceRequest{Id: "s", Service: newer})
			return err
		}, true, codes.InvalidArgument, "malformed", "service"},
		{"an enum of a newer contract", func(ctx context.Context) error {
			_, err := c.PutService(ctx, &hedgerowv1.PutServiceRequest{Id: "s", Service: &hedgerowv1.Service{Protocol: hedgerowv1.Service_Protocol(99).Enum()}})
			return err
		}, true, codes.InvalidArgument, "malformed", ""},
		{"a page size and a token that is none", func(ctx context.Context) error {
			_, err := c.ListNodes(ctx, &hedgerowv1.ListNodesRequest{PageToken: "!"})
			return err
		}, true, codes.InvalidArgument, "malformed", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx := t.Context()
			if tc.token {
				ctx = withToken(t)
			}
			s := status.Convert(tc.call(ctx))
			if s.Code() != tc.code || len(s.Details()) != 1 {
				t.Fatalf("%v %v", s.Code(), s)
			}
			p, ok := s.Details()[0].(*hedgerowv1.Problem)
			if !ok || p.GetCode() != tc.want {
				t.Fatalf("%v", s.Details())
			}
			if tc.field != "" && (len(p.GetViolations()) == 0 || p.GetViolations()[0].GetField() != tc.field) {
				t.Errorf("violations %v", p.GetViolations())
			}
		})
	}
	if a.log.revision() != 0 {
		t.Error("something was stored")
	}
}

func TestTLSServesBothFaces(t *testing.T) {
	cert, pool := selfSigned(t)
	a := &api{t: t, log: &memoryLog{}, publisher: &fakePublisher{}}
	plain := newAPI(t, func(o *Options) {
		o.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	})
	a.addr = plain.addr
	c := dialGRPC(t, a.addr, credentials.NewTLS(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}))
	if _, err := c.PutService(withToken(t), &hedgerowv1.PutServiceRequest{Id: "s", Service: &hedgerowv1.Service{}}); err != nil {
		t.Error(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+a.addr+"/v1/services/s", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testToken)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 || resp.ProtoMajor != 2 {
		t.Errorf("%d over HTTP/%d", resp.StatusCode, resp.ProtoMajor)
	}
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}
