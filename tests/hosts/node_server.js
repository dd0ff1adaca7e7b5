// SPDX-License-Identifier: MIT
// usage: node node_server.js PORT CHAIN.pem KEY.pem [NAME=PEM...]; SIGHUP: CHAIN and KEY anew
// Serves at descriptor 3 if one is handed over, as systemd does it.
"use strict";

const fs = require("fs");
const https = require("https");
const tls = require("tls");

const [port, cert, key, ...named] = process.argv.slice(2);
const contexts = new Map();

for (const word of named) {
  const [name, file] = word.split("=");
  const both = fs.readFileSync(file);
  contexts.set(name, tls.createSecureContext({ cert: both, key: both }));
}

const load = () => ({ cert: fs.readFileSync(cert), key: fs.readFileSync(key) });

const server = https.createServer(
  { ...load(), SNICallback: (name, done) => done(null, contexts.get(name)) },
  (request, response) => response.end("hello"),
);

process.on("SIGHUP", () => server.setSecureContext(load()));
server.listen(process.env.LISTEN_FDS ? { fd: 3 } : { port: Number(port), host: "127.0.0.1" });
