package mesh

import (
	"encoding/json"
	"testing"
	"time"
)

func TestDurationPrintsAsProtojsonDoes(t *testing.T) {
	for in, want := range map[time.Duration]string{
		0:                                     `"0s"`,
		time.Second:                           `"1s"`,
		2500 * time.Millisecond:               `"2.500s"`,
		25 * time.Millisecond:                 `"0.025s"`,
		120 * time.Microsecond:                `"0.000120s"`,
		time.Nanosecond:                       `"0.000000001s"`,
		-1500 * time.Millisecond:              `"-1.500s"`,
		7 * 24 * time.Hour:                    `"604800s"`,
		100*time.Second + time.Millisecond:    `"100.001s"`,
		10*time.Second + 1000*time.Nanosecond: `"10.000001s"`,
	} {
		got, err := json.Marshal(Duration(in))
		if err != nil || string(got) != want {
			t.Errorf("Marshal(%v) = %s, %v; want %s", in, got, err, want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want time.Duration
		ok   bool
	}{
		{"1.5s", 1500 * time.Millisecond, true},
		{"0s", 0, true},
		{".5s", 500 * time.Millisecond, true},
		{"1.s", time.Second, true},
		{"-2s", -2 * time.Second, true},
		{"1", 0, false},
		{"1m", 0, false},
		{"s", 0, false},
		{".s", 0, false},
		{"1e3s", 0, false},
		{"+1s", 0, false},
		{"1.0000000001s", 0, false},
		{"99999999999s", 0, false},
		{"9999999999s", 0, false}, // over what a time.Duration holds
		{"--1s", 0, false},
	} {
		got, err := ParseDuration(tt.in)
		if (err == nil) != tt.ok || time.Duration(got) != tt.want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v, ok %v", tt.in, time.Duration(got), err, tt.want, tt.ok)
		}
	}
}

func FuzzParseDuration(f *testing.F) {
	f.Add("1.5s")
	f.Add("-0.000000001s")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDuration(s)
		if err != nil {
			return
		}
		b, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var back Duration
		if err := json.Unmarshal(b, &back); err != nil || back != d {
			t.Errorf("%q is %d, printed %s, read back as %d, %v", s, d, b, back, err)
		}
	})
}
