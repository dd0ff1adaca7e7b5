/* SPDX-License-Identifier: MIT */
#include "ocspctl.h"

#include "agent.h"
#include "clock.h"

static void print_asked(const struct tool *tool, const struct subject *subject,
	const struct agent_answer *answer, struct judgement *judgement)
{
	char time[CLOCK_TEXT_SIZE];

	printf("%s: the agent ", subject->leaf.label);
	if (answer->status == AGENT_REFUSES) {
		printf("has nothing: %.*s\n", (int)answer->why.size,
			(const char *)answer->why.data);
		return;
	}
	if (answer->status == AGENT_ASKS)
		printf("asks its responder now; ");
	else if (answer->status == AGENT_FAILED)
		printf("has failed, and asks again at %s; ", clock_text(answer->due / 1000, time));
	else
		printf("asks again at %s; ", clock_text(answer->due / 1000, time));
	if (answer->response.size == 0) {
		puts("it has nothing");
		return;
	}
	*judgement = ocsp_judge(&tool->crypto, answer->response, buffer_bytes(&subject->leaf.der),
		buffer_bytes(&subject->issuer), clock_wall() / 1000);
	print_judgement(stdout, judgement);
}

bool print_agent(const struct tool *tool, const struct subject *subject)
{
	static const struct agent_manner manner = {.patience = 2000};
	const struct agent_question question = {.only_looks = true,
		.certificate = buffer_bytes(&subject->leaf.der),
		.issuer = buffer_bytes(&subject->issuer)};
	struct judgement judgement = {.verdict = VERDICT_COUNT};
	struct buffer message = {0};
	struct agent_answer answer;

	if (tool->config.agent && agent_ask(tool->config.agent, &question, &manner, &message) &&
		agent_decode_answer(buffer_bytes(&message), &answer))
		print_asked(tool, subject, &answer, &judgement);
	buffer_free(&message);
	return judgement.verdict == VERDICT_GOOD;
}
