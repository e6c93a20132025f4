package jwt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds how deep claims are nested.
const maxDepth = 16

// Claims are what somebody who is believed says of a caller. They never change.
type Claims struct {
	Issuer  string
	Subject string

	all       map[string]any // as JSON has it; numbers are int64 or float64
	texts     map[string][]string
	audience  []string
	expires   float64 // seconds since 1970; -Inf if it does not say
	notBefore float64 // -Inf if it does not say
}

// Named returns the claims of a caller of whom only a name is known, "sub".
func Named(name string) *Claims {
	c, err := newClaims(map[string]any{"sub": name})
	if err != nil { // a text is what a subject has to be
		return &Claims{Subject: name}
	}
	return c
}

// All returns every claim: text, bool, int64, float64, []any and map[string]any. It is
// not to be changed. Of nobody there are none.
func (c *Claims) All() map[string]any {
	if c == nil {
		return nil
	}
	return c.all
}

// Has reports whether the claim has one of the values: it is that text, number or bool,
// or a list with it. "scope" and "scp" are lists with spaces in between (RFC 8693
// section 4.2).
func (c *Claims) Has(name string, values []string) bool {
	if c == nil {
		return false
	}
	for _, text := range c.texts[name] {
		if slices.Contains(values, text) {
			return true
		}
	}
	return false
}

// Header returns the claim as the value of a header: a list with commas in between. It
// is not ok if the claim is not there, or has anything that a reader of the header could
// take for something else: a control character, something beyond ASCII, a comma in an
// item of a list, or an object.
func (c *Claims) Header(name string) (value string, ok bool) {
	if c == nil {
		return "", false
	}
	texts := c.texts[name]
	if text, is := c.all[name].(string); is {
		texts = []string{text}
	}
	for _, text := range texts {
		if text == "" || text != strings.TrimSpace(text) || len(texts) > 1 && strings.Contains(text, ",") {
			return "", false
		}
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
			return "", false
		}
	}
	return strings.Join(texts, ","), len(texts) > 0
}

// newClaims takes the registered claims (RFC 7519 section 4.1) out of all, whose types
// they have to be of.
func newClaims(all map[string]any) (*Claims, error) {
	c := &Claims{all: all, texts: make(map[string][]string, len(all)), expires: math.Inf(-1), notBefore: math.Inf(-1)}
	for name, value := range all {
		if texts := textsOf(name, value); texts != nil {
			c.texts[name] = texts
		}
	}
	for name, into := range map[string]*string{"iss": &c.Issuer, "sub": &c.Subject} {
		if value, has := all[name]; has {
			text, is := value.(string)
			if !is {
				return nil, fmt.Errorf("%q is no text", name)
			}
			*into = text
		}
	}
	for name, into := range map[string]*float64{"exp": &c.expires, "nbf": &c.notBefore} {
		switch value := all[name].(type) {
		case nil:
			if _, has := all[name]; has {
				return nil, fmt.Errorf("%q is no number", name)
			}
		case int64:
			*into = float64(value)
		case float64:
			*into = value
		default:
			return nil, fmt.Errorf("%q is no number", name)
		}
	}
	switch aud := all["aud"].(type) {
	case string:
		c.audience = []string{aud}
	case []any:
		for _, item := range aud {
			text, is := item.(string)
			if !is {
				return nil, errors.New(`"aud" is no list of texts`)
			}
			c.audience = append(c.audience, text)
		}
	default:
		if _, has := all["aud"]; has {
			return nil, errors.New(`"aud" is no text`)
		}
	}
	return c, nil
}

// textsOf returns the texts of a claim, nil if it is an object or a list of more than texts.
func textsOf(name string, value any) []string {
	switch value := value.(type) {
	case string:
		if name == "scope" || name == "scp" {
			return strings.Fields(value)
		}
		return []string{value}
	case bool:
		return []string{strconv.FormatBool(value)}
	case int64:
		return []string{strconv.FormatInt(value, 10)}
	case float64:
		return []string{strconv.FormatFloat(value, 'g', -1, 64)}
	case []any:
		out := make([]string, 0, len(value))
		for _, item := range value {
			if _, list := item.([]any); list {
				return nil
			}
			texts := textsOf("", item)
			if len(texts) != 1 {
				return nil
			}
			out = append(out, texts[0])
		}
		return out
	}
	return nil
}

// decodeObject decodes one JSON object. It refuses what two parsers could read
// differently: a name that is there twice, at any depth, bytes that are not UTF-8, and
// whatever follows.
func decodeObject(raw []byte) (map[string]any, error) {
	if !utf8.Valid(raw) {
		return nil, errors.New("not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	value, err := decodeValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more follows")
	}
	object, is := value.(map[string]any)
	if !is {
		return nil, errors.New("no object")
	}
	return object, nil
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	token, err := d.Token()
	if err != nil {
		return nil, errors.New("not JSON")
	}
	switch token := token.(type) {
	case json.Delim:
		if token == '[' {
			return decodeList(d, depth)
		}
		return decodeMembers(d, depth)
	case json.Number:
		if n, err := token.Int64(); err == nil {
			return n, nil
		}
		f, err := token.Float64()
		if err != nil {
			return nil, errors.New("a number that is too large")
		}
		return f, nil
	}
	return token, nil
}

func decodeList(d *json.Decoder, depth int) (any, error) {
	list := []any{}
	for d.More() {
		item, err := decodeValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, item)
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("not JSON")
	}
	return list, nil
}

func decodeMembers(d *json.Decoder, depth int) (any, error) {
	object := map[string]any{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, errors.New("not JSON")
		}
		text, is := name.(string)
		if !is {
			return nil, errors.New("not JSON")
		}
		if _, twice := object[text]; twice {
			return nil, fmt.Errorf("%.60q is there twice", text)
		}
		if object[text], err = decodeValue(d, depth+1); err != nil {
			return nil, err
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("not JSON")
	}
	return object, nil
}
