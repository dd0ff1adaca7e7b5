/* SPDX-License-Identifier: MIT */
#include "ocspctl.h"

#include "clock.h"

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

static int report(const struct tool *tool, const struct subject *subject)
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

int command_status(struct tool *tool, char **operands)
{
	struct subject subject;
	const char *why = subject_read(tool, operands[0], &subject);
	int code;

	if (!why)
		why = subject_find_issuer(tool, operands[0], &subject);
	code = why ? print_failure(operands[0], why) : report(tool, &subject);
	subject_free(&subject);
	return code;
}
