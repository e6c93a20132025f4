package mesh

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

const maxTopicLevels = 16

func (r *TopicRule) normalize() {
	if r.QoS == nil {
		one := uint32(1)
		r.QoS = &one
	}
	if r.Direction == "" {
		r.Direction = Uplink
	}
	if r.Encoding == "" {
		r.Encoding = EncodingRaw
	}
	if r.Ordering == "" {
		r.Ordering = PerTopic
	}
	if r.Ack == "" {
		r.Ack = AckSpooled
	}
	if r.To != nil && r.To.Method == "" {
		r.To.Method = "POST"
	}
}

func (r *TopicRule) validate(v *Violations) {
	v.oneOf("direction", r.Direction, []string{Uplink}, Downlink, RequestReply)
	v.oneOf("encoding", r.Encoding, []string{EncodingRaw}, CloudEvents)
	v.oneOf("ordering", r.Ordering, []string{PerTopic, NoOrder})
	v.oneOf("ack", r.Ack, []string{AckDelivered, AckSpooled})
	if r.QoS != nil && *r.QoS > 2 {
		v.Add("qos", "", "%d is none of 0, 1 and 2", *r.QoS)
	} else {
		v.unsupported(r.QoS != nil && *r.QoS == 2, "qos")
	}
	v.unsupported(r.When != "", "when")
	v.unsupported(r.Batch != nil, "batch")
	v.unsupported(r.DeadLetter != nil, "deadLetter")
	v.unsupported(r.Spool != nil, "spool")
	if r.Retry != nil {
		checkDuration("retry.maxAge", r.Retry.MaxAge, time.Second, 365*24*time.Hour, v)
		if r.Retry.Backoff != nil {
			r.Retry.Backoff.validate("retry.backoff", v)
			checkDuration("retry.backoff.max", r.Retry.Backoff.Max, time.Millisecond, 10*time.Minute, v)
		}
	}
	captures, err := TopicCaptures(r.Filter)
	if err != nil {
		v.Add("filter", "e.g. \"devices/{device}/telemetry\"", "%v", err)
	}
	if r.Device != "" {
		name, ok := capture(r.Device)
		if !ok {
			v.Add("device", "e.g. \"{device}\"", "%q is not a capture of the filter", r.Device)
		} else if err == nil && !captures[name] {
			v.Add("device", "", "the filter has no {%s}", name)
		}
	}
	r.validateTo(captures, v)
}

func (r *TopicRule) validateTo(captures map[string]bool, v *Violations) {
	if r.To == nil {
		v.Add("to", "e.g. {\"service\": \"telemetry\", \"path\": \"/v1/devices/{device}/telemetry\"}", "a topic rule needs a destination")
		return
	}
	if !ValidID(r.To.Service) {
		v.Add("to.service", "", "%q is not a service id", r.To.Service)
	}
	checkMethods("to.method", []string{r.To.Method}, v)
	if r.To.Method == "CONNECT" {
		v.Add("to.method", "use POST", "CONNECT cannot carry a message")
	}
	t, err := ParsePathTemplate(r.To.Path)
	if err != nil {
		v.Add("to.path", "e.g. \"/v1/devices/{device}/telemetry\"", "%v", err)
	} else {
		checkTemplate("to.path", r.To.Path, v)
	}
	for _, s := range t.Segments {
		if s.Capture != "" && !captures[s.Capture] {
			v.Add("to.path", "", "the filter has no {%s}", s.Capture)
		}
		if s.Rest {
			v.Add("to.path", "", "{%s=**} cannot be filled: a capture is one level", s.Capture)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.To.Headers)) {
		value := r.To.Headers[name]
		field := fmt.Sprintf("to.headers[%q]", name)
		switch {
		case !token(name):
			v.Add(field, "", "%q is not a header name", name)
		case ReservedHeader(name):
			v.Add(field, "", "%q is set by the mesh alone", name)
		case !printable(value):
			v.Add(field, "", "the value has characters other than printable ASCII")
		}
	}
}

// TopicCaptures parses an MQTT topic filter (MQTT 3.1.1 section 4.7) whose
// levels may also be "{name}" and returns the names of its captures.
func TopicCaptures(filter string) (map[string]bool, error) {
	captures := map[string]bool{}
	switch {
	case filter == "":
		return nil, fmt.Errorf("a topic filter is needed")
	case len(filter) > 1024:
		return nil, fmt.Errorf("a topic filter has at most 1024 bytes")
	case strings.HasPrefix(filter, "$"):
		return nil, fmt.Errorf("%.80q: topics that begin with '$' belong to the broker", filter)
	}
	levels := strings.Split(filter, "/")
	if len(levels) > maxTopicLevels {
		return nil, fmt.Errorf("%d levels, at most %d are allowed", len(levels), maxTopicLevels)
	}
	for i, l := range levels {
		switch {
		case l == "#" && i != len(levels)-1:
			return nil, fmt.Errorf("%.80q: '#' is not the last level", filter)
		case l == "#" || l == "+":
		case strings.ContainsAny(l, "{}"):
			name, ok := capture(l)
			if !ok {
				return nil, fmt.Errorf("%.80q: level %q is neither a literal nor one whole {capture}", filter, l)
			}
			if captures[name] {
				return nil, fmt.Errorf("%.80q: {%s} is there twice", filter, name)
			}
			captures[name] = true
		case strings.ContainsAny(l, "+#"):
			return nil, fmt.Errorf("%.80q: '+' and '#' stand for whole levels", filter)
		case !printable(l):
			return nil, fmt.Errorf("%.80q has characters other than printable ASCII", filter)
		}
	}
	return captures, nil
}

// capture returns the name of "{name}".
func capture(s string) (string, bool) {
	name, ok := strings.CutPrefix(s, "{")
	name, ok2 := strings.CutSuffix(name, "}")
	return name, ok && ok2 && captureName(name)
}
