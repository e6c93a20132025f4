"""Echoes messages of every kind and size through a WebSocket: url host [ca]."""
import asyncio, os, ssl, sys
import websockets

async def main(url, host, ca):
    options = {}
    if ca:
        options["ssl"] = ssl.create_default_context(cafile=ca)
    else:
        options["extra_headers"] = {}
    address = url
    if not ca:  # the sidecar goes by Host
        scheme, rest = url.split("://")
        where, path = rest.split("/", 1)
        name, port = where.split(":")
        address = f"{scheme}://{host}/{path}"
        options.update(host=name, port=int(port))
    messages = ["", "hello", "ü" * 1000, "x" * 200_000, b"", bytes(range(256)), os.urandom(200_000)]
    async with websockets.connect(address, **options) as ws:
        for m in messages:
            await ws.send(m)
            assert await ws.recv() == m, f"{len(m)} came back as something else"
        waiter = await ws.ping(b"here")
        await asyncio.wait_for(waiter, 5)
    assert ws.close_code == 1000, ws.close_code
    print(f"python websockets {websockets.__version__}: {len(messages)} messages, a ping and a close")

asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""))
