/* SPDX-License-Identifier: MIT */
#include "fetch.h"

#include "exchange.h"
#include "http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { URL_SIZE = 1024 };

struct fetch {
	const struct fetch_tools *tools;
	struct bytes certificate;
	struct bytes issuer;
	struct buffer request; /* the OCSPRequest */
	const char *remaining; /* responders not yet tried */
	char responder[URL_SIZE];
	struct exchange *exchange; /* with responder, or with the proxy; NULL: start the next */
	struct judgement judgement;
	char why[256];
};

struct fetch *fetch_start(const struct fetch_tools *tools, struct bytes certificate,
	struct bytes issuer, const char *responders)
{
	struct fetch *fetch = calloc(1, sizeof(*fetch));

	if (!fetch)
		return NULL;
	fetch->tools = tools;
	fetch->certificate = certificate;
	fetch->issuer = issuer;
	fetch->remaining = responders;
	snprintf(fetch->why, sizeof(fetch->why), "the certificate names no responder");
	if (!ocsp_request(tools->crypto, certificate, issuer, &fetch->request)) {
		fetch_free(fetch);
		return NULL;
	}
	return fetch;
}

void fetch_free(struct fetch *fetch)
{
	if (!fetch)
		return;
	exchange_free(fetch->exchange);
	buffer_free(&fetch->request);
	free(fetch);
}

/* no_proxy: names that match as they are or as the end of host at a dot, or "*". */
static bool proxy_is_for(const struct config *config, const char *host)
{
	const char *list = config->no_proxy ? config->no_proxy : "";
	size_t host_size = strlen(host);

	if (!config->http_proxy)
		return false;
	while (*list) {
		size_t size = strcspn(list, " ,");
		const char *name = list;

		list += size;
		list += strspn(list, " ,");
		if (size == 1 && *name == '*')
			return false;
		if (size > 0 && *name == '.') {
			name++;
			size--;
		}
		if (size == 0 || size > host_size)
			continue;
		if (strncasecmp(host + host_size - size, name, size) == 0 &&
			(size == host_size || host[host_size - size - 1] == '.'))
			return false;
	}
	return true;
}

static const char *start_exchange(struct fetch *fetch, int64_t now)
{
	const struct config *config = fetch->tools->config;
	struct buffer request = {0};
	struct url url, proxy;
	const char *why = url_parse(fetch->responder, &url);
	bool through_proxy = !why && proxy_is_for(config, url.host);

	if (!why && through_proxy)
		why = url_parse(config->http_proxy, &proxy);
	if (why)
		return why;
	if (http_format_request(&request, &url, buffer_bytes(&fetch->request), through_proxy))
		fetch->exchange =
			exchange_start(fetch->tools->resolver, through_proxy ? &proxy : &url,
				buffer_bytes(&request), now + config->timeout);
	buffer_free(&request);
	return fetch->exchange ? NULL : "memory ran out";
}

/* False if there is none left. */
static bool next_responder(struct fetch *fetch)
{
	const char *from = fetch->remaining + strspn(fetch->remaining, " ");
	size_t size = strcspn(from, " ");

	fetch->remaining = from + size;
	if (size >= sizeof(fetch->responder))
		size = sizeof(fetch->responder) - 1;
	if (size == 0)
		return false;
	memcpy(fetch->responder, from, size);
	fetch->responder[size] = '\0';
	return true;
}

static void give_up_exchange(struct fetch *fetch, const char *why)
{
	snprintf(fetch->why, sizeof(fetch->why), "%s", why);
	exchange_free(fetch->exchange);
	fetch->exchange = NULL;
}

/* True if the answer is to be believed. */
static bool judge_answer(struct fetch *fetch, int64_t now)
{
	const struct http_reader *answer = exchange_response(fetch->exchange);
	char why[64];

	if (answer->status != 200) {
		snprintf(why, sizeof(why), "HTTP status %d", answer->status);
		give_up_exchange(fetch, why);
		return false;
	}
	fetch->judgement = ocsp_judge(fetch->tools->crypto, buffer_bytes(&answer->body),
		fetch->certificate, fetch->issuer, now / 1000);
	if (fetch->judgement.verdict <= VERDICT_UNKNOWN)
		return true;
	give_up_exchange(fetch, verdict_text(fetch->judgement.verdict));
	return false;
}

struct pollfd fetch_poll(const struct fetch *fetch, int64_t now, int *timeout)
{
	if (fetch->exchange)
		return exchange_poll(fetch->exchange, now, timeout);
	*timeout = 0;
	return (struct pollfd){-1, 0, 0};
}

enum fetch_state fetch_step(
	struct fetch *fetch, short revents, int64_t now_steady, int64_t now_wall)
{
	for (;; revents = 0) {
		enum exchange_state state;
		const char *why;

		if (!fetch->exchange) {
			if (!next_responder(fetch))
				return FETCH_FAILED;
			why = start_exchange(fetch, now_steady);
			if (why) {
				give_up_exchange(fetch, why);
				continue;
			}
		}
		state = exchange_step(fetch->exchange, revents, now_steady);
		if (state == EXCHANGE_FAILED) {
			give_up_exchange(fetch, exchange_why(fetch->exchange));
		} else if (state == EXCHANGE_DONE) {
			if (judge_answer(fetch, now_wall))
				return FETCH_ANSWERED;
		} else {
			return FETCH_RUNNING;
		}
	}
}

struct judgement fetch_judgement(const struct fetch *fetch)
{
	return fetch->judgement;
}

struct bytes fetch_response(const struct fetch *fetch)
{
	return buffer_bytes(&exchange_response(fetch->exchange)->body);
}

const char *fetch_responder(const struct fetch *fetch)
{
	return fetch->responder;
}

const char *fetch_why(const struct fetch *fetch)
{
	return fetch->why;
}
