// Devices of the library mqtt.js: MQTT 5. Arguments: host, port, the first device's number, how many.
const mqtt = require('mqtt')
const [host, port, first, count] = process.argv.slice(1)
let stopping = false
let pending = 0
for (let device = Number(first); device < Number(first) + Number(count); device++) {
  const client = mqtt.connect({
    host, port: Number(port), clientId: 'node-' + device, protocolVersion: 5, clean: false,
    properties: { sessionExpiryInterval: 3600 }, reconnectPeriod: 100, connectTimeout: 5000,
  })
  client.on('error', () => {}) // it connects again
  let n = 0
  const next = () => {
    if (stopping) return
    const text = device + ' ' + n++
    pending++
    client.publish('devices/d' + device + '/telemetry', text, { qos: 1 }, (err, packet) => {
      pending--
      if (!err) process.stdout.write(text + '\n')
      setImmediate(next)
    })
  }
  for (let i = 0; i < 16; i++) next()
}
process.stdin.resume()
process.stdin.on('end', () => {
  stopping = true
  const began = Date.now()
  setInterval(() => { if (pending === 0 || Date.now() - began > 20000) process.exit(0) }, 50)
})
