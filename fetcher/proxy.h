/* SPDX-License-Identifier: MIT */
/*
 * The HTTP proxy that responders are reached through, and those that are reached without it. Pure.
 */
#ifndef OCSPRELOAD_PROXY_H
#define OCSPRELOAD_PROXY_H

#include "http.h"

struct proxy {
	struct url url;
	char credentials[256]; /* "name:password", or "" */
};

/*
 * Parses [http://][name[:password]@]host[:port], in which name and password may be percent-encoded,
 * with the word "direct" after it or not.
 * Returns NULL, or why it cannot be used, in words that do not repeat the password.
 */
const char *proxy_parse(const char *text, struct proxy *proxy);

/* True if the responder may be asked itself while the proxy of this text is down: "direct". */
bool proxy_may_be_passed_by(const char *text);

/*
 * True if the list of no_proxy has url's host in it. Its entries are separated by commas or spaces:
 * "*" for all, a name for itself and all that ends in it at a dot ("example.org", ".example.org"
 * and "*.example.org" are the same), an address, or a network such as "10.0.0.0/8"; each but "*"
 * and a network may end in a port, and an IPv6 address may, and for a port must, stand in brackets.
 * Names are not looked up: networks are for URLs with an address. list may be NULL.
 */
bool proxy_is_excluded(const char *list, const struct url *url);

#endif
