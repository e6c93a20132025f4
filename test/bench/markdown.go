package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// marks are the lines between which the tables of a bench stand in a file.
func marks(name string) (begin, end string) {
	return "<!-- bench-" + name + " -->\n", "<!-- end of bench-" + name + " -->\n"
}

// place returns text with what stands between the marks of a bench replaced.
func place(text, name, tables string) (string, error) {
	begin, end := marks(name)
	before, rest, ok := strings.Cut(text, begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return "", fmt.Errorf("there are no marks for bench %s: the lines %q and %q", name, strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return before + begin + tables + end + after, nil
}

// writeMarkdown puts the tables of a bench into a file with its marks, or makes
// the file.
func writeMarkdown(path, name, tables string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		begin, end := marks(name)
		text, err = []byte(begin+end), nil
	}
	if err != nil {
		return err
	}
	placed, err := place(string(text), name, tables)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(placed), 0o644)
}

// checkMarkdown reports, before anything is measured, that writeMarkdown would
// fail.
func checkMarkdown(path, name string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := place(string(text), name, ""); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
