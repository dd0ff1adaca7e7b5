/* SPDX-License-Identifier: MIT */
#include "ocspctl.h"

#include "clock.h"
#include "issuer.h"

#include <string.h>

/* What can be said without asking anybody: NULL, or why it would not be stapled. */
static const char *examine(const struct tool *tool, const char *path, struct subject *subject)
{
	struct bytes leaf = buffer_bytes(&subject->leaf.der);

	if (!tool->config.enabled)
		return "OCSPRELOAD is off";
	if (issuer_signed(&tool->crypto, leaf, leaf))
		return "it is self-signed: there is no CA that could vouch for it";
	if (!subject->leaf.may_be_server)
		return "it is not a server's: its extendedKeyUsage lacks serverAuth";
	if (!tool->config.responses && !tool->config.responder && !subject->leaf.responders[0])
		return "it names no OCSP responder (normal with CAs that have none, such as Let's "
		       "Encrypt); one that exists can be named by OCSPRELOAD_RESPONDER";
	return subject_find_issuer(tool, path, subject);
}

/* Clients look at the certificate's own time before they look at what is stapled. */
static void print_end(const struct tool *tool, const struct subject *subject)
{
	const struct certificate *leaf = &subject->leaf;
	char time[CLOCK_TEXT_SIZE];

	if (tool->at > leaf->not_after)
		printf("; but the certificate itself has expired at %s (is the clock right?)",
			clock_text(leaf->not_after, time));
	else if (tool->at < leaf->not_before)
		printf("; but the certificate itself begins at %s (is the clock right?)",
			clock_text(leaf->not_before, time));
	putchar('\n');
}

static int report(
	const struct tool *tool, const struct subject *subject, const struct inquiry *inquiry)
{
	const char *label = subject->leaf.label;
	const char *responder = fetch_responder(inquiry->fetch);
	struct judgement judgement;
	char time[CLOCK_TEXT_SIZE];

	if (inquiry->state == FETCH_FAILED) {
		printf("not stapled: %s: %s: %s\n", label, responder, fetch_why(inquiry->fetch));
		return EXIT_NOT_GOOD;
	}
	judgement = fetch_judgement(inquiry->fetch);
	if (judgement.verdict != VERDICT_GOOD) {
		printf("not stapled: %s: %s answered: %s\n", label, responder,
			verdict_text(judgement.verdict));
		return EXIT_NOT_GOOD;
	}
	printf("ok: %s: %s answered: good until %s%s%s", label, responder,
		clock_text(judgement.usable_until, time),
		subject->origin[0] ? "; the issuer came from " : "", subject->origin);
	print_end(tool, subject);
	return EXIT_GOOD;
}

/* Where nobody is to be asked. */
static int report_stored(const struct tool *tool, const struct subject *subject)
{
	const char *label = subject->leaf.label;
	struct judgement judgement;
	char time[CLOCK_TEXT_SIZE];
	int64_t written;

	if (!stored_judge(tool, subject, &judgement, &written)) {
		printf("not stapled: %s: OCSPRELOAD_FETCH is off, and nothing is stored for it "
		       "(ocspctl fetch does that)\n",
			label);
		return EXIT_NOT_GOOD;
	}
	if (judgement.verdict != VERDICT_GOOD) {
		printf("not stapled: %s: OCSPRELOAD_FETCH is off, and what is stored is of no use: "
		       "%s\n",
			label, verdict_text(judgement.verdict));
		return EXIT_NOT_GOOD;
	}
	printf("ok: %s: OCSPRELOAD_FETCH is off, and what is stored is good until %s", label,
		clock_text(judgement.usable_until, time));
	print_end(tool, subject);
	return EXIT_GOOD;
}

/* True if what is ready settles it: then nobody is asked. */
static bool report_ready(const struct tool *tool, const struct subject *subject, int *code)
{
	const char *label = subject->leaf.label;
	struct ready_answer answer;
	char time[CLOCK_TEXT_SIZE];
	bool found = ready_answer(tool, subject, &answer);
	enum verdict verdict = answer.judgement.verdict;

	buffer_free(&answer.response);
	if (!found)
		return false;
	*code = verdict == VERDICT_GOOD ? EXIT_GOOD : EXIT_NOT_GOOD;
	if (verdict == VERDICT_GOOD) {
		printf("ok: %s: ready in %s: good until %s", label, answer.path,
			clock_text(answer.judgement.usable_until, time));
		print_end(tool, subject);
	} else {
		printf("%s: %s: ready in %s: %s\n",
			verdict == VERDICT_REVOKED ? "not stapled" : "not used", label, answer.path,
			verdict_text(verdict));
	}
	return verdict == VERDICT_GOOD || verdict == VERDICT_REVOKED;
}

static int diagnose(const struct tool *tool, const char *path, struct subject *subject)
{
	struct inquiry inquiry = {0};
	const char *why = examine(tool, path, subject);
	int code;

	if (!why && report_ready(tool, subject, &code))
		return code;
	if (!why && !tool->config.responder && !subject->leaf.responders[0])
		why = "it names no OCSP responder, and OCSPRELOAD_RESPONSES has none for it";
	if (why) {
		printf("not stapled: %s: %s\n", subject->leaf.label, why);
		return EXIT_NOT_GOOD;
	}
	if (!tool->config.fetch)
		code = report_stored(tool, subject);
	else if (inquiry_run(tool, subject, &inquiry))
		code = report(tool, subject, &inquiry);
	else
		code = print_failure(path, "memory ran out");
	inquiry_free(&inquiry);
	print_agent(tool, subject);
	return code;
}

int command_doctor(struct tool *tool, char **operands)
{
	struct subject subject;
	const char *why;
	int code;

	if (strspn(operands[0], "0123456789") == strlen(operands[0]))
		return examine_process(operands[0]);
	why = subject_read(tool, operands[0], &subject);
	code = why ? print_failure(operands[0], why) : diagnose(tool, operands[0], &subject);
	subject_free(&subject);
	return code;
}
