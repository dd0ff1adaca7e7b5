/* SPDX-License-Identifier: MIT */
/*
 * What the headers of an HTTP response say about time: how long caches keep it (RFC 9111, RFC 5019,
 * 6), and when to ask again. Pure.
 *
 * Nothing is cached by these rules, since a response's own times decide what is stapled. They tell
 * until when whoever is asked again would only repeat itself.
 */
#ifndef OCSPRELOAD_FRESHNESS_H
#define OCSPRELOAD_FRESHNESS_H

#include <stdbool.h>
#include <stdint.h>

/* However long a responder wants to be left alone. */
enum { FRESHNESS_RETRY_MOST = 3600 * 1000 };

/* Times in seconds since 1970, spans in seconds; -1: not said. */
struct freshness {
	int64_t s_maxage;
	int64_t max_age;
	int64_t age;
	int64_t date;
	int64_t expires; /* 0: it has expired, or is no date */
	int64_t retry_after;
	int64_t retry_date;
	bool is_uncacheable; /* no-store or no-cache */
};

void freshness_init(struct freshness *freshness);

/* Takes one header; what cannot be understood counts as not said, RFC 9111, 5. */
void freshness_read(struct freshness *freshness, const char *name, const char *value);

/*
 * Until when, in milliseconds of the wall clock, a cache may return this response to whoever asks
 * for it again; 0 where none may, or nothing is said. It arrived at now, delay milliseconds after
 * the request was begun (RFC 9111, 4.2).
 */
int64_t freshness_until(const struct freshness *freshness, int64_t now, int64_t delay);

/* After how many milliseconds from now to ask again, at most FRESHNESS_RETRY_MOST; 0: not said. */
int64_t freshness_retry_after(const struct freshness *freshness, int64_t now);

/*
 * When to refresh a good response: at due, as the schedule says, but not before a cache would say
 * something new; fresh_until is freshness_until's. Yet never later than half of what is left of the
 * response's life, since there must be time left to mend what fails. A little jitter, for all that
 * ask the same cache: draw as in schedule.h.
 */
int64_t freshness_due(
	int64_t due, int64_t fresh_until, int64_t now, int64_t usable_until, double draw);

/*
 * How long to obey a Retry-After of wait milliseconds: not past half of what is left of a response
 * that is held until usable_until, if it is.
 */
int64_t freshness_wait(int64_t wait, int64_t now, int64_t usable_until);

/* IMF-fixdate (RFC 9110, 5.6.7) to seconds since 1970. False if text is nothing else. */
bool freshness_parse_date(const char *text, int64_t *seconds);

#endif
