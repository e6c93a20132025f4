// Package config loads the configuration of one role. A role's configuration
// is a Go struct whose yaml tags are the keys; every scalar key can be set, in
// rising order of precedence, by its default in the struct, by the YAML file
// of --config, by the variable HEDGEROW_<KEY> and by the flag of the same
// dotted name: redis.addresses, HEDGEROW_REDIS_ADDRESSES, --redis.addresses.
// A key that no role has is refused with a suggestion.
//
// It does not check what the values mean; the role does. It never prints a
// field that is tagged secret.
package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v4"
)

// envPrefix begins the names of all variables that are read.
const envPrefix = "HEDGEROW_"

// maxFileBytes bounds a configuration file.
const maxFileBytes = 1 << 20

// Loader loads one role's configuration struct.
type Loader struct {
	// Complete, if set, is called when the struct is loaded, and before it is printed: it
	// fills in what comes from elsewhere.
	Complete func() error

	target any // pointer to the struct, holding the defaults
	keys   []key
	flags  map[string]*flagValue
	file   string
	print  bool
}

// New returns a Loader for target, a pointer to a struct that holds the
// defaults, and registers its flags, --config and --print-config in flags.
func New(target any, flags *pflag.FlagSet) *Loader {
	l := &Loader{target: target, flags: map[string]*flagValue{}}
	collect(reflect.ValueOf(target).Elem(), "", &l.keys)
	flags.StringVar(&l.file, "config", "", "YAML `file` with the keys below")
	flags.BoolVar(&l.print, "print-config", false, "print the effective configuration, secrets masked, and exit")
	for _, k := range l.keys {
		if !k.scalar {
			continue
		}
		v := &flagValue{kind: k.field.Type().String(), text: k.text()}
		l.flags[k.name] = v
		f := flags.VarPF(v, k.name, "", k.help)
		if k.field.Kind() == reflect.Bool {
			f.NoOptDefVal = "true"
		}
	}
	return l
}

// Load fills the struct from the file, the environment and the flags, which
// must have been parsed. If --print-config was given it prints to out and
// reports printed; the caller then stops.
func (l *Loader) Load(env []string, out io.Writer) (printed bool, err error) {
	if l.file != "" {
		if err := l.loadFile(l.file); err != nil {
			return false, err
		}
	}
	if err := l.loadEnv(env); err != nil {
		return false, err
	}
	for _, k := range l.keys {
		if f := l.flags[k.name]; f != nil && f.set {
			if err := k.setText(f.text); err != nil {
				return false, fmt.Errorf("--%s: %w", k.name, err)
			}
		}
	}
	if l.Complete != nil {
		if err := l.Complete(); err != nil {
			return false, err
		}
	}
	if !l.print {
		return false, nil
	}
	return true, l.printTo(out)
}

func (l *Loader) loadFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	b, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return fmt.Errorf("read configuration %s: %w", name, err)
	}
	if len(b) > maxFileBytes {
		return fmt.Errorf("read configuration %s: over %d bytes", name, maxFileBytes)
	}
	var doc yaml.Node
	if err := yaml.Load(b, &doc); err != nil {
		if errors.Is(err, io.EOF) || len(strings.TrimSpace(string(b))) == 0 {
			return nil
		}
		return fmt.Errorf("read configuration %s: %s", name, oneLine(err))
	}
	if len(doc.Content) == 0 {
		return nil
	}
	if err := l.walk(doc.Content[0], ""); err != nil {
		return fmt.Errorf("configuration %s: %w", name, err)
	}
	return nil
}

// walk sets every key that the mapping n, found under prefix, holds.
func (l *Loader) walk(n *yaml.Node, prefix string) error {
	if n.Kind != yaml.MappingNode {
		if n.Kind == yaml.ScalarNode && n.Value == "" {
			return nil
		}
		return fmt.Errorf("line %d: %q must hold keys, one a line", n.Line, strings.TrimSuffix(prefix, "."))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := prefix+n.Content[i].Value, n.Content[i+1]
		if seen[name] {
			return fmt.Errorf("line %d: key %q is there twice", value.Line, name)
		}
		seen[name] = true
		if k := l.find(name); k != nil {
			if err := k.setNode(value); err != nil {
				return fmt.Errorf("line %d: %s: %w", value.Line, name, err)
			}
			continue
		}
		if !l.isSection(name) {
			return fmt.Errorf("line %d: unknown key %q%s", n.Content[i].Line, name, l.suggest(name))
		}
		if err := l.walk(value, name+"."); err != nil {
			return err
		}
	}
	return nil
}

func (l *Loader) loadEnv(env []string) error {
	byName := map[string]*key{}
	var names []string
	for i := range l.keys {
		n := envName(l.keys[i].name)
		byName[n] = &l.keys[i]
		names = append(names, n)
	}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		k := byName[name]
		if k == nil {
			if strings.HasPrefix(name, envPrefix) && !clientVariable(name) {
				return fmt.Errorf("unknown variable %s%s", name, suggest(name, names))
			}
			continue
		}
		if err := k.setText(value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// clientVariable reports whether name is one that the client verbs read: they
// may be exported in the shell from which a role is started.
func clientVariable(name string) bool {
	switch name {
	case envPrefix + "TOKEN", envPrefix + "TOKEN_FILE", envPrefix + "SERVER", envPrefix + "CA_FILE", envPrefix + "BROKER":
		return true
	}
	return strings.HasPrefix(name, envPrefix+"TEST_")
}

func envName(key string) string {
	var b strings.Builder
	b.WriteString(envPrefix)
	for _, r := range key {
		switch {
		case r == '.':
			b.WriteByte('_')
		case r >= 'A' && r <= 'Z':
			b.WriteByte('_')
			b.WriteRune(r)
		default:
			b.WriteString(strings.ToUpper(string(r)))
		}
	}
	return b.String()
}

func (l *Loader) find(name string) *key {
	for i := range l.keys {
		if l.keys[i].name == name {
			return &l.keys[i]
		}
	}
	return nil
}

func (l *Loader) isSection(name string) bool {
	for _, k := range l.keys {
		if strings.HasPrefix(k.name, name+".") {
			return true
		}
	}
	return false
}

func (l *Loader) suggest(name string) string {
	var names []string
	for _, k := range l.keys {
		names = append(names, k.name)
		if section, _, ok := strings.Cut(k.name, "."); ok {
			names = append(names, section)
		}
	}
	return suggest(name, names)
}

// printTo prints the effective configuration as YAML.
func (l *Loader) printTo(w io.Writer) error {
	b, err := yaml.Dump(masked(reflect.ValueOf(l.target).Elem()))
	if err != nil {
		return fmt.Errorf("print configuration: %w", err)
	}
	_, err = w.Write(b)
	return err
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
