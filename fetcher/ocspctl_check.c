/* SPDX-License-Identifier: MIT */
#include "ocspctl.h"

#include "clock.h"
#include "file.h"

/* CRLReason, RFC 5280, 5.3.1. */
static const char *reason_text(int reason)
{
	static const char *const texts[] = {"unspecified", "keyCompromise", "cACompromise",
		"affiliationChanged", "superseded", "cessationOfOperation", "certificateHold", NULL,
		"removeFromCRL", "privilegeWithdrawn", "aACompromise"};

	if (reason < 0 || (size_t)reason >= sizeof(texts) / sizeof(*texts) || !texts[reason])
		return "no reason given";
	return texts[reason];
}

int print_failure(const char *path, const char *why)
{
	fprintf(stderr, "ocspctl: %s: %s\n", path, why);
	return EXIT_NOT_GOOD;
}

int print_judgement(FILE *out, const struct judgement *judgement)
{
	char time[CLOCK_TEXT_SIZE];

	switch (judgement->verdict) {
	case VERDICT_GOOD:
		fprintf(out, "good: usable until %s\n", clock_text(judgement->usable_until, time));
		return EXIT_GOOD;
	case VERDICT_REVOKED:
		fprintf(out, "revoked: since %s, %s\n", clock_text(judgement->revoked_at, time),
			reason_text(judgement->revocation_reason));
		return EXIT_NOT_GOOD;
	case VERDICT_UNKNOWN:
		fprintf(out, "unknown: %s\n", verdict_text(judgement->verdict));
		return EXIT_NOT_GOOD;
	default:
		fprintf(out, "refused: %s\n", verdict_text(judgement->verdict));
		return EXIT_NOT_GOOD;
	}
}

int command_check(struct tool *tool, char **operands)
{
	enum { FILE_LIMIT = 1024 * 1024 };
	struct subject subject;
	struct buffer response = {0};
	struct judgement judgement;
	const char *path = operands[0];
	const char *why = subject_read(tool, path, &subject);
	int code;

	if (!why)
		why = subject_find_issuer(tool, path, &subject);
	if (!why) {
		path = operands[1];
		why = file_read(path, FILE_LIMIT, &response);
	}
	if (why) {
		code = print_failure(path, why);
		goto out;
	}
	judgement = ocsp_judge(&tool->crypto, buffer_bytes(&response),
		buffer_bytes(&subject.leaf.der), buffer_bytes(&subject.issuer), tool->at);
	code = print_judgement(stdout, &judgement);
out:
	buffer_free(&response);
	subject_free(&subject);
	return code;
}
