/* SPDX-License-Identifier: MIT */
/*
 * When to fetch next: pure functions of times. Times and delays are in milliseconds, times on the
 * wall clock. draw is uniform in [0, 1): drawn once per answer by the caller, so that a restart of
 * the computation gives the same time.
 */
#ifndef OCSPRELOAD_SCHEDULE_H
#define OCSPRELOAD_SCHEDULE_H

#include <stdint.h>

/* A response is never fetched again before this many milliseconds. */
enum { SCHEDULE_LEAST = 1000 };

/*
 * When to refresh a good response that arrived at now: at the half of its life (thisUpdate to
 * usable_until) or, where a cache served it later than that, at the half of what is left of it;
 * plus jitter of up to a tenth of the span that was halved. Never sooner than SCHEDULE_LEAST from
 * now.
 */
int64_t schedule_refresh(int64_t now, int64_t this_update, int64_t usable_until, double draw);

/*
 * When a process that could not tell others what it got asks all the same, if those who can have
 * not refreshed by then what ends at usable_until: after a third of what is left of it, plus jitter
 * of up to a tenth. Never sooner than SCHEDULE_LEAST from now.
 */
int64_t schedule_yield(int64_t now, int64_t usable_until, double draw);

/*
 * How long to wait after the failures-th failure in a row (1 is the first): exponential from one
 * second, with full jitter over the upper half, at most an hour; and while a response is held that
 * ends at usable_until (0: none is), never past the half of what is left of it.
 */
int64_t schedule_retry(int64_t now, unsigned failures, int64_t usable_until, double draw);

#endif
