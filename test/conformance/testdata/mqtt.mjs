// The conversation of TestMQTTClients by mqtt.js: modules host port device version qos.
import { createRequire } from "node:module";
import assert from "node:assert";

const [modules, host, port, device, version, qosText] = process.argv.slice(2);
const mqtt = createRequire(modules + "/")("mqtt");
const qos = Number(qosText);
const client = await mqtt.connectAsync({ host, port: Number(port), clientId: device, protocolVersion: Number(version) });
const heard = [];
let wake = () => {};
client.on("message", (topic, payload, packet) => { heard.push([topic, payload.toString(), packet.retain]); wake(); });
const until = async (n) => { while (heard.length < n) await new Promise((resolve) => { wake = resolve; }); };
await client.subscribeAsync(`echo/${device}`, { qos });
for (const text of ["one", "two", "three"]) {
  await client.publishAsync(`devices/${device}/telemetry`, text, { qos });
  await client.publishAsync(`echo/${device}`, text, { qos });
}
await until(3);
await client.publishAsync(`state/${device}`, "on", { qos, retain: true });
await client.subscribeAsync(`state/${device}`, { qos });
await until(4);
assert.deepStrictEqual(heard, [
  ...["one", "two", "three"].map((text) => [`echo/${device}`, text, false]), [`state/${device}`, "on", true],
]);
await client.unsubscribeAsync([`echo/${device}`, `state/${device}`]);
await client.endAsync();
console.log(`mqtt.js: ${heard.length} messages heard`);
