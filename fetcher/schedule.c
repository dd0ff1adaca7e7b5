/* SPDX-License-Identifier: MIT */
#include "schedule.h"

enum {
	RETRY_FIRST = 1000,
	BACKOFF_MOST = 600 * 1000,
	NEW_FIRST = 10 * 1000,
	NEW_MOST = 60 * 1000,
	NEW_TRIES = 10, /* before a new certificate becomes one that is not known */
};

/*
 * Of what is longer no more counts: mozilla::pkix takes a response about a server's certificate for
 * over after ten days, whatever its nextUpdate; and a revocation is not to be learnt in half a
 * year.
 */
static const int64_t longest_life = 10 * INT64_C(86400000);

static int64_t part_of(int64_t span, double draw)
{
	return (int64_t)((double)span * draw);
}

static int64_t larger(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static int64_t smaller(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

int64_t schedule_refresh(int64_t now, int64_t this_update, int64_t usable_until, double draw)
{
	int64_t start = this_update;
	int64_t span = smaller(usable_until - this_update, longest_life);

	/* The jitter shrinks with what is left, or it could reach past the end. */
	if (now > start + span / 2) {
		start = now;
		span = smaller(usable_until - now, longest_life);
	}
	return larger(now + SCHEDULE_LEAST, start + span / 2 + part_of(span / 10, draw));
}

int64_t schedule_yield(int64_t now, int64_t usable_until, double draw)
{
	int64_t span = usable_until - now;

	return larger(now + SCHEDULE_LEAST, now + span / 3 + part_of(span / 10, draw));
}

/* first, doubled with each failure after the first one, at most this much. */
static int64_t doubled(int64_t first, unsigned failures, int64_t most)
{
	for (unsigned i = 1; i < failures && first < most; i++)
		first *= 2;
	return smaller(first, most);
}

static int64_t over_upper_half(int64_t most, double draw)
{
	return most / 2 + part_of(most / 2, draw);
}

int64_t schedule_retry(int64_t now, unsigned failures, int64_t usable_until, double draw)
{
	int64_t most = doubled(RETRY_FIRST, failures, SCHEDULE_RETRY_MOST);
	int64_t delay = over_upper_half(most, draw);
	int64_t half = (usable_until - now) / 2;

	/* Halving what is left comes ever faster towards its end: hence the least. */
	return half > 0 ? smaller(delay, larger(half, SCHEDULE_LEAST)) : delay;
}

int64_t schedule_retry_new(unsigned failures, double draw)
{
	int64_t most;

	if (failures <= NEW_TRIES) {
		most = doubled(NEW_FIRST, failures, NEW_MOST * 2 / 3);
		return most + part_of(most / 2, draw);
	}
	most = doubled(NEW_MOST * 2, failures - NEW_TRIES, SCHEDULE_RETRY_MOST);
	return over_upper_half(most, draw);
}

int64_t schedule_backoff(unsigned failures, double draw)
{
	return over_upper_half(doubled(RETRY_FIRST, failures, BACKOFF_MOST), draw);
}

int64_t schedule_press(int64_t wait, int64_t now, int64_t usable_until)
{
	int64_t half = (usable_until - now) / 2;

	return half > 0 ? smaller(wait, larger(half, SCHEDULE_BEARABLE)) : wait;
}

bool schedule_is_sane(int64_t now, int64_t due, bool failing, int64_t this_update,
	int64_t usable_until, int64_t skew)
{
	if (failing)
		return due <= now + SCHEDULE_RETRY_MOST;
	return usable_until == 0 ||
	       (now >= this_update - skew && due <= usable_until + SCHEDULE_LEAST);
}
