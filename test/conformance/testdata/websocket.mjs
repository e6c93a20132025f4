// Echoes messages of every kind and size through a WebSocket: modules url host [ca].
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { randomBytes } from "node:crypto";
import assert from "node:assert";

const [modules, url, host, ca] = process.argv.slice(2);
const require = createRequire(modules + "/");
const WebSocket = require("ws");
const options = { headers: { Host: host } };
if (ca) options.ca = readFileSync(ca);
const ws = new WebSocket(url, options);
const messages = ["", "hello", "ü".repeat(1000), "x".repeat(200_000), Buffer.alloc(0), randomBytes(200_000)];
const next = () => new Promise((resolve, reject) => {
  ws.once("message", (data, binary) => resolve(binary ? data : data.toString()));
  ws.once("error", reject);
  ws.once("close", (code) => reject(new Error(`closed with ${code}`)));
});
await new Promise((resolve, reject) => { ws.once("open", resolve); ws.once("error", reject); });
for (const m of messages) {
  const answer = next();
  ws.send(m);
  assert.deepEqual(await answer, m);
  ws.removeAllListeners("close");
  ws.removeAllListeners("error");
}
await new Promise((resolve) => { ws.once("pong", resolve); ws.ping(); });
const code = await new Promise((resolve) => { ws.once("close", resolve); ws.close(1000); });
assert.equal(code, 1000);
console.log(`npm ws ${require("ws/package.json").version}: ${messages.length} messages, a ping and a close`);
