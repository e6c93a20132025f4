package controlapi

import (
	"context"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

// The methods of the kinds differ in their types alone.

// GetService returns a service.
func (s *service) GetService(ctx context.Context, r *hedgerowv1.GetServiceRequest) (*hedgerowv1.Service, error) {
	return get(ctx, s, mesh.Services, r.GetId(), new(hedgerowv1.Service))
}

// ListServices returns a page of services.
func (s *service) ListServices(ctx context.Context, r *hedgerowv1.ListServicesRequest) (*hedgerowv1.ListServicesResponse, error) {
	page, next, err := list(ctx, s, mesh.Services, r, newOf[hedgerowv1.Service])
	return &hedgerowv1.ListServicesResponse{Services: page, NextPageToken: next}, err
}

// PutService creates or replaces a service.
func (s *service) PutService(ctx context.Context, r *hedgerowv1.PutServiceRequest) (*hedgerowv1.Service, error) {
	return put(ctx, s, mesh.Services, r.GetId(), r.GetService(), r.GetValidateOnly())
}

// DeleteService deletes a service.
func (s *service) DeleteService(ctx context.Context, r *hedgerowv1.DeleteServiceRequest) (*emptypb.Empty, error) {
	return new(emptypb.Empty), s.remove(ctx, mesh.Services, r)
}

// GetRoute returns a route.
func (s *service) GetRoute(ctx context.Context, r *hedgerowv1.GetRouteRequest) (*hedgerowv1.Route, error) {
	return get(ctx, s, mesh.Routes, r.GetId(), new(hedgerowv1.Route))
}

// ListRoutes returns a page of routes.
func (s *service) ListRoutes(ctx context.Context, r *hedgerowv1.ListRoutesRequest) (*hedgerowv1.ListRoutesResponse, error) {
	page, next, err := list(ctx, s, mesh.Routes, r, newOf[hedgerowv1.Route])
	return &hedgerowv1.ListRoutesResponse{Routes: page, NextPageToken: next}, err
}

// PutRoute creates or replaces a route.
func (s *service) PutRoute(ctx context.Context, r *hedgerowv1.PutRouteRequest) (*hedgerowv1.Route, error) {
	return put(ctx, s, mesh.Routes, r.GetId(), r.GetRoute(), r.GetValidateOnly())
}

// DeleteRoute deletes a route.
func (s *service) DeleteRoute(ctx context.Context, r *hedgerowv1.DeleteRouteRequest) (*emptypb.Empty, error) {
	return new(emptypb.Empty), s.remove(ctx, mesh.Routes, r)
}

// GetPolicy returns a policy.
func (s *service) GetPolicy(ctx context.Context, r *hedgerowv1.GetPolicyRequest) (*hedgerowv1.Policy, error) {
	return get(ctx, s, mesh.Policies, r.GetId(), new(hedgerowv1.Policy))
}

// ListPolicies returns a page of policies.
func (s *service) ListPolicies(ctx context.Context, r *hedgerowv1.ListPoliciesRequest) (*hedgerowv1.ListPoliciesResponse, error) {
	page, next, err := list(ctx, s, mesh.Policies, r, newOf[hedgerowv1.Policy])
	return &hedgerowv1.ListPoliciesResponse{Policies: page, NextPageToken: next}, err
}

// PutPolicy creates or replaces a policy.
func (s *service) PutPolicy(ctx context.Context, r *hedgerowv1.PutPolicyRequest) (*hedgerowv1.Policy, error) {
	return put(ctx, s, mesh.Policies, r.GetId(), r.GetPolicy(), r.GetValidateOnly())
}

// DeletePolicy deletes a policy.
func (s *service) DeletePolicy(ctx context.Context, r *hedgerowv1.DeletePolicyRequest) (*emptypb.Empty, error) {
	return new(emptypb.Empty), s.remove(ctx, mesh.Policies, r)
}

// GetAuthenticator returns an authenticator.
func (s *service) GetAuthenticator(ctx context.Context, r *hedgerowv1.GetAuthenticatorRequest) (*hedgerowv1.Authenticator, error) {
	return get(ctx, s, mesh.Authenticators, r.GetId(), new(hedgerowv1.Authenticator))
}

// ListAuthenticators returns a page of authenticators.
func (s *service) ListAuthenticators(ctx context.Context, r *hedgerowv1.ListAuthenticatorsRequest) (*hedgerowv1.ListAuthenticatorsResponse, error) {
	page, next, err := list(ctx, s, mesh.Authenticators, r, newOf[hedgerowv1.Authenticator])
	return &hedgerowv1.ListAuthenticatorsResponse{Authenticators: page, NextPageToken: next}, err
}

// PutAuthenticator creates or replaces an authenticator.
func (s *service) PutAuthenticator(ctx context.Context, r *hedgerowv1.PutAuthenticatorRequest) (*hedgerowv1.Authenticator, error) {
	return put(ctx, s, mesh.Authenticators, r.GetId(), r.GetAuthenticator(), r.GetValidateOnly())
}

// DeleteAuthenticator deletes an authenticator.
func (s *service) DeleteAuthenticator(ctx context.Context, r *hedgerowv1.DeleteAuthenticatorRequest) (*emptypb.Empty, error) {
	return new(emptypb.Empty), s.remove(ctx, mesh.Authenticators, r)
}

// GetTopicRule returns a topic rule.
func (s *service) GetTopicRule(ctx context.Context, r *hedgerowv1.GetTopicRuleRequest) (*hedgerowv1.TopicRule, error) {
	return get(ctx, s, mesh.TopicRules, r.GetId(), new(hedgerowv1.TopicRule))
}

// ListTopicRules returns a page of topic rules.
func (s *service) ListTopicRules(ctx context.Context, r *hedgerowv1.ListTopicRulesRequest) (*hedgerowv1.ListTopicRulesResponse, error) {
	page, next, err := list(ctx, s, mesh.TopicRules, r, newOf[hedgerowv1.TopicRule])
	return &hedgerowv1.ListTopicRulesResponse{TopicRules: page, NextPageToken: next}, err
}

// PutTopicRule creates or replaces a topic rule.
func (s *service) PutTopicRule(ctx context.Context, r *hedgerowv1.PutTopicRuleRequest) (*hedgerowv1.TopicRule, error) {
	return put(ctx, s, mesh.TopicRules, r.GetId(), r.GetTopicRule(), r.GetValidateOnly())
}

// DeleteTopicRule deletes a topic rule.
func (s *service) DeleteTopicRule(ctx context.Context, r *hedgerowv1.DeleteTopicRuleRequest) (*emptypb.Empty, error) {
	return new(emptypb.Empty), s.remove(ctx, mesh.TopicRules, r)
}

// GetNode returns a node, with what it last reported.
func (s *service) GetNode(ctx context.Context, r *hedgerowv1.GetNodeRequest) (*hedgerowv1.Node, error) {
	n, err := get(ctx, s, mesh.Nodes, r.GetId(), new(hedgerowv1.Node))
	if err != nil {
		return nil, err
	}
	s.observe(n)
	return n, s.showQuarantines(true, n)
}

// ListNodes returns a page of nodes, with what they last reported.
func (s *service) ListNodes(ctx context.Context, r *hedgerowv1.ListNodesRequest) (*hedgerowv1.ListNodesResponse, error) {
	page, next, err := list(ctx, s, mesh.Nodes, r, newOf[hedgerowv1.Node])
	s.observe(page...)
	if err == nil {
		err = s.showQuarantines(false, page...)
	}
	return &hedgerowv1.ListNodesResponse{Nodes: page, NextPageToken: next}, err
}

// PutNode creates or replaces a node.
func (s *service) PutNode(ctx context.Context, r *hedgerowv1.PutNodeRequest) (*hedgerowv1.Node, error) {
	return put(ctx, s, mesh.Nodes, r.GetId(), r.GetNode(), r.GetValidateOnly())
}

// DeleteNode deletes a node.
func (s *service) DeleteNode(ctx context.Context, r *hedgerowv1.DeleteNodeRequest) (*emptypb.Empty, error) {
	return new(emptypb.Empty), s.remove(ctx, mesh.Nodes, r)
}
