package main

const idPattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"

const description = `Steers a Hedgerow mesh. gRPC is served on the same port, from the same sources.

Callers present a bearer token. JSON is lowerCamelCase; durations are seconds ("1.5s"); enums are strings; fields that are not set are left out. Unknown and duplicate fields are refused, each by name.

PUT creates or replaces. A write with the etag that was read, in the body or as If-Match, is refused when the object has changed meanwhile. A PUT of what is stored already makes no new revision. With ?validateOnly=true nothing is stored and the answer is what would be.

Every accepted write is stored as one revision before it is answered and published after. Hedgerow-Published: false says that the registry was away in between; the revision is published when it returns.`

// addErrors adds the parts of components that every operation refers to.
func addErrors(components object) {
	str := func(description string) object { return object{"type": "string", "description": description} }
	schemas := components["schemas"].(object)
	schemas["Problem"] = object{
		"type":        "object",
		"description": "Why a request was refused (RFC 9457).",
		"required":    list{"type", "title", "status", "code"},
		"properties": object{
			"type":     str("Where the code is explained."),
			"title":    str("What happened, in general."),
			"status":   object{"type": "integer", "description": "The HTTP status."},
			"code":     str("For programs. It does not change with the wording."),
			"detail":   str("What is wrong with this request."),
			"instance": str("The path of the request."),
			"violations": object{
				"type": "array", "description": "Everything that is wrong, at once.",
				"items": object{"$ref": "#/components/schemas/Violation"},
			},
		},
		"examples": list{object{
			"type": "/docs/errors#invalid", "title": "Route refused", "status": 422, "code": "invalid",
			"detail": "1 violation; nothing was stored", "instance": "/v1/routes/demo",
			"violations": list{object{
				"field": "rules[0].backends[0].service", "message": `service "ordrs" does not exist`, "hint": `did you mean "orders"?`,
			}},
		}},
	}
	schemas["Violation"] = object{
		"type":        "object",
		"description": "One thing that is wrong with a request.",
		"properties": object{
			"field":   str("rules[0].backends[0].service"),
			"message": str("What is wrong with it."),
			"hint":    str("What to do about it, if that is known."),
		},
	}
	schemas["Readiness"] = object{
		"type": "object", "description": "Whether writes are possible.", "required": list{"ready", "revision"},
		"properties": object{
			"ready":    object{"type": "boolean"},
			"revision": object{"type": "integer", "description": "The newest stored revision."},
			"checks": object{"type": "array", "description": "What is not well.", "items": object{
				"type":       "object",
				"properties": object{"name": str("What was looked at."), "message": str("What was found.")},
			}},
		},
	}
	responses := object{}
	for status, description := range map[string]string{
		"400": "Malformed JSON, or an unknown or duplicate field; every one is listed.",
		"401": "No token, or a wrong one.",
		"403": "A foreign Host or Origin.",
		"404": "There is no such object.",
		"409": "Other objects still refer to it; they are listed.",
		"412": "The object has changed since it was read.",
		"413": "A body of more than 1 MiB, or an object of more than 256 KiB.",
		"415": "A body that is compressed. It is not inflated.",
		"422": "An invalid value, template or reference, or a field that this version does not support; every one is listed.",
		"503": "The registry or the log is away. Nothing was stored.",
	} {
		responses["Error"+status] = object{
			"description": description,
			"content":     object{"application/problem+json": object{"schema": object{"$ref": "#/components/schemas/Problem"}}},
		}
	}
	components["responses"] = responses
	components["headers"] = object{
		"ETag":      object{"description": "The etag in the body, in quotes.", "schema": object{"type": "string"}},
		"Published": object{"description": "Whether the revision that the write made is published; false if it is only stored yet. Absent if the write made none.", "schema": object{"type": "string", "enum": list{"true", "false"}}},
	}
	components["parameters"] = object{
		"IfMatch":     object{"name": "If-Match", "in": "header", "description": "Write only over this version, e.g. \"87\", or with * only over an existing one.", "schema": object{"type": "string"}},
		"IfNoneMatch": object{"name": "If-None-Match", "in": "header", "description": "* creates only: 412 if the object exists.", "schema": object{"type": "string", "enum": list{"*"}}},
	}
	components["securitySchemes"] = object{"bearer": object{"type": "http", "scheme": "bearer", "description": "The token that the control plane was started with; hedgerow up writes it to admin.token in its data directory."}}
}

// processPaths are the operations that no proto describes. They need no token.
func processPaths() object {
	plain := func(id, summary, contentType string, schema object, more object) object {
		responses := object{"200": object{"description": "OK.", "content": object{contentType: object{"schema": schema}}}, "403": ref("responses", "Error403")}
		for status, r := range more {
			responses[status] = r
		}
		return object{"get": object{"operationId": id, "summary": summary, "tags": list{"Process"}, "security": list{}, "responses": responses}}
	}
	text := object{"type": "string"}
	readiness := object{"$ref": "#/components/schemas/Readiness"}
	return object{
		"/healthz": plain("Healthz", "Says that the process lives.", "text/plain", text, nil),
		"/readyz": plain("Readyz", "Says whether writes are possible.", "application/json", readiness, object{
			"503": object{"description": "Writes are not possible.", "content": object{"application/json": object{"schema": readiness}}},
		}),
		"/metrics":      plain("Metrics", "Metrics for Prometheus.", "text/plain", text, nil),
		"/openapi.yaml": plain("OpenAPI", "This document.", "application/yaml", text, nil),
	}
}
