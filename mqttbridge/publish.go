package mqttbridge

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// PublishOptions describe one message and the broker to send it to.
type PublishOptions struct {
	// Address is "127.0.0.1:1883", "mqtt://host:1883" or "mqtts://host:8883";
	// the ports 1883 and 8883 may be left out.
	Address      string
	Topic        string
	Payload      []byte
	QoS          byte
	Retain       bool
	ClientID     string // empty: the broker chooses one
	Username     string
	PasswordFile string
	TLS          TLSOptions
}

// Publish sends one message as an MQTT 3.1.1 client and, at QoS 1 and 2, waits
// until the broker has acknowledged it. With a topic that a rule of the
// embedded broker matches this means that the service answered 2xx. Errors are
// *mesh.Error with a hint; ctx bounds the whole exchange.
func Publish(ctx context.Context, o PublishOptions) error {
	if err := checkPublish(o); err != nil {
		return err
	}
	s, err := parseServer(o.Address, o.TLS.used())
	if err != nil {
		return err
	}
	password, err := readPassword(o.PasswordFile)
	if err != nil {
		return err
	}
	var conn *watchedConn
	abort := func() bool { return true } // ends the handshake with ctx
	opts := mqtt.NewClientOptions().
		AddBroker("tcp://" + s.hostPort).
		SetClientID(o.ClientID).SetCleanSession(true).SetProtocolVersion(4).
		SetUsername(o.Username).SetPassword(password).
		SetAutoReconnect(false).SetConnectRetry(false).
		SetConnectTimeout(connectTimeout).SetKeepAlive(keepAlive).SetWriteTimeout(connectTimeout).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
			c, err := dial(ctx, s, o.TLS, connectTimeout)
			if err != nil {
				return nil, err
			}
			conn = c
			abort = context.AfterFunc(ctx, func() { _ = c.Close() })
			return c, nil
		})
	client := mqtt.NewClient(opts)
	token := client.Connect()
	<-token.Done() // bounded by the dial's and the handshake's timeouts
	abort()
	if err := token.Error(); err != nil {
		return connectError(s.hostPort, err)
	}
	defer client.Disconnect(250)
	// Publish waits for the library's writer; the goroutine ends with the
	// connection at the latest.
	sent := make(chan mqtt.Token, 1)
	go func() { sent <- client.Publish(o.Topic, o.QoS, o.Retain, o.Payload) }()
	return awaitPublish(ctx, o, conn.lost, sent)
}

// awaitPublish waits for the acknowledgement.
func awaitPublish(ctx context.Context, o PublishOptions, lost <-chan struct{}, sent <-chan mqtt.Token) error {
	unavailable := func(hint, format string, args ...any) error {
		return mesh.Errorf("mqttbridge.Publish", o.Topic, mesh.Unavailable, format, args...).WithHint(hint)
	}
	closed := func() error {
		return unavailable("the topic may not be allowed, or its service does not accept the message; see the bridge's log",
			"the broker closed the connection without acknowledging")
	}
	var token mqtt.Token
	var done <-chan struct{}
	var late <-chan time.Time
	for {
		select {
		case token = <-sent:
			done, sent = token.Done(), nil
		case <-done:
			if token.Error() != nil {
				return closed()
			}
			return nil
		case <-lost:
			// The acknowledgement may have been read just before: the library
			// completes the token either way.
			lost, late = nil, time.After(2*time.Second)
		case <-late:
			return closed()
		case <-ctx.Done():
			return unavailable("the service behind the topic may be away; at QoS 1 the broker answers only after it accepted the message",
				"no acknowledgement: %w", context.Cause(ctx))
		}
	}
}

func checkPublish(o PublishOptions) error {
	invalid := func(hint, format string, args ...any) error {
		return mesh.Errorf("mqttbridge.Publish", clip(o.Topic), mesh.Invalid, format, args...).WithHint(hint)
	}
	switch {
	case o.Topic == "" || len(o.Topic) > 65535:
		return invalid("", "a topic has 1 to 65535 bytes")
	case strings.ContainsAny(o.Topic, "+#"):
		return invalid("'+' and '#' are for subscriptions", "a message goes to one topic, without wildcards")
	case !utf8.ValidString(o.Topic) || strings.ContainsRune(o.Topic, 0):
		return invalid("", "a topic is UTF-8 without NUL")
	case o.QoS > 2:
		return invalid("use 0, 1 or 2", "there is no QoS %d", o.QoS)
	}
	return nil
}

// connectError says what to do about a connection that did not come up.
func connectError(hostPort string, err error) error {
	kind, hint := mesh.Unavailable, "is the broker running, and is this its address?"
	var netErr net.Error
	switch {
	case errors.Is(err, packets.ErrorRefusedBadUsernameOrPassword), errors.Is(err, packets.ErrorRefusedNotAuthorised):
		kind, hint = mesh.Denied, "check the username, the password file and the client certificate"
	case errors.Is(err, packets.ErrorRefusedIDRejected):
		kind, hint = mesh.Denied, "choose another client id"
	case errors.Is(err, packets.ErrorRefusedServerUnavailable):
		hint = "the broker is full or starting; try again later"
	case strings.Contains(err.Error(), "tls:") || strings.Contains(err.Error(), "x509:"):
		hint = "check the CA file and the server name of the broker's certificate"
	case errors.As(err, &netErr) && netErr.Timeout():
		hint = "no answer in time: check the address and the firewall"
	}
	return mesh.Errorf("mqttbridge", hostPort, kind, "connect: %w", err).WithHint(hint)
}
