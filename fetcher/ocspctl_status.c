/* SPDX-License-Identifier: MIT */
#include "ocspctl.h"

#include "clock.h"

#include <string.h>

bool stored_judge(const struct tool *tool, const struct subject *subject,
	struct judgement *judgement, int64_t *written)
{
	struct stored stored;

	if (!store_read(&tool->store, subject->leaf.key, &stored))
		return false;
	*judgement = ocsp_judge(&tool->crypto, buffer_bytes(&stored.response),
		buffer_bytes(&subject->leaf.der), buffer_bytes(&subject->issuer),
		clock_wall() / 1000);
	*written = stored.written;
	buffer_free(&stored.response);
	return true;
}

bool ready_answer(const struct tool *tool, const struct subject *subject, struct ready_answer *out)
{
	struct bytes leaf = buffer_bytes(&subject->leaf.der);
	struct ready ready;
	bool found = false;

	memset(out, 0, sizeof(*out));
	ready_open(&ready, tool->config.responses);
	if (ready_lock(&ready, 0)) {
		while (ready_step(&ready, &tool->crypto))
			;
		found = ready_judge(&ready, &tool->crypto, ready_serial(&tool->crypto, leaf), leaf,
			buffer_bytes(&subject->issuer), clock_wall() / 1000, out);
		ready_unlock(&ready);
	}
	ready_close(&ready);
	return found;
}

static int report_stored(const struct tool *tool, const struct subject *subject)
{
	struct judgement judgement;
	char time[CLOCK_TEXT_SIZE];
	int64_t written;

	if (!tool->store.directory[0][0]) {
		puts("there is no store");
		return EXIT_NOT_GOOD;
	}
	if (!stored_judge(tool, subject, &judgement, &written)) {
		printf("%s: nothing is stored\n", subject->leaf.label);
		return EXIT_NOT_GOOD;
	}
	printf("%s: stored %s: ", subject->leaf.label, clock_text(written / 1000, time));
	return print_judgement(stdout, &judgement);
}

/* What is ready and of use is what a server staples, unless the store has a newer one. */
static int report(const struct tool *tool, const struct subject *subject)
{
	struct ready_answer answer;
	int code = EXIT_NOT_GOOD;
	bool found = ready_answer(tool, subject, &answer);

	if (found) {
		printf("%s: ready in %s: ", subject->leaf.label, answer.path);
		code = print_judgement(stdout, &answer.judgement);
	}
	buffer_free(&answer.response);
	if (found && (code == EXIT_GOOD || answer.judgement.verdict == VERDICT_REVOKED))
		return code;
	return report_stored(tool, subject);
}

int command_status(struct tool *tool, char **operands)
{
	struct subject subject;
	const char *why = subject_read(tool, operands[0], &subject);
	int code;

	if (!why)
		why = subject_find_issuer(tool, operands[0], &subject);
	code = why ? print_failure(operands[0], why) : report(tool, &subject);
	if (!why && print_agent(tool, &subject))
		code = EXIT_GOOD;
	subject_free(&subject);
	return code;
}
