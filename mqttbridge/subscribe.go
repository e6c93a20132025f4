package mqttbridge

import (
	"maps"
	"slices"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// subackFailure is the return code of a refused subscription (MQTT 3.1.1, 3.9.3).
const subackFailure = 0x80

// subscribe makes the session hold exactly want: new filters first, so that
// replacing a filter by a wider one misses nothing. A filter that the broker
// refuses is reported and left for the next call.
func (e *External) subscribe(client mqtt.Client, want map[string]byte, lost <-chan struct{}) error {
	for _, filter := range slices.Sorted(maps.Keys(want)) {
		if qos, ok := e.subscribed[filter]; ok && qos == want[filter] {
			continue
		}
		token, _ := client.Subscribe(filter, want[filter], nil).(*mqtt.SubscribeToken)
		if err := e.wait(token, lost, "subscribe "+filter); err != nil {
			return err
		}
		if code, ok := token.Result()[filter]; ok && code == subackFailure {
			e.refused.Inc()
			e.bridge.opts.Log.Error().Str("filter", filter).Str("broker", e.server.hostPort).
				Msg("the broker refused the subscription; let the bridge's user read it")
			continue
		}
		e.subscribed[filter] = want[filter]
	}
	for _, filter := range slices.Sorted(maps.Keys(e.subscribed)) {
		if _, ok := want[filter]; ok {
			continue
		}
		if err := e.wait(client.Unsubscribe(filter), lost, "unsubscribe "+filter); err != nil {
			return err
		}
		delete(e.subscribed, filter)
	}
	return nil
}

// wait waits for the broker's answer.
func (e *External) wait(token mqtt.Token, lost <-chan struct{}, what string) error {
	timeout := time.NewTimer(connectTimeout)
	defer timeout.Stop()
	select {
	case <-token.Done():
		if err := token.Error(); err != nil {
			return mesh.Errorf("mqttbridge.External", e.server.hostPort, mesh.Unavailable, "%s: %w", what, err)
		}
		return nil
	case <-lost:
		return mesh.Errorf("mqttbridge.External", e.server.hostPort, mesh.Unavailable, "%s: connection lost", what)
	case <-timeout.C:
		return mesh.Errorf("mqttbridge.External", e.server.hostPort, mesh.Unavailable, "%s: no answer within %v", what, connectTimeout)
	}
}
