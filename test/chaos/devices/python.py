# Devices of the library paho-mqtt: MQTT 3.1.1. Arguments: host, port, the first device's number, how many.
import sys
import threading
import time

import paho.mqtt.client as mqtt

host, port, first, count = sys.argv[1], *map(int, sys.argv[2:5])
stopping = threading.Event()
lock = threading.Lock()


class Device:
    def __init__(self, number):
        self.number, self.n, self.pending = number, 0, {}
        self.client = mqtt.Client(client_id="python-%d" % number, clean_session=False)
        self.client.max_inflight_messages_set(16)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_publish = self.published
        for _ in range(16):
            self.publish()
        self.client.connect_async(host, port)
        self.client.loop_start()

    def publish(self):
        text = "%d %d" % (self.number, self.n)
        self.n += 1
        info = self.client.publish("devices/d%d/telemetry" % self.number, text, qos=1)
        self.pending[info.mid] = text

    def published(self, client, userdata, mid):
        text = self.pending.pop(mid)
        with lock:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        if not stopping.is_set():
            self.publish()


devices = [Device(first + i) for i in range(count)]
sys.stdin.read()
stopping.set()
end = time.time() + 20
while any(d.pending for d in devices) and time.time() < end:
    time.sleep(0.05)
