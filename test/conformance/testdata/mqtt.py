# The conversation of TestMQTTClients by paho-mqtt: host port device version qos.
import queue
import sys

import paho.mqtt.client as mqtt

host, port, device, version, qos = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
client = mqtt.Client(client_id=device, protocol=version)
connected, subscribed, heard = queue.Queue(), queue.Queue(), queue.Queue()
client.on_connect = lambda client, userdata, flags, reason, *rest: connected.put(int(getattr(reason, "value", reason)))
client.on_subscribe = lambda *args: subscribed.put(True)
client.on_message = lambda client, userdata, m: heard.put((m.topic, m.payload.decode(), bool(m.retain)))
client.connect(host, port)
client.loop_start()
assert connected.get(timeout=20) == 0


def publish(topic, text, retain=False):
    info = client.publish(topic, text, qos=qos, retain=retain)
    info.wait_for_publish(20)
    assert info.is_published(), topic


def subscribe(topic):
    client.subscribe(topic, qos)
    subscribed.get(timeout=20)


subscribe("echo/" + device)
for text in ("one", "two", "three"):
    publish("devices/%s/telemetry" % device, text)
    publish("echo/" + device, text)
got = [heard.get(timeout=20) for _ in range(3)]
publish("state/" + device, "on", True)
subscribe("state/" + device)
got.append(heard.get(timeout=20))
want = [("echo/" + device, text, False) for text in ("one", "two", "three")] + [("state/" + device, "on", True)]
assert got == want, got
client.disconnect()
client.loop_stop()
print("python paho: %d messages heard" % len(got))
