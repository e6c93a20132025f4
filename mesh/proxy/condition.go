package proxy

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/checker"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// Bounds of a condition. A unit of cost is about one comparison, or ten characters of
// one (cel-spec, "Cost estimation").
const (
	maxConditionBytes = 4 << 10
	maxConditionDepth = 32
	maxConditionCost  = 100_000
)

// condition is the `when` of a policy rule: an expression of CEL about one request. It is
// compiled once.
type condition struct {
	program     cel.Program
	trustDomain string
	failed      atomic.Uint64 // how often it had no value
}

// conditions compiles them. Its environment takes memory, so it is made for the first.
type conditions struct {
	env *cel.Env
}

// variables are what a condition may speak of. Strings are as policies see them: the path
// canonical, the host in lower case, names of headers too.
func variables() []cel.EnvOption {
	texts := []string{"request.method", "request.path", "request.host", "peer.identity", "peer.service", "peer.node", "source.ip", "device", "auth.authenticator"}
	options := make([]cel.EnvOption, 0, len(texts)+6)
	for _, name := range texts {
		options = append(options, cel.Variable(name, cel.StringType))
	}
	return append(options,
		cel.Variable("request.headers", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("request.query", cel.MapType(cel.StringType, cel.ListType(cel.StringType))),
		cel.Variable("auth.claims", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("request.time", cel.TimestampType),
		cel.ParserExpressionSizeLimit(maxConditionBytes), cel.ParserRecursionLimit(maxConditionDepth),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateDurationLiterals(), cel.ValidateHomogeneousAggregateLiterals()),
	)
}

// CheckConditions reports which conditions of p no proxy would compile, as violations of their
// fields.
func CheckConditions(p *mesh.Policy) error {
	var found mesh.Violations
	var cs conditions
	for i := range p.Rules {
		if p.Rules[i].When == "" {
			continue
		}
		if _, err := cs.compile(p.Rules[i].When); err != nil {
			found.Add(fmt.Sprintf("rules[%d].when", i), "e.g. \"'x-debug' in request.headers\"; docs/authorization.md has the names", "%v", err)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return mesh.Refuse(p.Name, found)
}

// compile returns the condition of an expression, or why there is none in one line.
func (cs *conditions) compile(expression string) (*condition, error) {
	if cs.env == nil {
		env, err := cel.NewEnv(variables()...)
		if err != nil {
			return nil, err
		}
		cs.env = env
	}
	compiled, issues := cs.env.Compile(expression)
	if err := issues.Err(); err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		return nil, errors.New(first)
	}
	if compiled.OutputType() != cel.BoolType {
		return nil, fmt.Errorf("it is a %s, a condition is true or false", compiled.OutputType())
	}
	if err := checkPatterns(compiled); err != nil {
		return nil, err
	}
	cost, err := cs.env.EstimateCost(compiled, requestSizes{})
	if err != nil {
		return nil, err
	}
	if cost.Max > maxConditionCost {
		return nil, fmt.Errorf("it may cost %d, at most %d are allowed: have it look at less", cost.Max, maxConditionCost)
	}
	program, err := cs.env.Program(compiled, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxConditionCost))
	if err != nil {
		return nil, err
	}
	return &condition{program: program}, nil
}

// checkPatterns refuses regular expressions that are not written down, as a caller must not choose
// what is compiled, and those that routes may not have either.
func checkPatterns(compiled *cel.Ast) (err error) {
	ast.PreOrderVisit(compiled.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind {
			return
		}
		call := e.AsCall()
		if call.FunctionName() != "matches" {
			return
		}
		args := call.Args()
		if len(args) == 0 || args[len(args)-1].Kind() != ast.LiteralKind {
			err = errors.New("the pattern of matches() is not written down as text")
			return
		}
		if pattern, ok := args[len(args)-1].AsLiteral().Value().(string); ok && err == nil {
			err = mesh.BoundRegex(pattern)
		}
	}))
	return err
}

// requestSizes says how large what a request brings may be, by which a condition's cost is bounded
// before it runs.
type requestSizes struct{}

var _ checker.CostEstimator = requestSizes{}

// EstimateSize implements checker.CostEstimator.
func (requestSizes) EstimateSize(element checker.AstNode) *checker.SizeEstimate {
	path := element.Path()
	if len(path) == 0 {
		return nil
	}
	const name, many, text = 255, 100, 8 << 10 // as DefaultLimits bounds them
	most := uint64(name)
	switch last := path[len(path)-1]; {
	case path[0] == "request.path", last == "@items", path[0] == "request.headers" && last == "@values":
		most = text
	case path[0] == "request.headers" && len(path) == 1, path[0] == "request.query" && last != "@keys":
		most = many
	}
	return &checker.SizeEstimate{Min: 0, Max: most}
}

// EstimateCallCost implements checker.CostEstimator.
func (requestSizes) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}

// holds reports whether the condition is true of c at path. One that has no value, because it asks
// for a header that is not there or would cost too much, is true for a DENY and false for an ALLOW.
func (w *condition) holds(c *call, path string, deny bool) bool {
	is, known := w.value(c, path)
	if !known {
		w.failed.Add(1)
		return deny
	}
	return is
}

// value returns what the condition is of c at path, if it is known.
func (w *condition) value(c *call, path string) (is, known bool) {
	value, _, err := w.program.Eval(&facts{c.Request, c.proof, path, w.trustDomain})
	if err != nil {
		return false, false
	}
	is, known = value.Value().(bool)
	return is, known
}

// facts are the variables of one request, made as they are asked for.
type facts struct {
	r           *Request
	proof       proof
	path        string
	trustDomain string
}

var _ cel.Activation = (*facts)(nil)

// Parent implements cel.Activation.
func (*facts) Parent() cel.Activation { return nil }

// ResolveName implements cel.Activation.
func (f *facts) ResolveName(name string) (any, bool) {
	r := f.r
	switch name {
	case "request.method":
		return r.Method, true
	case "request.path":
		return f.path, true
	case "request.host":
		return r.Host, true
	case "request.headers":
		return headerMap(r.Fields), true
	case "request.query":
		values, err := url.ParseQuery(r.RawQuery)
		if err != nil { // the workload may read in it what is not seen here
			return types.NewErr("the query is malformed"), true
		}
		return map[string][]string(values), true
	case "request.time":
		return time.Now(), true
	case "peer.identity":
		return r.Peer.String(), true
	case "peer.service":
		service, _, _ := r.Peer.Service()
		return service, true
	case "peer.node":
		return nodeOf(r.Peer), true
	case "source.ip":
		address, _, _ := strings.Cut(r.Remote, "%") // blocks have no zones either
		return address, true
	case "auth.authenticator":
		if f.proof.by == nil {
			return "", true
		}
		return f.proof.by.name, true
	case "auth.claims":
		if all := f.proof.claims.All(); all != nil {
			return all, true
		}
		return map[string]any{}, true
	case "device":
		return deviceOf(r, f.trustDomain), true
	}
	return nil, false
}

// headerMap has the fields by name in lower case; several of one name are joined, as RFC 9110
// section 5.3 has it.
func headerMap(fields header.List) map[string]string {
	out := make(map[string]string, len(fields))
	for _, f := range fields {
		name := strings.ToLower(f.Name)
		if before, there := out[name]; there {
			out[name] = before + ", " + f.Value
		} else {
			out[name] = strings.Clone(f.Value)
		}
	}
	return out
}
