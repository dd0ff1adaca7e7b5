/* SPDX-License-Identifier: MIT */
/*
 * When to fetch next: pure functions of times. Times and delays are in milliseconds, times on the
 * wall clock. draw is uniform in [0, 1): drawn once per answer by the caller, so that a restart of
 * the computation gives the same time.
 */
#ifndef OCSPRELOAD_SCHEDULE_H
#define OCSPRELOAD_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

enum {
	/* A response is never fetched again before this many milliseconds. */
	SCHEDULE_LEAST = 1000,
	/* A responder that fails is never pressed to answer sooner than after this many. */
	SCHEDULE_BEARABLE = 10 * 1000,
	/* The longest that any failure puts anything off. */
	SCHEDULE_RETRY_MOST = 3600 * 1000,
};

/*
 * When to refresh a good response that arrived at now: at the half of its life (thisUpdate to
 * usable_until) or, where a cache served it later than that, at the half of what is left of it;
 * plus jitter of up to a tenth of the span that was halved. What is longer than ten days counts as
 * ten days. Never sooner than SCHEDULE_LEAST from now.
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

/*
 * The same for a new certificate that its responder does not know yet: ten seconds to a minute for
 * the first minutes, in which CAs tell their responders, and then twice as long each time, at most
 * an hour. With jitter of up to a half.
 */
int64_t schedule_retry_new(unsigned failures, double draw);

/*
 * How long to leave a responder alone that has failed for the failures-th time in a row, whoever
 * was asked about: exponential from one second, with full jitter over the upper half, at most ten
 * minutes, which even a responder of millions can bear when it comes back.
 */
int64_t schedule_backoff(unsigned failures, double draw);

/*
 * How much of such a wait to keep while somebody waits for this responder whose response ends at
 * usable_until (0: holds none): not past the half of what is left of it, but SCHEDULE_BEARABLE at
 * the least.
 */
int64_t schedule_press(int64_t wait, int64_t now, int64_t usable_until);

/*
 * False if due is later than any rule puts it at now: the wall clock was set back. failing: due is
 * that of a retry. Else what is held (this_update and usable_until, 0 where nothing is) has to have
 * begun, and is refreshed before its end; skew is how far ahead a responder's clock may be.
 */
bool schedule_is_sane(int64_t now, int64_t due, bool failing, int64_t this_update,
	int64_t usable_until, int64_t skew);

#endif
