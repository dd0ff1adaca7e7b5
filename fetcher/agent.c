/* SPDX-License-Identifier: MIT */
#include "agent.h"

#include "clock.h"
#include "descriptor.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

/*
 * A message is the mark, a byte, for an answer the time, and then as many fields as there are, each
 * with its size in four bytes before it. Numbers come with the highest byte first.
 */
static const unsigned char question_mark[8] = "OCSPq\0\0\1";
static const unsigned char answer_mark[8] = "OCSPa\0\0\1";

enum { ONLY_LOOKS = 1, FIELDS = 3 };

static bool put_number(struct buffer *out, uint64_t number, int size)
{
	unsigned char bytes[8];

	for (int i = size - 1; i >= 0; i--, number >>= 8)
		bytes[i] = (unsigned char)number;
	return buffer_append(out, bytes, (size_t)size);
}

static bool put_field(struct buffer *out, struct bytes field)
{
	return put_number(out, field.size, 4) && buffer_append(out, field.data, field.size);
}

/* False if there are not so many left. */
static bool get_bytes(struct bytes *rest, size_t size, struct bytes *out)
{
	if (rest->size < size)
		return false;
	*out = (struct bytes){rest->data, size};
	rest->data += size;
	rest->size -= size;
	return true;
}

static bool get_number(struct bytes *rest, int size, uint64_t *number)
{
	struct bytes bytes;

	if (!get_bytes(rest, (size_t)size, &bytes))
		return false;
	*number = 0;
	for (int i = 0; i < size; i++)
		*number = *number << 8 | bytes.data[i];
	return true;
}

static bool get_field(struct bytes *rest, struct bytes *out)
{
	uint64_t size;

	return get_number(rest, 4, &size) && get_bytes(rest, size, out);
}

static bool get_mark(struct bytes *rest, const unsigned char mark[static 8])
{
	struct bytes bytes;

	return get_bytes(rest, 8, &bytes) && memcmp(bytes.data, mark, 8) == 0;
}

bool agent_encode_question(const struct agent_question *question, struct buffer *out)
{
	return buffer_append(out, question_mark, sizeof(question_mark)) &&
	       put_number(out, question->only_looks ? ONLY_LOOKS : 0, 1) &&
	       put_field(out, question->certificate) && put_field(out, question->issuer);
}

bool agent_decode_question(struct bytes message, struct agent_question *out)
{
	uint64_t flags;

	if (!get_mark(&message, question_mark) || !get_number(&message, 1, &flags) ||
		!get_field(&message, &out->certificate) || !get_field(&message, &out->issuer))
		return false;
	out->only_looks = flags & ONLY_LOOKS;
	return message.size == 0 && flags <= ONLY_LOOKS && out->certificate.size > 0 &&
	       out->certificate.size <= AGENT_CERTIFICATE_LIMIT &&
	       out->issuer.size <= AGENT_CERTIFICATE_LIMIT;
}

bool agent_encode_answer(const struct agent_answer *answer, struct buffer *out)
{
	return buffer_append(out, answer_mark, sizeof(answer_mark)) &&
	       put_number(out, answer->status, 1) && put_number(out, (uint64_t)answer->due, 8) &&
	       put_field(out, answer->response) && put_field(out, answer->issuer) &&
	       put_field(out, answer->why);
}

/* It ends up in somebody's log. */
static bool is_printable(struct bytes text)
{
	for (size_t i = 0; i < text.size; i++)
		if (text.data[i] < 0x20 || text.data[i] >= 0x7f)
			return false;
	return true;
}

bool agent_decode_answer(struct bytes message, struct agent_answer *out)
{
	uint64_t status, due;

	if (!get_mark(&message, answer_mark) || !get_number(&message, 1, &status) ||
		!get_number(&message, 8, &due) || !get_field(&message, &out->response) ||
		!get_field(&message, &out->issuer) || !get_field(&message, &out->why))
		return false;
	out->status = (enum agent_status)status;
	out->due = (int64_t)due;
	return message.size == 0 && status < AGENT_STATUS_COUNT && due <= INT64_MAX &&
	       out->issuer.size <= AGENT_CERTIFICATE_LIMIT && is_printable(out->why);
}

bool agent_address(const char *name, struct sockaddr_un *address, socklen_t *size)
{
	size_t length = strlen(name);

	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	if ((name[0] != '@' && name[0] != '/') || length < 2 || length >= sizeof(address->sun_path))
		return false;
	memcpy(address->sun_path, name, length);
	/* An abstract name is as long as the address says; a path is ended by NUL. */
	if (name[0] == '@')
		address->sun_path[0] = '\0';
	else
		length++;
	*size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
	return true;
}

void agent_receive(int number, struct buffer *out)
{
	unsigned char piece[4096];
	/* How long it is, before memory is found for it. */
	ssize_t size = recv(number, piece, sizeof(piece), MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
	ssize_t got;

	if (size <= 0 || size > AGENT_MESSAGE_LIMIT)
		return;
	for (size_t room = 0; room < (size_t)size; room += sizeof(piece))
		if (!buffer_append(out, piece, sizeof(piece)))
			goto fail;
	got = recv(number, out->data, out->size, MSG_DONTWAIT);
	if (got != size)
		goto fail;
	out->size = (size_t)size;
	return;
fail:
	buffer_free(out);
}

/*
 * The client
 */

static _Atomic int64_t left_alone_until; /* steady clock */
static atomic_int next_pause = AGENT_PAUSE_FIRST;
static atomic_bool answered;

bool agent_is_silent(void)
{
	return clock_steady() < atomic_load(&left_alone_until);
}

bool agent_is_there(void)
{
	return atomic_load(&answered);
}

/* The kernel remembers who called listen, also where systemd did it for an agent of less rights. */
static bool is_trusted(int number)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	return getsockopt(number, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
	       (peer.uid == 0 || peer.uid == geteuid());
}

static bool send_question(
	const char *name, const struct descriptor *socket, const struct buffer *question)
{
	struct sockaddr_un address;
	socklen_t size;

	return agent_address(name, &address, &size) &&
	       connect(socket->number, (const struct sockaddr *)&address, size) == 0 &&
	       (name[0] == '/' || is_trusted(socket->number)) &&
	       send(socket->number, question->data, question->size, MSG_NOSIGNAL) ==
		       (ssize_t)question->size;
}

/* False if it took too long. */
static bool await_answer(int number, const struct agent_manner *manner)
{
	struct pollfd in = {number, POLLIN, 0};
	int64_t deadline = clock_steady() + manner->patience;
	int64_t left = manner->patience;
	int ready;

	if (manner->leave)
		manner->leave();
	/* A host's signals must not make the agent look slow. */
	while ((ready = poll(&in, 1, (int)left)) < 0 && errno == EINTR) {
		left = deadline - clock_steady();
		if (left < 0)
			left = 0;
	}
	if (manner->enter)
		manner->enter();
	return ready > 0;
}

static void leave_alone(const struct agent_manner *manner)
{
	int pause = atomic_load(&next_pause);

	atomic_store(&left_alone_until, clock_steady() + pause * manner->patience);
	atomic_store(&next_pause, pause < AGENT_PAUSE ? 2 * pause : AGENT_PAUSE);
}

static void exchange(const char *name, const struct buffer *question,
	const struct agent_manner *manner, struct buffer *message)
{
	struct descriptor socket;
	bool open = manner->begin ? descriptor_open_unlisted(&socket, AF_UNIX, SOCK_SEQPACKET, 0)
				  : descriptor_open(&socket, AF_UNIX, SOCK_SEQPACKET, 0);

	if (!open)
		return;
	if (send_question(name, &socket, question)) {
		if (!await_answer(socket.number, manner))
			leave_alone(manner);
		else if (descriptor_check(&socket))
			agent_receive(socket.number, message);
	}
	descriptor_close(&socket);
}

bool agent_ask(const char *name, const struct agent_question *question,
	const struct agent_manner *manner, struct buffer *message)
{
	struct buffer asked = {0};

	if (agent_is_silent())
		return false;
	if (agent_encode_question(question, &asked) && asked.size <= AGENT_MESSAGE_LIMIT) {
		if (manner->begin)
			manner->begin();
		exchange(name, &asked, manner, message);
		if (manner->end)
			manner->end();
	}
	buffer_free(&asked);
	atomic_store(&answered, message->size > 0);
	if (message->size > 0)
		atomic_store(&next_pause, AGENT_PAUSE_FIRST);
	return message->size > 0;
}
