/* SPDX-License-Identifier: MIT */
#include "ocspctl.h"

#include "clock.h"
#include "resolve.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static enum fetch_state run_fetch(struct fetch *fetch, struct resolver *resolver)
{
	enum { RESOLVER_ROOM = 16 };
	struct pollfd fds[1 + RESOLVER_ROOM];

	memset(fds, 0, sizeof(fds));
	for (;;) {
		enum fetch_state state =
			fetch_step(fetch, fds[0].revents, clock_steady(), clock_wall());
		int timeout = -1;
		size_t count;

		if (state != FETCH_RUNNING)
			return state;
		memset(fds, 0, sizeof(fds));
		fds[0] = fetch_poll(fetch, clock_steady(), &timeout);
		count = resolver_poll(resolver, fds + 1, RESOLVER_ROOM, &timeout);
		poll(fds, 1 + count, timeout);
		resolver_step(resolver, fds + 1, count);
	}
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
		buffer_bytes(&subject->issuer), responders ? responders : subject->leaf.responders);
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

static bool write_all(int fd, struct bytes bytes)
{
	while (bytes.size > 0) {
		ssize_t size = write(fd, bytes.data, bytes.size);

		if (size < 0 && errno == EINTR)
			continue;
		if (size < 0)
			return false;
		bytes.data += size;
		bytes.size -= (size_t)size;
	}
	return true;
}

/* By rename: a server that reads it meanwhile sees the old one or the new one, whole. */
static bool replace_file(const char *path, struct bytes bytes)
{
	size_t size = strlen(path) + sizeof(".XXXXXX");
	char *temporary = malloc(size);
	bool done;
	int fd;

	if (!temporary)
		return false;
	snprintf(temporary, size, "%s.XXXXXX", path);
	fd = mkostemp(temporary, O_CLOEXEC);
	if (fd < 0) {
		free(temporary);
		return false;
	}
	/* Nothing in a response is secret, and the server may be another user. */
	done = write_all(fd, bytes) && fchmod(fd, 0644) == 0 && fsync(fd) == 0;
	done = close(fd) == 0 && done && rename(temporary, path) == 0;
	if (!done) {
		int saved = errno;

		unlink(temporary);
		errno = saved;
	}
	free(temporary);
	return done;
}

static bool write_response(const char *path, struct bytes response)
{
	bool done = true;

	if (!path)
		return true;
	if (strcmp(path, "-") == 0)
		done = write_all(STDOUT_FILENO, response);
	else
		done = replace_file(path, response);
	if (!done)
		fprintf(stderr, "ocspctl: %s cannot be written: %s\n", path, strerror(errno));
	return done;
}

static const char *find_subject(const struct tool *tool, const char *path, struct subject *subject)
{
	const char *why = subject_read(tool, path, subject);

	if (!why && !tool->config.responder && !subject->leaf.responders[0])
		why = "the certificate names no OCSP responder; name one with -u";
	return why ? why : subject_find_issuer(tool, path, subject);
}

static int report(const struct tool *tool, const struct inquiry *inquiry)
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
	if (judgement.verdict == VERDICT_GOOD &&
		!write_response(tool->output, fetch_response(inquiry->fetch)))
		return EXIT_NOT_GOOD;
	return print_judgement(out, &judgement);
}

int command_fetch(struct tool *tool, char **operands)
{
	struct inquiry inquiry = {0};
	struct subject subject;
	const char *why = find_subject(tool, operands[0], &subject);
	int code;

	if (!why && !inquiry_run(tool, &subject, &inquiry))
		why = "memory ran out";
	code = why ? print_failure(operands[0], why) : report(tool, &inquiry);
	inquiry_free(&inquiry);
	subject_free(&subject);
	return code;
}
