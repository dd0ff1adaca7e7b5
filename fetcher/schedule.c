/* SPDX-License-Identifier: MIT */
#include "schedule.h"

enum {
	RETRY_FIRST = 1000,
	RETRY_MOST = 3600 * 1000,
};

static int64_t part_of(int64_t span, double draw)
{
	return (int64_t)((double)span * draw);
}

static int64_t larger(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

int64_t schedule_refresh(int64_t now, int64_t this_update, int64_t usable_until, double draw)
{
	int64_t start = this_update;
	int64_t span = usable_until - this_update;

	/* The jitter shrinks with what is left, or it could reach past the end. */
	if (now > start + span / 2) {
		start = now;
		span = usable_until - now;
	}
	return larger(now + SCHEDULE_LEAST, start + span / 2 + part_of(span / 10, draw));
}

int64_t schedule_yield(int64_t now, int64_t usable_until, double draw)
{
	int64_t span = usable_until - now;

	return larger(now + SCHEDULE_LEAST, now + span / 3 + part_of(span / 10, draw));
}

int64_t schedule_retry(int64_t now, unsigned failures, int64_t usable_until, double draw)
{
	int64_t most = RETRY_FIRST;
	int64_t half = (usable_until - now) / 2;
	int64_t delay;

	for (unsigned i = 1; i < failures && most < RETRY_MOST; i++)
		most *= 2;
	if (most > RETRY_MOST)
		most = RETRY_MOST;
	delay = most / 2 + part_of(most / 2, draw);
	/* Halving what is left comes ever faster towards its end: hence the least. */
	most = larger(half, SCHEDULE_LEAST);
	return half > 0 && delay > most ? most : delay;
}
