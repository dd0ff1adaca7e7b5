/* SPDX-License-Identifier: MIT */
#include "network.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct step script[SCRIPT_STEPS];
size_t asked;
int exchanges;

struct exchange {
	struct step *step;
	struct http_reader reader;
	const char *why;
};

void set_script(const char *const *answers)
{
	memset(script, 0, sizeof(script));
	asked = 0;
	for (size_t i = 0; answers[i]; i++)
		script[i].answer = answers[i];
}

struct exchange *exchange_start(
	struct resolver *resolver, const struct url *peer, struct bytes request, int64_t deadline)
{
	struct exchange *exchange = calloc(1, sizeof(*exchange));
	struct step *step = &script[asked < SCRIPT_STEPS - 1 ? asked++ : asked];

	(void)resolver;
	if (!exchange)
		return NULL;
	snprintf(step->peer, sizeof(step->peer), "%s", peer->authority);
	snprintf(step->request, sizeof(step->request), "%.*s", (int)request.size,
		(const char *)request.data);
	step->deadline = deadline;
	exchange->step = step;
	exchange->why = step->why ? step->why : "connection refused";
	http_reader_init(&exchange->reader, EXCHANGE_LIMIT);
	exchanges++;
	return exchange;
}

void exchange_restrict(struct exchange *exchange, enum address_kind kind)
{
	exchange->step->restricted = true;
	exchange->step->allowed = kind;
}

void exchange_reuse(struct exchange *exchange, struct connections *connections)
{
	exchange->step->connections = connections;
}

void exchange_free(struct exchange *exchange)
{
	if (!exchange)
		return;
	http_reader_free(&exchange->reader);
	free(exchange);
	exchanges--;
}

struct pollfd exchange_poll(const struct exchange *exchange, int64_t now, int *timeout)
{
	(void)exchange;
	(void)now;
	*timeout = 7;
	return (struct pollfd){-1, 0, 0};
}

enum exchange_state exchange_step(struct exchange *exchange, short revents, int64_t now)
{
	const struct step *step = exchange->step;
	bool is_endless = step->why && !step->why[0];

	(void)revents;
	(void)now;
	if (!step->answer)
		return is_endless ? EXCHANGE_CONNECTING : EXCHANGE_FAILED;
	http_reader_feed(&exchange->reader,
		(struct bytes){(const unsigned char *)step->answer, strlen(step->answer)});
	if (step->why)
		return EXCHANGE_FAILED;
	if (http_reader_end(&exchange->reader) == HTTP_DONE)
		return EXCHANGE_DONE;
	exchange->why = "the test's answer is not whole";
	return EXCHANGE_FAILED;
}

const struct http_reader *exchange_response(const struct exchange *exchange)
{
	return &exchange->reader;
}

enum address_kind exchange_peer_kind(const struct exchange *exchange)
{
	return exchange->step->kind;
}

const char *exchange_why(const struct exchange *exchange)
{
	return exchange->why;
}
