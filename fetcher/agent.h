/* SPDX-License-Identifier: MIT */
/*
 * The agent: one process that fetches for the whole machine (ocspctl agent), and how others ask it.
 *
 * It is for hosts that may have neither a thread nor the network nor a store: a local socket, in
 * the abstract namespace unless told otherwise, is within reach of a process that is chrooted and
 * may not fork. One question, one answer, and the connection ends; the agent answers at once with
 * what it has, so nobody holds a descriptor while something is fetched.
 *
 * Nothing that the agent says is trusted: what it hands out is judged like what the network brings.
 */
#ifndef OCSPRELOAD_AGENT_H
#define OCSPRELOAD_AGENT_H

#include "bytes.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#define AGENT_NAME "@ocspreload"

enum {
	AGENT_CERTIFICATE_LIMIT = 32 * 1024,
	AGENT_MESSAGE_LIMIT = 128 * 1024, /* one packet; the kernel's default takes 208 KiB */
};

/* Both DER. */
struct agent_question {
	bool only_looks;          /* and does not want it to be fetched */
	struct bytes certificate; /* never empty */
	struct bytes issuer;      /* empty: not known */
};

enum agent_status {
	AGENT_HOLDS,   /* a response, or a revocation, that it is not yet time to ask again for */
	AGENT_ASKS,    /* the responder, this moment; a response of before may come along */
	AGENT_FAILED,  /* to get one, for now; the same */
	AGENT_REFUSES, /* to have anything to do with this certificate */
	AGENT_STATUS_COUNT,
};

struct agent_answer {
	enum agent_status status;
	int64_t due;           /* when it asks the responder again: wall clock, milliseconds */
	struct bytes response; /* may be empty */
	struct bytes issuer;   /* DER; only where the question had none */
	struct bytes why;      /* printable ASCII, for a log line; may be empty */
};

/*
 * Messages; pure. What is decoded points into the message. False when memory ran out or, for those
 * that decode, when the message is not of the form.
 */
bool agent_encode_question(const struct agent_question *question, struct buffer *out);
bool agent_decode_question(struct bytes message, struct agent_question *out);
bool agent_encode_answer(const struct agent_answer *answer, struct buffer *out);
bool agent_decode_answer(struct bytes message, struct agent_answer *out);

/*
 * The address of "@NAME" (abstract, of this network namespace) or of a path. False if it is neither
 * or too long.
 */
bool agent_address(const char *name, struct sockaddr_un *address, socklen_t *size);

/* A whole packet. The buffer is empty if there is none to be had now, or it is too long. */
void agent_receive(int number, struct buffer *out);

/* How a thread waits for the agent. */
struct agent_manner {
	int patience; /* milliseconds */
	/*
	 * A host's thread is listed nowhere with its descriptor: these keep forks away as long as
	 * it has one. NULL for the shim's own.
	 */
	void (*begin)(void);
	void (*end)(void);
	/* Around the wait, for who holds the gate (gate.h). NULL for others. */
	void (*leave)(void);
	void (*enter)(void);
};

/*
 * Asks the agent at name. False if there is none, or none that answers in time; such a one is left
 * alone for AGENT_PAUSE_FIRST times as long as it was waited for, since it may only have been busy,
 * and twice as long each time, up to AGENT_PAUSE times. An abstract name anybody can take: who
 * listens there must have been root or this user when it began to. *message holds the answer, to be
 * decoded, and is the caller's. Any thread; waits for no longer than manner says.
 */
enum { AGENT_PAUSE_FIRST = 5, AGENT_PAUSE = 40 };
bool agent_ask(const char *name, const struct agent_question *question,
	const struct agent_manner *manner, struct buffer *message);

/* True while one that has not answered in time is left alone. */
bool agent_is_silent(void);

/* True if the last question of this process was answered. */
bool agent_is_there(void);

#endif
