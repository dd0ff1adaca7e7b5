/* SPDX-License-Identifier: MIT */
#include "aia.h"

#include "certificate.h"
#include "exchange.h"
#include "http.h"
#include "issuer.h"
#include "log.h"
#include "proxy.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	REDIRECTS = 3,
	SHOWN_URL = 200, /* of a URL that somebody else wrote, in words */
};

struct aia {
	struct fetch_tools *tools;
	struct certificate certificate;
	const char *remaining; /* URLs not yet tried */

	/* About the URL at hand. */
	char place[CERTIFICATE_URLS_SIZE];
	int64_t deadline;
	unsigned redirects;     /* followed so far */
	enum address_kind home; /* once redirected: where the first server is */
	struct url url;
	struct proxy_way way;
	struct exchange *exchange; /* NULL: to the next URL */

	struct buffer issuer;
	char why[512];
};

struct aia *aia_start(struct fetch_tools *tools, struct bytes certificate)
{
	struct aia *aia = calloc(1, sizeof(*aia));
	bool known;

	if (!aia)
		return NULL;
	tools->crypto->ERR_set_mark();
	known = certificate_decode(tools->crypto, certificate, &aia->certificate);
	tools->crypto->ERR_pop_to_mark();
	if (!known || !aia->certificate.issuers[0]) {
		aia_free(aia);
		return NULL;
	}
	aia->tools = tools;
	aia->remaining = aia->certificate.issuers;
	return aia;
}

void aia_free(struct aia *aia)
{
	if (!aia)
		return;
	exchange_free(aia->exchange);
	certificate_free(&aia->certificate);
	buffer_free(&aia->issuer);
	free(aia);
}

static void set_why(struct aia *aia, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void set_why(struct aia *aia, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(aia->why, sizeof(aia->why), format, arguments);
	va_end(arguments);
}

/* The one place where an exchange ends. */
static void end_exchange(struct aia *aia)
{
	exchange_free(aia->exchange);
	aia->exchange = NULL;
}

/* What whoever answers, or does not, has to do with it. */
static void give_up_exchange(struct aia *aia, const char *why)
{
	if (aia->way.through_proxy)
		set_why(aia, "the proxy %s: %s", aia->way.proxy.url.authority, why);
	else
		set_why(aia, "%s", why);
	end_exchange(aia);
}

/* Asks aia->url. Returns NULL, or why that is not possible. */
static const char *start_exchange(struct aia *aia, int64_t now)
{
	const struct config *config = aia->tools->config;
	struct http_request request = {.url = &aia->url, .accept = "*/*", .is_last = true};
	struct buffer text = {0};
	const char *why = proxy_choose(&aia->way, config->http_proxy, config->no_proxy, &aia->url,
		aia->tools->memory.proxy_back, now);

	if (why)
		return why;
	request.through_proxy = aia->way.through_proxy;
	request.credentials = aia->way.proxy.credentials;
	if (http_format_request(&text, &request))
		aia->exchange = exchange_start(aia->tools->resolver,
			aia->way.through_proxy ? &aia->way.proxy.url : &aia->url,
			buffer_bytes(&text), aia->deadline);
	buffer_free(&text);
	return aia->exchange ? NULL : "memory ran out";
}

/* From the place's own URL. */
static void ask_place(struct aia *aia, int64_t now)
{
	const char *why = url_parse(aia->place, &aia->url);

	aia->deadline = now + aia->tools->config->timeout;
	aia->redirects = 0;
	if (!why)
		why = start_exchange(aia, now);
	if (why)
		set_why(aia, "%s", why);
}

/* False if there is none left. */
static bool next_place(struct aia *aia, int64_t now)
{
	const char *from = aia->remaining + strspn(aia->remaining, " ");
	size_t size = strcspn(from, " ");

	aia->remaining = from + size;
	if (size == 0)
		return false;
	memcpy(aia->place, from, size);
	aia->place[size] = '\0';
	ask_place(aia, now);
	return true;
}

/* As with a responder: false if the place is not to be asked itself. */
static bool pass_proxy_by(struct aia *aia, int64_t now)
{
	struct fetch_tools *tools = aia->tools;

	if (!proxy_pass_by(&aia->way, tools->config->http_proxy, &tools->memory.proxy_back, now))
		return false;
	log_debug("the proxy %s: %s; asking %s directly", aia->way.proxy.url.authority,
		exchange_why(aia->exchange), aia->place);
	end_exchange(aia);
	ask_place(aia, now);
	return true;
}

/*
 * Answers
 */

static bool is_redirect(int status)
{
	return status == 301 || status == 302 || status == 307 || status == 308;
}

/* By the rules that a responder's redirects are followed by: see fetch.c. */
static const char *follow_redirect(struct aia *aia, int64_t now)
{
	const struct http_reader *answer = exchange_response(aia->exchange);
	enum address_kind kind;
	struct url target;
	const char *why;

	if (!answer->location[0])
		return "it has no Location that can be used";
	if (aia->redirects == REDIRECTS)
		return "it is one too many";
	why = url_resolve(&aia->url, answer->location, &target);
	if (why)
		return why;
	if (aia->redirects++ == 0)
		aia->home = aia->way.through_proxy ? address_kind_of_host(aia->url.host)
						   : exchange_peer_kind(aia->exchange);
	kind = address_kind_of_host(target.host);
	if (kind != ADDRESS_PUBLIC && kind != aia->home)
		return "that is a loopback, private or link-local address";
	aia->url = target;
	end_exchange(aia);
	why = start_exchange(aia, now);
	if (!why && !aia->way.through_proxy)
		exchange_restrict(aia->exchange, aia->home);
	return why;
}

static void take_redirect(struct aia *aia, int64_t now)
{
	const struct http_reader *answer = exchange_response(aia->exchange);
	char location[SHOWN_URL + 1];
	int status = answer->status;
	const char *why;

	snprintf(location, sizeof(location), "%.*s", SHOWN_URL, answer->location);
	why = follow_redirect(aia, now);
	if (!why)
		return;
	set_why(aia, "the redirect to \"%s\" (HTTP status %d) is not followed: %s", location,
		status, why);
	end_exchange(aia);
}

/* True if it is there. */
static bool take_content(struct aia *aia, int64_t now_wall)
{
	const struct libcrypto *crypto = aia->tools->crypto;
	struct bytes content = buffer_bytes(&exchange_response(aia->exchange)->body);
	struct bytes certificate = buffer_bytes(&aia->certificate.der);
	struct issuer_weight weight;
	bool found =
		issuer_from_content(crypto, certificate, content, now_wall / 1000, &aia->issuer);

	if (!found)
		set_why(aia, "what is there is not the certificate that signed this one");
	else if (!issuer_weigh(crypto, certificate, buffer_bytes(&aia->issuer), now_wall / 1000,
			 &weight) ||
		 !weight.is_in_time)
		set_why(aia, "the certificate that is there has expired or is not valid yet");
	else
		return true;
	buffer_free(&aia->issuer);
	end_exchange(aia);
	return false;
}

static bool take_answer(struct aia *aia, int64_t now_steady, int64_t now_wall)
{
	int status = exchange_response(aia->exchange)->status;
	char why[32];

	if (status == 200)
		return take_content(aia, now_wall);
	if (is_redirect(status)) {
		take_redirect(aia, now_steady);
	} else {
		snprintf(why, sizeof(why), "HTTP status %d", status);
		give_up_exchange(aia, why);
	}
	return false;
}

/*
 * The whole
 */

struct pollfd aia_poll(const struct aia *aia, int64_t now, int *timeout)
{
	if (aia->exchange)
		return exchange_poll(aia->exchange, now, timeout);
	*timeout = 0;
	return (struct pollfd){-1, 0, 0};
}

enum aia_state aia_step(struct aia *aia, short revents, int64_t now_steady, int64_t now_wall)
{
	for (;; revents = 0) {
		enum exchange_state exchange;

		if (!aia->exchange && !next_place(aia, now_steady))
			return AIA_FAILED;
		if (!aia->exchange)
			continue;
		exchange = exchange_step(aia->exchange, revents, now_steady);
		if (exchange == EXCHANGE_FAILED && pass_proxy_by(aia, now_steady))
			continue;
		if (exchange == EXCHANGE_FAILED)
			give_up_exchange(aia, exchange_why(aia->exchange));
		else if (exchange != EXCHANGE_DONE)
			return AIA_RUNNING;
		else if (take_answer(aia, now_steady, now_wall))
			return AIA_FOUND;
	}
}

struct bytes aia_issuer(const struct aia *aia)
{
	return buffer_bytes(&aia->issuer);
}

const char *aia_url(const struct aia *aia)
{
	return aia->place;
}

const char *aia_why(const struct aia *aia)
{
	return aia->why;
}
