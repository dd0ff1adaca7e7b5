/* SPDX-License-Identifier: MIT */
#include "fetch.h"

#include "exchange.h"
#include "freshness.h"
#include "http.h"
#include "log.h"
#include "proxy.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	URL_SIZE = 1024,
	REDIRECTS = 3,   /* a responder that needs more is a circle */
	SHOWN_URL = 200, /* of a URL that somebody else wrote, in words */
};

struct fetch {
	struct fetch_tools *tools;
	struct bytes certificate;
	struct bytes issuer;
	struct fetch_validators validators; /* the caller's, then the answer's */
	struct buffer request;              /* the OCSPRequest */
	const char *remaining;              /* responders not yet tried */

	/* About the responder at hand. */
	char responder[URL_SIZE];
	int64_t deadline;       /* for all that has to be asked of it */
	bool by_post;           /* GET was refused, now or earlier */
	int get_status;         /* with which it was now; else 0 */
	unsigned redirects;     /* followed so far */
	enum address_kind home; /* once redirected: where the responder itself is */

	/* About the request at hand. */
	struct url url; /* of a GET: with the request in it */
	bool is_post;
	bool is_conditional;
	struct proxy_way way;
	int64_t started;
	struct exchange *exchange; /* with url's host, or the proxy; NULL: to the next responder */

	struct judgement judgement;
	int64_t fresh_until;
	int64_t retry_after; /* the shortest so far; -1: nobody was asked */
	enum fetch_fault fault;
	char why[512];
};

struct fetch *fetch_start(struct fetch_tools *tools, struct bytes certificate, struct bytes issuer,
	const char *responders, const struct fetch_validators *validators)
{
	struct fetch *fetch = calloc(1, sizeof(*fetch));

	if (!fetch)
		return NULL;
	fetch->tools = tools;
	fetch->certificate = certificate;
	fetch->issuer = issuer;
	fetch->remaining = responders;
	fetch->retry_after = -1;
	if (validators)
		fetch->validators = *validators;
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

/*
 * What is remembered of a URL: FNV-1a, never 0. Who makes two collide gains a POST, or a condition
 * that does not apply.
 */
static uint64_t hash_text(uint64_t hash, const char *text)
{
	for (; *text; text++)
		hash = (hash ^ (unsigned char)*text) * 1099511628211U;
	return hash;
}

static uint64_t url_hash(const char *authority, const char *path)
{
	uint64_t hash = hash_text(hash_text(14695981039346656037U, authority), path);

	return hash ? hash : 1;
}

/* The responder's place in the memory, or NULL. */
static uint64_t *find_post(const struct fetch *fetch)
{
	struct fetch_memory *memory = &fetch->tools->memory;
	uint64_t hash = url_hash(fetch->responder, "");

	for (size_t i = 0; i < sizeof(memory->posts) / sizeof(*memory->posts); i++)
		if (memory->posts[i] == hash)
			return &memory->posts[i];
	return NULL;
}

static void remember_post(struct fetch *fetch)
{
	struct fetch_memory *memory = &fetch->tools->memory;

	if (find_post(fetch))
		return;
	memory->posts[memory->next++] = url_hash(fetch->responder, "");
	memory->next %= sizeof(memory->posts) / sizeof(*memory->posts);
}

/* A responder that was replaced may want GET again. */
static void forget_post(struct fetch *fetch)
{
	uint64_t *post = find_post(fetch);

	if (post)
		*post = 0;
}

/*
 * The end of a responder
 */

static void set_why(struct fetch *fetch, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void set_why(struct fetch *fetch, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(fetch->why, sizeof(fetch->why), format, arguments);
	va_end(arguments);
}

/* With why set. */
static void give_up(struct fetch *fetch)
{
	exchange_free(fetch->exchange);
	fetch->exchange = NULL;
}

/* What whoever answers, or does not, has to do with it. */
static void give_up_exchange(struct fetch *fetch, const char *why)
{
	char get[64] = "";

	if (fetch->get_status)
		snprintf(get, sizeof(get), " (POST, after HTTP status %d to GET)",
			fetch->get_status);
	if (fetch->way.through_proxy)
		set_why(fetch, "the proxy %s: %s%s", fetch->way.proxy.url.authority, why, get);
	else
		set_why(fetch, "%s%s", why, get);
	give_up(fetch);
}

static void note_retry_after(struct fetch *fetch, int64_t wait)
{
	if (fetch->retry_after < 0 || wait < fetch->retry_after)
		fetch->retry_after = wait;
}

/*
 * A request
 */

static const char *choose_proxy(struct fetch *fetch, int64_t now)
{
	const struct config *config = fetch->tools->config;

	return proxy_choose(&fetch->way, config->http_proxy, config->no_proxy, &fetch->url,
		fetch->tools->memory.proxy_back, now);
}

/* Asks fetch->url. Returns NULL, or why that is not possible. */
static const char *start_exchange(struct fetch *fetch, int64_t now)
{
	const struct fetch_validators *validators = &fetch->validators;
	struct connections *connections = fetch->tools->connections;
	struct http_request request = {.url = &fetch->url, .is_last = !connections};
	struct buffer text = {0};
	const char *why = choose_proxy(fetch, now);

	if (why)
		return why;
	fetch->started = now;
	fetch->is_conditional =
		!fetch->is_post && validators->resource != 0 &&
		validators->resource == url_hash(fetch->url.authority, fetch->url.path);
	if (fetch->is_post)
		request.content = buffer_bytes(&fetch->request);
	request.through_proxy = fetch->way.through_proxy;
	request.credentials = fetch->way.proxy.credentials;
	if (fetch->is_conditional) {
		request.etag = validators->etag;
		request.last_modified = validators->last_modified;
	}
	if (http_format_request(&text, &request))
		fetch->exchange = exchange_start(fetch->tools->resolver,
			fetch->way.through_proxy ? &fetch->way.proxy.url : &fetch->url,
			buffer_bytes(&text), fetch->deadline);
	buffer_free(&text);
	if (!fetch->exchange)
		return "memory ran out";
	exchange_reuse(fetch->exchange, connections);
	return NULL;
}

/* From the responder's own URL. */
static const char *ask_responder(struct fetch *fetch, int64_t now)
{
	struct url url;
	const char *why = url_parse(fetch->responder, &url);

	if (why)
		return why;
	fetch->redirects = 0;
	fetch->is_post =
		fetch->by_post || !http_get_url(&url, buffer_bytes(&fetch->request), &fetch->url);
	if (fetch->is_post)
		fetch->url = url;
	return start_exchange(fetch, now);
}

/* False if there is none left. */
static bool next_responder(struct fetch *fetch, int64_t now)
{
	const char *from = fetch->remaining + strspn(fetch->remaining, " ");
	size_t size = strcspn(from, " ");
	const char *why;

	fetch->remaining = from + size;
	if (size >= sizeof(fetch->responder))
		size = sizeof(fetch->responder) - 1;
	if (size == 0)
		return false;
	memcpy(fetch->responder, from, size);
	fetch->responder[size] = '\0';
	fetch->deadline = now + fetch->tools->config->timeout;
	fetch->by_post = find_post(fetch) != NULL;
	fetch->get_status = 0;
	fetch->fault = FETCH_FAULT_ANSWER;
	why = ask_responder(fetch, now);
	if (why)
		set_why(fetch, "%s", why);
	return true;
}

/* Where the proxy does not answer, the responder may. False if it is not to be asked itself. */
static bool pass_proxy_by(struct fetch *fetch, int64_t now)
{
	struct fetch_tools *tools = fetch->tools;
	const char *why;

	if (!proxy_pass_by(&fetch->way, tools->config->http_proxy, &tools->memory.proxy_back, now))
		return false;
	log_debug("the proxy %s: %s; asking %s directly", fetch->way.proxy.url.authority,
		exchange_why(fetch->exchange), fetch->responder);
	give_up(fetch);
	fetch->deadline = now + tools->config->timeout;
	why = ask_responder(fetch, now);
	if (why)
		set_why(fetch, "%s", why);
	return true;
}

/*
 * Answers
 */

static bool is_redirect(int status)
{
	return status == 301 || status == 302 || status == 307 || status == 308;
}

/*
 * What GET gets from responders that know POST only: the method (405, 501) or the syntax (400) is
 * refused, or nothing is found at a path with a request in it (404), or that is too long (414). 403
 * and 5xx are not among them: they would say the same to a POST.
 */
static bool refuses_get(int status)
{
	return status == 400 || status == 404 || status == 405 || status == 414 || status == 501;
}

/* Whether a redirect may lead to fetch->url; exchange_restrict judges the addresses of a name. */
static bool may_be_led_to(const struct fetch *fetch)
{
	enum address_kind kind = address_kind_of_host(fetch->url.host);

	return kind == ADDRESS_PUBLIC || kind == fetch->home;
}

/*
 * A public responder must not be able to have requests made inside this machine or its network. One
 * that is there itself may, but only among its kind: not from an intranet to a cloud's metadata.
 *
 * A GET has the request in its URL, and the redirect tells the whole new one. A POST stays a POST,
 * also after 301 and 302, where RFC 9110, 15.4.2 allows either: its content is the question.
 */
static const char *follow_redirect(struct fetch *fetch, int64_t now)
{
	const struct http_reader *answer = exchange_response(fetch->exchange);
	struct url target;
	const char *why;

	if (!answer->location[0])
		return "it has no Location that can be used";
	if (fetch->redirects == REDIRECTS)
		return "it is one too many";
	why = url_resolve(&fetch->url, answer->location, &target);
	if (why)
		return why;
	if (fetch->redirects++ == 0)
		fetch->home = fetch->way.through_proxy ? address_kind_of_host(fetch->url.host)
						       : exchange_peer_kind(fetch->exchange);
	fetch->url = target;
	if (!may_be_led_to(fetch))
		return "that is a loopback, private or link-local address";
	exchange_free(fetch->exchange);
	fetch->exchange = NULL;
	why = start_exchange(fetch, now);
	/* What the name means is the proxy's to judge where there is one. */
	if (!why && !fetch->way.through_proxy)
		exchange_restrict(fetch->exchange, fetch->home);
	return why;
}

static void take_redirect(struct fetch *fetch, int64_t now)
{
	const struct http_reader *answer = exchange_response(fetch->exchange);
	char location[SHOWN_URL + 1];
	int status = answer->status;
	const char *why;

	snprintf(location, sizeof(location), "%.*s", SHOWN_URL, answer->location);
	why = follow_redirect(fetch, now);
	if (!why)
		return;
	note_retry_after(fetch, 0);
	set_why(fetch, "the redirect to \"%s\" (HTTP status %d) is not followed: %s", location,
		status, why);
	give_up(fetch);
}

static void take_refused_get(struct fetch *fetch, int status, int64_t now)
{
	const char *why;

	exchange_free(fetch->exchange);
	fetch->exchange = NULL;
	fetch->by_post = true;
	fetch->get_status = status;
	why = ask_responder(fetch, now);
	if (why)
		set_why(fetch, "%s", why);
}

/* A proxy answers in the responder's place, and only some statuses tell. */
static void describe_status(const struct fetch *fetch, int status, char *text, size_t room)
{
	const char *words = "";

	if (fetch->way.through_proxy && status == 407)
		words = fetch->way.proxy.credentials[0]
				? "it does not accept our user name and password, "
				: "it wants a user name and a password, ";
	else if (fetch->way.through_proxy && status == 403)
		words = "it, or the responder behind it, forbids the request, ";
	else if (fetch->way.through_proxy && status >= 502 && status <= 504)
		words = "it has no answer of the responder, ";
	snprintf(text, room, "%sHTTP status %d", words, status);
}

static void take_other_status(struct fetch *fetch, int64_t now_wall)
{
	const struct http_reader *answer = exchange_response(fetch->exchange);
	int64_t wait = freshness_retry_after(&answer->freshness, now_wall);
	char why[128];

	note_retry_after(fetch, wait);
	if (answer->status >= 500 || answer->status == 429 || wait > 0)
		fetch->fault = FETCH_FAULT_RESPONDER;
	if (fetch->is_post && refuses_get(answer->status))
		forget_post(fetch);
	describe_status(fetch, answer->status, why, sizeof(why));
	give_up_exchange(fetch, why);
}

static void keep_validators(struct fetch *fetch)
{
	const struct http_reader *answer = exchange_response(fetch->exchange);
	struct fetch_validators *kept = &fetch->validators;

	memset(kept, 0, sizeof(*kept));
	if (fetch->is_post || (!answer->etag[0] && !answer->last_modified[0]))
		return;
	kept->resource = url_hash(fetch->url.authority, fetch->url.path);
	memcpy(kept->etag, answer->etag, sizeof(kept->etag));
	memcpy(kept->last_modified, answer->last_modified, sizeof(kept->last_modified));
}

/* RFC 9110, 15.4.5: what it does not repeat is as it was. */
static void update_validators(struct fetch *fetch)
{
	const struct http_reader *answer = exchange_response(fetch->exchange);
	struct fetch_validators *kept = &fetch->validators;

	if (answer->etag[0])
		memcpy(kept->etag, answer->etag, sizeof(kept->etag));
	if (answer->last_modified[0])
		memcpy(kept->last_modified, answer->last_modified, sizeof(kept->last_modified));
}

static void note_freshness(struct fetch *fetch, int64_t now_steady, int64_t now_wall)
{
	const struct http_reader *answer = exchange_response(fetch->exchange);

	/* Caches keep no answer to a POST. */
	if (!fetch->is_post)
		fetch->fresh_until =
			freshness_until(&answer->freshness, now_wall, now_steady - fetch->started);
}

/*
 * True if the answer is to be believed. What says that the request is malformed does not read it
 * out of a path, of which some take what is encoded for another segment: it may out of a POST.
 */
static bool judge_answer(struct fetch *fetch, int64_t now_steady, int64_t now_wall)
{
	const struct http_reader *answer = exchange_response(fetch->exchange);
	bool is_malformed;

	fetch->judgement = ocsp_judge(fetch->tools->crypto, buffer_bytes(&answer->body),
		fetch->certificate, fetch->issuer, now_wall / 1000);
	is_malformed = fetch->judgement.verdict == VERDICT_MALFORMED_REQUEST;
	if (is_malformed && !fetch->is_post) {
		take_refused_get(fetch, answer->status, now_steady);
		return false;
	}
	if (is_malformed)
		forget_post(fetch);
	else if (fetch->get_status)
		remember_post(fetch);
	if (fetch->judgement.verdict <= VERDICT_UNKNOWN)
		return true;
	note_retry_after(fetch, freshness_retry_after(&answer->freshness, now_wall));
	if (fetch->judgement.verdict == VERDICT_UNAUTHORIZED)
		fetch->fault = FETCH_FAULT_UNAUTHORIZED;
	set_why(fetch, "%s", verdict_text(fetch->judgement.verdict));
	give_up(fetch);
	return false;
}

/* Who says anything at all is there for others, whatever is wrong with what it says. */
static enum fetch_fault fault_of_broken(const struct fetch *fetch)
{
	return exchange_response(fetch->exchange)->seen > 0 ? FETCH_FAULT_ANSWER
							    : FETCH_FAULT_RESPONDER;
}

/* FETCH_RUNNING: there is another exchange, or none and the responder is given up. */
static enum fetch_state take_answer(struct fetch *fetch, int64_t now_steady, int64_t now_wall)
{
	int status = exchange_response(fetch->exchange)->status;

	if (status == 200) {
		if (!judge_answer(fetch, now_steady, now_wall))
			return FETCH_RUNNING;
		keep_validators(fetch);
		note_freshness(fetch, now_steady, now_wall);
		return FETCH_ANSWERED;
	}
	if (status == 304 && fetch->is_conditional) {
		update_validators(fetch);
		note_freshness(fetch, now_steady, now_wall);
		return FETCH_UNCHANGED;
	}
	if (is_redirect(status))
		take_redirect(fetch, now_steady);
	else if (!fetch->is_post && refuses_get(status))
		take_refused_get(fetch, status, now_steady);
	else
		take_other_status(fetch, now_wall);
	return FETCH_RUNNING;
}

/*
 * The whole
 */

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
		enum exchange_state exchange;
		enum fetch_state state;

		if (!fetch->exchange && !next_responder(fetch, now_steady))
			return FETCH_FAILED;
		if (!fetch->exchange)
			continue;
		exchange = exchange_step(fetch->exchange, revents, now_steady);
		if (exchange == EXCHANGE_FAILED && pass_proxy_by(fetch, now_steady))
			continue;
		if (exchange == EXCHANGE_FAILED) {
			note_retry_after(fetch, 0);
			fetch->fault = fault_of_broken(fetch);
			give_up_exchange(fetch, exchange_why(fetch->exchange));
		} else if (exchange == EXCHANGE_DONE) {
			state = take_answer(fetch, now_steady, now_wall);
			if (state != FETCH_RUNNING)
				return state;
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

const struct fetch_validators *fetch_validators(const struct fetch *fetch)
{
	return &fetch->validators;
}

int64_t fetch_fresh_until(const struct fetch *fetch)
{
	return fetch->fresh_until;
}

enum fetch_fault fetch_fault(const struct fetch *fetch)
{
	return fetch->fault;
}

int64_t fetch_retry_after(const struct fetch *fetch)
{
	return fetch->retry_after > 0 ? fetch->retry_after : 0;
}

const char *fetch_responder(const struct fetch *fetch)
{
	return fetch->responder;
}

const char *fetch_why(const struct fetch *fetch)
{
	return fetch->why;
}
