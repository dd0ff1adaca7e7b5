/* SPDX-License-Identifier: MIT */
#include "ocspctl.h"

#include "clock.h"
#include "file.h"
#include "resolve.h"
#include "schedule.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

enum { RESOLVER_ROOM = 16 };

/* What is to be polled: one descriptor of an exchange, and the resolver's. */
struct wait {
	struct pollfd fds[1 + RESOLVER_ROOM];
	int timeout;
};

static void run_wait(struct wait *wait, struct resolver *resolver)
{
	size_t count = resolver_poll(resolver, wait->fds + 1, RESOLVER_ROOM, &wait->timeout);

	poll(wait->fds, 1 + count, wait->timeout);
	resolver_step(resolver, wait->fds + 1, count);
}

static enum fetch_state run_fetch(struct fetch *fetch, struct resolver *resolver)
{
	struct wait wait = {0};

	for (;;) {
		enum fetch_state state =
			fetch_step(fetch, wait.fds[0].revents, clock_steady(), clock_wall());

		if (state != FETCH_RUNNING)
			return state;
		wait = (struct wait){.timeout = -1};
		wait.fds[0] = fetch_poll(fetch, clock_steady(), &wait.timeout);
		run_wait(&wait, resolver);
	}
}

static enum aia_state run_download(struct aia *aia, struct resolver *resolver)
{
	struct wait wait = {0};

	for (;;) {
		enum aia_state state =
			aia_step(aia, wait.fds[0].revents, clock_steady(), clock_wall());

		if (state != AIA_RUNNING)
			return state;
		wait = (struct wait){.timeout = -1};
		wait.fds[0] = aia_poll(aia, clock_steady(), &wait.timeout);
		run_wait(&wait, resolver);
	}
}

bool download_run(const struct tool *tool, const struct subject *subject, struct download *out)
{
	memset(out, 0, sizeof(*out));
	if (!tool->config.fetch)
		return false;
	out->tools.crypto = &tool->crypto;
	out->tools.config = &tool->config;
	out->tools.resolver = resolver_new();
	if (out->tools.resolver)
		out->aia = aia_start(&out->tools, buffer_bytes(&subject->leaf.der));
	if (!out->aia)
		return false;
	out->state = run_download(out->aia, out->tools.resolver);
	return true;
}

void download_free(struct download *download)
{
	aia_free(download->aia);
	if (download->tools.resolver)
		resolver_free(download->tools.resolver);
}

bool inquiry_run(const struct tool *tool, const struct subject *subject, struct inquiry *out)
{
	const char *responders = tool->config.responder;

	memset(out, 0, sizeof(*out));
	out->tools.crypto = &tool->crypto;
	out->tools.config = &tool->config;
	out->tools.resolver = resolver_new();
	if (!out->tools.resolver)
		return false;
	out->fetch = fetch_start(&out->tools, buffer_bytes(&subject->leaf.der),
		buffer_bytes(&subject->issuer), responders ? responders : subject->leaf.responders,
		NULL);
	if (!out->fetch)
		return false;
	out->state = run_fetch(out->fetch, out->tools.resolver);
	return true;
}

void inquiry_free(struct inquiry *inquiry)
{
	fetch_free(inquiry->fetch);
	if (inquiry->tools.resolver)
		resolver_free(inquiry->tools.resolver);
}

static bool write_stdout(struct bytes response)
{
	return fwrite(response.data, 1, response.size, stdout) == response.size &&
	       fflush(stdout) == 0;
}

/* To where -o says; without it, to where servers look for it. */
static bool write_response(
	const struct tool *tool, const struct subject *subject, struct bytes response)
{
	const char *path = tool->output ? tool->output : tool->store.directory[0];
	bool done;

	/* Where no store is wanted, to say what the answer is was all there was to do. */
	if (!path[0] && !tool->config.use_store)
		return true;
	if (!path[0]) {
		fputs("ocspctl: the response is not stored: there is no directory for it that this "
		      "user may write (OCSPRELOAD_STORE)\n",
			stderr);
		return false;
	}
	/* For servers that do not send it. */
	if (!tool->output && subject->is_unsent)
		store_write_issuer(
			&tool->store, subject->leaf.issuer_key, buffer_bytes(&subject->issuer));
	if (!tool->output)
		done = store_write(&tool->store, subject->leaf.key, response);
	else if (strcmp(tool->output, "-") == 0)
		done = write_stdout(response);
	else
		done = file_replace(tool->output, response, true);
	if (!done)
		fprintf(stderr, "ocspctl: %s cannot be written: %s\n", path[0] ? path : "the store",
			strerror(errno));
	return done;
}

static const char *find_subject(const struct tool *tool, const char *path, struct subject *subject)
{
	const char *why = subject_read(tool, path, subject);

	if (!why && !tool->config.responder && !subject->leaf.responders[0])
		why = "the certificate names no OCSP responder; name one with -u";
	return why ? why : subject_find_issuer(tool, path, subject);
}

static int report(
	const struct tool *tool, const struct subject *subject, const struct inquiry *inquiry)
{
	bool to_stdout = tool->output && strcmp(tool->output, "-") == 0;
	FILE *out = to_stdout ? stderr : stdout;
	struct judgement judgement;

	if (inquiry->state == FETCH_FAILED) {
		fprintf(out, "failed: %s: %s\n", fetch_responder(inquiry->fetch),
			fetch_why(inquiry->fetch));
		return EXIT_NOT_GOOD;
	}
	judgement = fetch_judgement(inquiry->fetch);
	/* Servers have to know of a revocation; a file that a server staples blindly must not. */
	if ((judgement.verdict == VERDICT_GOOD ||
		    (judgement.verdict == VERDICT_REVOKED && !tool->output)) &&
		!write_response(tool, subject, fetch_response(inquiry->fetch)))
		return EXIT_NOT_GOOD;
	return print_judgement(out, &judgement);
}

/*
 * True if the store has an answer that it is too early to ask again for. By the response's own
 * times and when it was stored, which is all that the store knows: how long caches may repeat it is
 * forgotten at the end of the run. That is at most one request at the half of a life, which a cache
 * answers; whoever gets the same once more has it stored anew, and asks next when half of what is
 * left is over. A file beside each response that spares this one could be wrong.
 */
static bool is_fresh(
	const struct tool *tool, const struct subject *subject, struct judgement *judgement)
{
	int64_t now = clock_wall(), written;

	if (tool->output || tool->force || !stored_judge(tool, subject, judgement, &written))
		return false;
	if (judgement->verdict == VERDICT_REVOKED)
		return true;
	return judgement->verdict == VERDICT_GOOD &&
	       schedule_refresh(written, judgement->this_update * 1000,
		       judgement->usable_until * 1000, 0) > now;
}

int command_fetch(struct tool *tool, char **operands)
{
	struct inquiry inquiry = {0};
	struct judgement judgement;
	struct subject subject;
	const char *why = find_subject(tool, operands[0], &subject);
	int code;

	if (!why && is_fresh(tool, &subject, &judgement)) {
		subject_free(&subject);
		return print_judgement(stdout, &judgement);
	}
	if (!why && !inquiry_run(tool, &subject, &inquiry))
		why = "memory ran out";
	code = why ? print_failure(operands[0], why) : report(tool, &subject, &inquiry);
	inquiry_free(&inquiry);
	subject_free(&subject);
	return code;
}
