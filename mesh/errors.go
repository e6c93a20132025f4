package mesh

import (
	"errors"
	"fmt"
)

// Kind sorts errors by what the caller may do about them. The control API maps
// each Kind to one HTTP status, in one place.
type Kind uint8

// The kinds of Error. The order is not a protocol; the names are.
const (
	Internal    Kind = iota // a defect of ours; nothing the caller can do
	Invalid                 // the input is wrong and will be wrong again (422)
	Malformed               // the input is not even the right shape (400)
	NotFound                // there is no such object (404)
	Conflict                // still referenced by another object (409)
	Stale                   // the caller's etag is not the stored one (412)
	Denied                  // the caller is known and may not (403)
	Unavailable             // something needed is away; the same call may work later (503)
	Unauthentic             // the caller is not known (401)
)

// String returns the kind's name in lower case.
func (k Kind) String() string {
	switch k {
	case Invalid:
		return "invalid"
	case Malformed:
		return "malformed"
	case NotFound:
		return "not found"
	case Conflict:
		return "conflict"
	case Stale:
		return "stale"
	case Denied:
		return "denied"
	case Unavailable:
		return "unavailable"
	case Unauthentic:
		return "unauthenticated"
	default:
		return "internal"
	}
}

// Error says which operation failed on which object, of what kind, and why.
// It prints on one line.
type Error struct {
	Op   string // the operation: "registry.Publish", "vaultpki.Sign"
	Name string // the object, if any: "services/orders"
	Kind Kind
	Err  error  // the cause
	Hint string // what to do next, if known; printed apart from the message
}

// Error returns "op name: cause".
func (e *Error) Error() string {
	s := e.Op
	if e.Name != "" {
		s += " " + e.Name
	}
	if e.Err == nil {
		return s + ": " + e.Kind.String()
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an Error whose cause is formatted as by fmt.Errorf.
func Errorf(op, name string, kind Kind, format string, args ...any) *Error {
	return &Error{Op: op, Name: name, Kind: kind, Err: fmt.Errorf(format, args...)}
}

// WithHint returns e with a hint on what to do next.
func (e *Error) WithHint(hint string) *Error {
	e.Hint = hint
	return e
}

// KindOf returns the Kind of the first *Error in err's chain, or Internal.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// HintOf returns the first hint in err's chain, or "".
func HintOf(err error) string {
	var e *Error
	for errors.As(err, &e) {
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}
