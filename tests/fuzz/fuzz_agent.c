/* SPDX-License-Identifier: MIT */
/*
 * What the agent is asked and what it answers: each by somebody who may be anybody. Input: a
 * message.
 */
#include "agent.h"
#include "fuzz.h"

static void check_inside(struct bytes field, struct bytes message)
{
	RULE(field.data >= message.data && field.size <= message.size);
	RULE(field.data + field.size <= message.data + message.size);
}

/* What was understood is all that was said. */
static void check_same(struct buffer *again, struct bytes message)
{
	RULE(is_same(buffer_bytes(again), message));
	buffer_free(again);
}

static void check_question(struct bytes message)
{
	struct agent_question question;
	struct buffer again = {0};

	if (!agent_decode_question(message, &question))
		return;
	check_inside(question.certificate, message);
	check_inside(question.issuer, message);
	RULE(question.certificate.size > 0);
	RULE(question.certificate.size <= AGENT_CERTIFICATE_LIMIT);
	RULE(question.issuer.size <= AGENT_CERTIFICATE_LIMIT);
	RULE(agent_encode_question(&question, &again));
	check_same(&again, message);
}

static void check_answer(struct bytes message)
{
	struct agent_answer answer;
	struct buffer again = {0};

	if (!agent_decode_answer(message, &answer))
		return;
	check_inside(answer.response, message);
	check_inside(answer.issuer, message);
	check_inside(answer.why, message);
	RULE(answer.status < AGENT_STATUS_COUNT);
	RULE(answer.due >= 0);
	for (size_t i = 0; i < answer.why.size; i++)
		RULE(answer.why.data[i] >= ' ' && answer.why.data[i] <= '~');
	RULE(agent_encode_answer(&answer, &again));
	check_same(&again, message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned char *copy = copy_of((struct bytes){data, size});
	struct bytes message = {copy, size};

	check_question(message);
	check_answer(message);
	free(copy);
	return 0;
}
