/* SPDX-License-Identifier: MIT */
#include "ocspctl_answer.h"

#include "clock.h"
#include "issuer.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	/* A user other than root and the agent's own may have so many kept fresh. */
	PER_USER = 128,
	/* Milliseconds that a certificate is kept fresh after somebody has asked for it: a mail
	 * server may have no visitor for days. */
	KEEP = 14 * 24 * 3600 * 1000,
};

/* One for each slot, by its number. */
struct account {
	uid_t uid;     /* who asked first */
	bool is_kept;  /* fresh */
	int64_t asked; /* last; steady clock, milliseconds */
};

struct book {
	const struct supply *supply;
	struct account *accounts;
	size_t count;
	bool is_full;
};

struct book *book_open(const struct supply *supply)
{
	struct book *book = calloc(1, sizeof(*book));

	if (book)
		book->supply = supply;
	return book;
}

static bool refuse(struct agent_answer *answer, const char *why)
{
	answer->status = AGENT_REFUSES;
	answer->why = (struct bytes){(const unsigned char *)why, strlen(why)};
	return false;
}

static bool is_privileged(uid_t uid)
{
	return uid == 0 || uid == geteuid();
}

static bool has_room_for(const struct book *book, uid_t uid)
{
	size_t kept = 0;

	if (is_privileged(uid))
		return true;
	for (size_t i = 0; i < book->count; i++)
		kept += book->accounts[i].is_kept && book->accounts[i].uid == uid;
	return kept < PER_USER;
}

/* Room for the next slot's account comes before the slot. */
static bool prepare_account(struct book *book)
{
	size_t slots = cache_slot_count(book->supply->cache);
	struct account *accounts;

	if (slots < book->count)
		return true;
	accounts = realloc(book->accounts, (slots + 1) * sizeof(*accounts));
	if (!accounts)
		return false;
	memset(accounts + book->count, 0, (slots + 1 - book->count) * sizeof(*accounts));
	book->accounts = accounts;
	book->count = slots + 1;
	return true;
}

/* Only one that did sign the certificate: nobody is to spoil it for others. */
static void learn_issuer(const struct supply *supply, struct bytes certificate, struct bytes der)
{
	struct certificate issuer;

	if (der.size == 0 || !issuer_signed(supply->crypto, certificate, der) ||
		!certificate_decode(supply->crypto, der, &issuer))
		return;
	cache_add_issuer(supply->cache, &issuer);
	certificate_free(&issuer);
}

static struct slot *learn(struct book *book, const struct certificate *certificate,
	struct bytes issuer, uid_t uid, struct agent_answer *answer)
{
	const struct supply *supply = book->supply;
	const char *responders = supply->config->responder;
	struct slot *slot;

	if (!responders)
		responders = certificate->responders;
	if (responders[0] == '\0')
		refuse(answer, "the certificate names no OCSP responder");
	else if (certificate->is_self_issued)
		refuse(answer, "the certificate is self-signed");
	else if (!has_room_for(book, uid))
		refuse(answer, "this user has too many certificates");
	else if (!prepare_account(book))
		refuse(answer, "memory ran out");
	if (answer->why.size > 0)
		return NULL;
	/* First: without it there would be nothing to begin with. */
	learn_issuer(supply, buffer_bytes(&certificate->der), issuer);
	/* This process then stands up for it for good: only book_sweep ends its refreshing. */
	slot = cache_add(supply->cache, certificate, responders, clock_steady());
	if (slot)
		return slot;
	book->is_full = true;
	refuse(answer, "the agent has too many certificates");
	return NULL;
}

/* Kept fresh from now on, at this user's expense. */
static bool keep(struct book *book, struct slot *slot, uid_t uid, struct agent_answer *answer)
{
	struct account *account = &book->accounts[cache_slot_index(book->supply->cache, slot)];

	if (!account->is_kept) {
		if (!has_room_for(book, uid))
			return refuse(answer, "this user has too many certificates");
		account->uid = uid;
		account->is_kept = true;
		cache_claim(book->supply->cache, slot, clock_steady());
	}
	account->asked = clock_steady();
	return true;
}

/* What is held for stapling, or the revocation. */
static bool find_response(const struct slot *slot, struct agent_answer *answer)
{
	static unsigned char room[CACHE_RESPONSE_LIMIT];
	size_t size = cache_read(slot, clock_wall() / 1000, room, sizeof(room));

	if (size == 0)
		size = cache_read_revocation(slot, room, sizeof(room));
	if (size == 0 || size > sizeof(room))
		return false;
	answer->response = (struct bytes){room, size};
	return true;
}

static void describe(const struct book *book, struct slot *slot, struct agent_answer *answer)
{
	const struct issuer_entry *issuer = atomic_load(&slot->issuer);
	enum slot_state state = (enum slot_state)atomic_load(&slot->state);
	bool has_response = find_response(slot, answer);
	bool is_due = supply_is_due(book->supply, slot);

	answer->due = supply_due(book->supply, slot);
	if (issuer)
		answer->issuer = issuer->der;
	if (state == SLOT_PENDING || is_due)
		answer->status = AGENT_ASKS;
	else if (has_response && (state == SLOT_GOOD || state == SLOT_REVOKED))
		answer->status = AGENT_HOLDS;
	else
		answer->status = AGENT_FAILED;
}

static void consider(struct book *book, const struct agent_question *question, uid_t uid,
	struct agent_answer *answer)
{
	const struct supply *supply = book->supply;
	struct certificate certificate;
	struct slot *slot;

	if (!certificate_decode(supply->crypto, question->certificate, &certificate)) {
		refuse(answer, "that is not a certificate");
		return;
	}
	slot = cache_find(supply->cache, certificate.key);
	if (!slot && question->only_looks)
		refuse(answer, "nobody has asked for it");
	else if (!slot)
		slot = learn(book, &certificate, question->issuer, uid, answer);
	if (slot && (question->only_looks || keep(book, slot, uid, answer))) {
		if (!atomic_load(&slot->issuer))
			learn_issuer(supply, slot->certificate, question->issuer);
		if (cache_usable_until(slot) == 0)
			supply_from_store(supply, slot, false);
		describe(book, slot, answer);
	}
	if (slot)
		cache_unpin(slot);
	certificate_free(&certificate);
}

bool book_answer(struct book *book, struct bytes message, uid_t uid, struct buffer *out)
{
	struct agent_question question;
	struct agent_answer answer = {0};
	bool done;

	if (!agent_decode_question(message, &question))
		return false;
	consider(book, &question, uid, &answer);
	if (question.issuer.size > 0)
		answer.issuer = (struct bytes){0};
	done = agent_encode_answer(&answer, out);
	return done;
}

bool book_sweep(struct book *book)
{
	size_t slots = cache_slot_count(book->supply->cache);
	size_t kept = 0, count = book->count < slots ? book->count : slots;
	int64_t now = clock_steady();

	for (size_t i = 0; i < count; i++) {
		struct account *account = &book->accounts[i];
		struct slot *slot = cache_slot(book->supply->cache, i);

		if (account->is_kept && now - account->asked > KEEP) {
			log_info("%s: nobody has asked for it in two weeks; letting it go",
				slot->label);
			account->is_kept = false;
		}
		/* Again each time: an answer that was under way has put it back. */
		if (!account->is_kept)
			atomic_store(&slot->due, SLOT_NEVER);
		kept += account->is_kept;
	}
	return !book->is_full || kept > count / 2;
}
