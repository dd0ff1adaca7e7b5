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
 * The way to where one errand leads: zero at first, and the same for all its requests. Who asks
 * directly once does so to its end.
 */
struct proxy_way {
	bool through_proxy; /* the next request; to proxy.url */
	bool is_direct;     /* the proxy did not answer */
	struct proxy proxy;
};

/*
 * Chooses the way of a request for url, by OCSPRELOAD_HTTP_PROXY (text; NULL: there is none) and
 * no_proxy (excluded). back is what proxy_pass_by has left there, 0 at first. Returns NULL, or why
 * the proxy cannot be used.
 */
const char *proxy_choose(struct proxy_way *way, const char *text, const char *excluded,
	const struct url *url, int64_t back, int64_t now);

/*
 * To be asked when an exchange on this way failed. True if it may be tried once more, past the
 * proxy; *back is then until when nobody need try it (steady clock, as now, in milliseconds).
 */
bool proxy_pass_by(struct proxy_way *way, const char *text, int64_t *back, int64_t now);

/*
 * True if the list of no_proxy has url's host in it. Its entries are separated by commas or spaces:
 * "*" for all, a name for itself and all that ends in it at a dot ("example.org", ".example.org"
 * and "*.example.org" are the same), an address, or a network such as "10.0.0.0/8"; each but "*"
 * and a network may end in a port, and an IPv6 address may, and for a port must, stand in brackets.
 * Names are not looked up: networks are for URLs with an address. list may be NULL.
 */
bool proxy_is_excluded(const char *list, const struct url *url);

#endif
