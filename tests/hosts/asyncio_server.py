# SPDX-License-Identifier: MIT
"""
usage: asyncio_server.py PORT CHAIN.pem KEY.pem

Says hello to each line. SIGHUP has it load the certificate again.
"""

import asyncio
import signal
import ssl
import sys


async def serve(reader, writer):
    await reader.readline()
    writer.write(b"hello")
    await writer.drain()
    writer.close()


async def main(port, chain, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, context.load_cert_chain, chain, key)
    server = await asyncio.start_server(serve, "127.0.0.1", int(port), ssl=context)
    async with server:
        await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
