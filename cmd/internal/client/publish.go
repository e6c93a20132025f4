package client

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/mqttbridge"
)

// publish is the flags of `publish`.
type publish struct {
	app     *app
	options mqttbridge.PublishOptions
	message string
	qos     uint8
	timeout time.Duration
	output  output
}

func (a *app) publishCommand() *cobra.Command {
	v := &publish{app: a}
	c := &cobra.Command{
		Use:   "publish TOPIC -m BODY",
		Short: "Publish one MQTT message, as a device would",
		Long: `Publishes one MQTT message and waits for the broker's acknowledgement. At QoS 1,
where a topic rule of the mesh's own broker matches, that means that the service
has accepted the message.`,
		Example: `  hedgerow publish devices/d1/telemetry -m '{"t":21.5}'`,
		Args:    usageArgs(cobra.ExactArgs(1)),
	}
	v.output.flag(c)
	f := c.Flags()
	f.StringVarP(&v.message, "message", "m", "", "the message's body")
	f.Uint8VarP(&v.qos, "qos", "q", 1, "quality of service: 0, 1 or 2")
	f.BoolVarP(&v.options.Retain, "retain", "r", false, "let the broker keep it for later subscribers")
	f.StringVar(&v.options.Address, "broker", "127.0.0.1:1883", "the broker: host:port, or mqtts://host:port for TLS")
	f.StringVar(&v.options.ClientID, "client-id", "", "client identifier; else the broker's choice")
	f.StringVar(&v.options.Username, "username", "", "user name")
	f.StringVar(&v.options.PasswordFile, "password-file", "", "file with the user's password")
	f.StringVar(&v.options.TLS.CAFile, "ca-file", "", "PEM file with the broker's CA; turns on TLS")
	f.StringVar(&v.options.TLS.CertFile, "cert-file", "", "PEM file with the client certificate")
	f.StringVar(&v.options.TLS.KeyFile, "key-file", "", "PEM file with its key")
	f.DurationVar(&v.timeout, "timeout", 30*time.Second, "how long to wait for the acknowledgement")
	c.RunE = func(c *cobra.Command, args []string) error {
		if !f.Changed("message") {
			return usageError(c, errors.New("-m says what to publish"))
		}
		v.options.Topic, v.options.Payload, v.options.QoS = args[0], []byte(v.message), v.qos
		return fail("publish "+args[0], v.run(c.Context()))
	}
	return c
}

func (v *publish) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, v.timeout)
	defer cancel()
	if err := mqttbridge.Publish(ctx, v.options); err != nil {
		return err
	}
	done := "acknowledged"
	if v.qos == 0 {
		done = "sent"
	}
	return v.app.printDone(v.output, v.options.Topic+" "+done, struct {
		Topic        string `json:"topic"`
		Acknowledged bool   `json:"acknowledged"`
	}{v.options.Topic, v.qos > 0})
}
