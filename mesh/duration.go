package mesh

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration whose JSON is protobuf's: decimal seconds and an
// "s", printed with 0, 3, 6 or 9 fractional digits ("2.500s"), read with any
// number up to 9 ("2.5s").
type Duration time.Duration

// Seconds returns a pointer to a Duration of s seconds, for literals.
func Seconds(s float64) *Duration {
	d := Duration(math.Round(s * float64(time.Second)))
	return &d
}

// Or returns the duration, or otherwise if d is nil: absent and zero differ.
func (d *Duration) Or(otherwise time.Duration) time.Duration {
	if d == nil {
		return otherwise
	}
	return time.Duration(*d)
}

// MarshalJSON prints the duration as protojson does.
func (d Duration) MarshalJSON() ([]byte, error) {
	n := int64(d)
	sign := ""
	if n < 0 {
		sign, n = "-", -n
	}
	sec, frac := n/int64(time.Second), n%int64(time.Second)
	s := fmt.Sprintf("%s%d.%09d", sign, sec, frac)
	s = strings.TrimSuffix(s, "000")
	s = strings.TrimSuffix(s, "000")
	s = strings.TrimSuffix(s, ".000")
	return json.Marshal(s + "s")
}

// UnmarshalJSON reads "1.5s".
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("a duration is a string like \"1.5s\", not %.40s", b)
	}
	v, err := ParseDuration(s)
	if err != nil {
		return err
	}
	*d = v
	return nil
}

// ParseDuration reads decimal seconds ending in "s". It refuses what protojson
// refuses: other units, more than nine fractional digits, and no digits at all.
func ParseDuration(s string) (Duration, error) {
	bad := fmt.Errorf("%.40q is not a duration in seconds like \"1.5s\"", s)
	num, ok := strings.CutSuffix(s, "s")
	if !ok {
		return 0, bad
	}
	neg := strings.HasPrefix(num, "-")
	num = strings.TrimPrefix(num, "-")
	whole, frac, _ := strings.Cut(num, ".")
	if whole == "" && frac == "" || len(frac) > 9 || len(whole) > 10 || !digits(whole) || !digits(frac) {
		return 0, bad
	}
	var sec, nano int64
	if whole != "" {
		sec, _ = strconv.ParseInt(whole, 10, 64) // ten digits at most: it fits
	}
	if frac != "" {
		nano, _ = strconv.ParseInt(frac+"000000000"[len(frac):], 10, 64)
	}
	if sec > int64(math.MaxInt64/time.Second)-1 {
		return 0, bad
	}
	n := sec*int64(time.Second) + nano
	if neg {
		n = -n
	}
	return Duration(n), nil
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}
