/* SPDX-License-Identifier: MIT */
/*
 * What the agent knows, who made it learn that, and what it answers.
 */
#ifndef OCSPRELOAD_OCSPCTL_ANSWER_H
#define OCSPRELOAD_OCSPCTL_ANSWER_H

#include "agent.h"
#include "supply.h"

#include <sys/types.h>

struct book;

/* Works with supply, whose cache must be its own. NULL when memory ran out. */
struct book *book_open(const struct supply *supply);

/*
 * Answers a question of user uid, and remembers the certificate if it is new. The answer is
 * appended to *out as a message. False if there can be none: out of memory, or not a question.
 */
bool book_answer(struct book *book, struct bytes message, uid_t uid, struct buffer *out);

/*
 * Lets those go that nobody has asked for in a long time. To be called now and then. False if no
 * more can be learnt until the agent starts anew: room is never given back.
 */
bool book_sweep(struct book *book);

#endif
