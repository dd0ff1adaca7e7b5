/* SPDX-License-Identifier: MIT */
#include "responders.h"

#include "queue.h"
#include "schedule.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
	ROOM_FIRST = 16,
	/* After so long a host that failed gets another try for a certificate that is new. */
	NEW_PRESSES = 1000,
};

static const uint32_t nobody = UINT32_MAX; /* the end of a bucket */

static void make(struct responders *responders, uint64_t name)
{
	responders->list[responders->count++] = (struct responder){
		.name = name,
		.next_in_bucket = nobody,
		.waiting = QUEUE_NONE,
		.allowance = RESPONDER_START,
		.failed = INT64_MIN / 2,
		.answered = INT64_MIN / 2,
	};
}

static void enter(struct responders *responders, size_t number)
{
	struct responder *responder = &responders->list[number];
	uint32_t *bucket = &responders->buckets[responder->name % responders->room];

	responder->next_in_bucket = *bucket;
	*bucket = (uint32_t)number;
}

/* Doubles the room. */
static bool grow(struct responders *responders)
{
	size_t room = responders->room ? 2 * responders->room : ROOM_FIRST;
	uint32_t *buckets = malloc(room * sizeof(*buckets));
	struct responder *list = buckets ? realloc(responders->list, room * sizeof(*list)) : NULL;

	if (!list) {
		free(buckets);
		return false;
	}
	free(responders->buckets);
	responders->list = list;
	responders->buckets = buckets;
	responders->room = room;
	memset(buckets, 0xff, room * sizeof(*buckets));
	if (responders->count == 0)
		make(responders, 0);
	for (size_t i = 1; i < responders->count; i++)
		enter(responders, i);
	return true;
}

void responders_free(struct responders *responders)
{
	free(responders->list);
	free(responders->buckets);
	memset(responders, 0, sizeof(*responders));
}

/* FNV-1a, never 0; names know no case. Who makes two collide has them share their fate. */
static uint64_t hash_name(const char *authority)
{
	uint64_t hash = 14695981039346656037U;

	for (; *authority; authority++) {
		unsigned char c = (unsigned char)*authority;

		hash = (hash ^ (c >= 'A' && c <= 'Z' ? c | 0x20U : c)) * 1099511628211U;
	}
	return hash ? hash : 1;
}

bool responders_find(struct responders *responders, const char *authority, size_t *number)
{
	uint64_t name = hash_name(authority);
	uint32_t i = responders->room ? responders->buckets[name % responders->room] : nobody;

	while (i != nobody && responders->list[i].name != name)
		i = responders->list[i].next_in_bucket;
	*number = i;
	if (i != nobody)
		return true;
	*number = 0;
	if (responders->count >= responders->room && !grow(responders))
		return responders->count > 0;
	*number = responders->count;
	make(responders, name);
	enter(responders, *number);
	return true;
}

/*
 * A host that answers slowly, or never, holds at most what it is allowed until the deadline. So
 * that many such cannot fill all places: those who have more than a few leave some to those who
 * have less, and those who have not answered yet get one at first, and more only while there is
 * plenty.
 */
static bool is_place_for(const struct responders *responders, const struct responder *responder)
{
	if (responders->in_flight >= RESPONDERS_PLACES)
		return false;
	if (!responder->has_answered)
		return responders->unknown_in_flight <
		       (responder->in_flight == 0 ? RESPONDERS_GREEDY : RESPONDERS_UNKNOWN);
	return responder->in_flight < RESPONDER_START || responders->in_flight < RESPONDERS_GREEDY;
}

bool responders_may_begin(
	const struct responders *responders, size_t number, bool first, int64_t now)
{
	const struct responder *responder = &responders->list[number];
	unsigned most = responder->allowance;

	if (!first && most > RESPONDER_START)
		most = RESPONDER_START;
	return responder->in_flight < most && !responders_is_left_alone(responders, number, now) &&
	       is_place_for(responders, responder);
}

void responders_begin(struct responders *responders, size_t number)
{
	struct responder *responder = &responders->list[number];

	responders->in_flight++;
	responders->unknown_in_flight += !responder->has_answered;
	responder->in_flight++;
}

void responders_withdraw(struct responders *responders, size_t number)
{
	struct responder *responder = &responders->list[number];

	responders->in_flight--;
	responders->unknown_in_flight -= !responder->has_answered;
	responder->in_flight--;
}

/* All that is under way counts as what the host now is. */
static void set_answered(
	struct responders *responders, struct responder *responder, bool has_answered)
{
	if (responder->has_answered == has_answered)
		return;
	responder->has_answered = has_answered;
	if (has_answered)
		responders->unknown_in_flight -= responder->in_flight;
	else
		responders->unknown_in_flight += responder->in_flight;
}

static struct responder *take_answer(struct responders *responders, size_t number, int64_t now)
{
	struct responder *responder = &responders->list[number];

	responders_withdraw(responders, number);
	set_answered(responders, responder, true);
	responder->answered = now;
	responder->failures = 0;
	responder->until = 0;
	return responder;
}

void responders_good(struct responders *responders, size_t number, bool firsts_wait, int64_t now)
{
	struct responder *responder = take_answer(responders, number, now);
	unsigned most = firsts_wait ? RESPONDER_MOST : RESPONDER_START;

	if (responder->allowance < most)
		responder->allowance++;
	else if (responder->allowance > most)
		responder->allowance = most;
}

void responders_bad(struct responders *responders, size_t number, int64_t now)
{
	struct responder *responder = take_answer(responders, number, now);

	responder->allowance = responder->allowance > 1 ? responder->allowance / 2 : 1;
}

bool responders_failed(struct responders *responders, size_t number, int64_t begun, int64_t now,
	int64_t wanted, double draw)
{
	struct responder *responder = &responders->list[number];
	int64_t wait;

	if (responder->answered >= begun) {
		responders_bad(responders, number, responder->answered);
		return false;
	}
	responders_withdraw(responders, number);
	set_answered(responders, responder, false);
	responder->allowance = 1;
	/* Those that were under way together have seen one failure. */
	if (responder->failed < begun)
		responder->failures++;
	responder->failed = now;
	wait = schedule_backoff(responder->failures, draw);
	if (wait < wanted)
		wait = wanted;
	if (responder->until < now + wait)
		responder->until = now + wait;
	responder->wanted = now + wanted;
	return true;
}

bool responders_is_left_alone(const struct responders *responders, size_t number, int64_t now)
{
	return now < responders->list[number].until;
}

void responders_press(struct responders *responders, size_t number, int64_t now, int64_t now_wall,
	int64_t usable_until, bool is_new)
{
	struct responder *responder = &responders->list[number];
	int64_t wait = responder->until - now;
	int64_t least = responder->failed + NEW_PRESSES - now;

	if (wait <= 0)
		return;
	if (least < responder->wanted - now)
		least = responder->wanted - now;
	wait = schedule_press(wait, now_wall, usable_until);
	if (is_new && wait > least)
		wait = least > 0 ? least : 0;
	responder->until = now + wait;
}
