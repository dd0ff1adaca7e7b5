/* SPDX-License-Identifier: MIT */
#include "agenda.h"

#include "clock.h"
#include "gate.h"
#include "http.h"
#include "queue.h"
#include "schedule.h"

#include <stdlib.h>
#include <string.h>

enum {
	ROOM_FIRST = 64,
	RESPONDERS_MOST = 32,   /* of one certificate: bits of entry.tried */
	CLOCK_TOLERANCE = 2000, /* by which the clocks may drift apart between two looks */
	LOOKED_AT = 500,        /* slots in the least milliseconds between two looks */
};

/* In a host's queue these come before those, and each by what the lower bits say. */
enum rank {
	RANK_NEW,     /* never asked for: somebody may be waiting. By arrival. */
	RANK_FIRST,   /* nothing to staple. By how long it waits. */
	RANK_REFRESH, /* By the end of what is held. */
	RANK_SUSPECT, /* It may be the one for which its responder fails. */
	RANK_SHIFT = 56,
};

enum place {
	BY_TIME,   /* in agenda.by_time; the key is when it is due */
	WAITING,   /* in the queue of its host */
	UNDER_WAY, /* an errand */
};

struct entry {
	enum place place;
	bool is_suspect;     /* its responder failed when it was last asked about it */
	unsigned choice;     /* the responder that it waits for, or that worked last */
	uint32_t tried;      /* responders, since it became due */
	size_t host;         /* of the choice */
	int64_t begun;       /* steady clock */
	uint32_t generation; /* of the slot: for which certificate all this is so */
};

struct agenda {
	const struct supply *supply;
	struct responders responders;
	/* By the number of the slot. */
	struct queue_node *nodes;
	struct entry *entries;
	size_t count, room;
	int32_t by_time;

	bool stirred;
	int64_t looked;   /* steady clock: at all slots */
	int64_t ahead;    /* of the steady clock the wall clock is, then */
	uint32_t issuers; /* were known then */
};

struct agenda *agenda_new(const struct supply *supply)
{
	struct agenda *agenda = calloc(1, sizeof(*agenda));

	if (!agenda)
		return NULL;
	agenda->supply = supply;
	agenda->by_time = QUEUE_NONE;
	return agenda;
}

void agenda_free(struct agenda *agenda)
{
	if (!agenda)
		return;
	responders_free(&agenda->responders);
	free(agenda->nodes);
	free(agenda->entries);
	free(agenda);
}

void agenda_stir(struct agenda *agenda)
{
	agenda->stirred = true;
}

static struct slot *slot_at(const struct agenda *agenda, size_t number)
{
	return cache_slot(agenda->supply->cache, number);
}

static struct responder *host_of(const struct agenda *agenda, const struct entry *entry)
{
	return &agenda->responders.list[entry->host];
}

static const struct gate *gate_of(const struct agenda *agenda)
{
	return agenda->supply->crypto->gate;
}

/*
 * Responders
 */

/* The responder with this number of those that are separated by spaces. */
static bool copy_responder(const char *list, unsigned number, char out[static AGENDA_URL_SIZE])
{
	size_t size;

	for (;; number--) {
		list += strspn(list, " ");
		size = strcspn(list, " ");
		if (size == 0)
			return false;
		if (number == 0)
			break;
		list += size;
	}
	if (size >= AGENDA_URL_SIZE)
		size = AGENDA_URL_SIZE - 1;
	memcpy(out, list, size);
	out[size] = '\0';
	return true;
}

/* What is no URL is nobody's, and fails when its turn comes. */
static bool find_host(struct agenda *agenda, const char *responder, size_t *host)
{
	struct url url;

	return responders_find(
		&agenda->responders, url_parse(responder, &url) ? "" : url.authority, host);
}

struct option {
	unsigned number;
	size_t host;
	bool is_left_alone;
};

static bool is_better(
	const struct agenda *agenda, const struct option *a, const struct option *b, unsigned liked)
{
	const struct responder *list = agenda->responders.list;

	if (a->is_left_alone != b->is_left_alone)
		return b->is_left_alone;
	if (a->is_left_alone)
		return list[a->host].until < list[b->host].until;
	return a->number == liked;
}

/*
 * Of the responders not tried yet: the one that worked last, or else the first, that is not left
 * alone; or the one that is left alone for the shortest time. False if there is none.
 */
static bool choose(struct agenda *agenda, size_t number, struct option *best)
{
	struct slot *slot = slot_at(agenda, number);
	struct entry *entry = &agenda->entries[number];
	char responder[AGENDA_URL_SIZE];
	bool found = false;

	if (!cache_pin(slot, atomic_load(&slot->generation)))
		return false;
	for (unsigned i = 0; i < RESPONDERS_MOST && copy_responder(slot->responders, i, responder);
		i++) {
		struct option option = {.number = i};

		if (entry->tried >> i & 1 || !find_host(agenda, responder, &option.host))
			continue;
		option.is_left_alone =
			responders_is_left_alone(&agenda->responders, option.host, clock_steady());
		if (!found || is_better(agenda, &option, best, entry->choice))
			*best = option;
		found = true;
	}
	cache_unpin(slot);
	return found;
}

/*
 * Queues
 */

static void put_by_time(struct agenda *agenda, size_t number, int64_t due)
{
	agenda->entries[number].place = BY_TIME;
	queue_push(agenda->nodes, &agenda->by_time, (int32_t)number, due);
}

static void take_out(struct agenda *agenda, size_t number)
{
	struct entry *entry = &agenda->entries[number];
	int32_t *queue =
		entry->place == WAITING ? &host_of(agenda, entry)->waiting : &agenda->by_time;

	queue_remove(agenda->nodes, queue, (int32_t)number);
}

static int64_t rank_key(const struct agenda *agenda, size_t number)
{
	const struct slot *slot = slot_at(agenda, number);
	const struct entry *entry = &agenda->entries[number];
	int64_t usable_until = cache_usable_until(slot);
	int64_t rank = RANK_REFRESH, within = usable_until;

	if (entry->is_suspect && !host_of(agenda, entry)->has_answered) {
		rank = RANK_SUSPECT;
		within = clock_steady();
	} else if (atomic_load(&slot->state) == SLOT_PENDING) {
		rank = RANK_NEW;
		within = (int64_t)number;
	} else if (usable_until <= clock_wall() / 1000) {
		rank = RANK_FIRST;
		within = clock_steady();
	}
	return (rank << RANK_SHIFT) + within;
}

static bool is_first(const struct agenda *agenda, int32_t number)
{
	return number != QUEUE_NONE && agenda->nodes[number].key < (int64_t)RANK_REFRESH
									   << RANK_SHIFT;
}

/* To the end of its certificate's queue for the choice. */
static void put_waiting(
	struct agenda *agenda, size_t number, const struct option *choice, bool is_new)
{
	struct entry *entry = &agenda->entries[number];

	entry->place = WAITING;
	entry->choice = choice->number;
	entry->host = choice->host;
	queue_push(agenda->nodes, &host_of(agenda, entry)->waiting, (int32_t)number,
		rank_key(agenda, number));
	if (choice->is_left_alone)
		responders_press(&agenda->responders, entry->host, clock_steady(), clock_wall(),
			cache_usable_until(slot_at(agenda, number)) * 1000, is_new);
}

/* A slot may have become another certificate's. */
static void keep_up(struct agenda *agenda, size_t number)
{
	struct entry *entry = &agenda->entries[number];
	uint32_t generation = atomic_load(&slot_at(agenda, number)->generation);

	if (entry->generation == generation)
		return;
	entry->generation = generation;
	entry->is_suspect = false;
	entry->choice = 0;
	entry->tried = 0;
}

/* It is due: to one of its responders. */
static void route(struct agenda *agenda, size_t number)
{
	bool is_new = atomic_load(&slot_at(agenda, number)->state) == SLOT_PENDING;
	struct option choice = {0};

	keep_up(agenda, number);
	if (choose(agenda, number, &choice))
		put_waiting(agenda, number, &choice, is_new);
	else
		put_by_time(agenda, number, clock_wall() + SCHEDULE_LEAST);
}

/*
 * A host failed: those who wait for it go elsewhere, if they can. If not, nothing comes soon, and
 * nobody need wait for it.
 */
static void route_again(struct agenda *agenda, size_t host)
{
	struct cache *cache = agenda->supply->cache;
	/* Aside first: they may come back into the same queue. Keys are made anew there. */
	int32_t moved = agenda->responders.list[host].waiting;

	agenda->responders.list[host].waiting = QUEUE_NONE;
	for (size_t i = 0; moved != QUEUE_NONE; i++) {
		int32_t number = queue_pop(agenda->nodes, &moved);
		struct slot *slot = slot_at(agenda, (size_t)number);
		struct option choice = {0};

		gate_pause_at(gate_of(agenda), i);
		if (!choose(agenda, (size_t)number, &choice)) {
			put_by_time(agenda, (size_t)number, clock_wall() + SCHEDULE_LEAST);
			continue;
		}
		if (choice.is_left_alone && atomic_load(&slot->state) == SLOT_PENDING)
			cache_set_state(cache, slot, SLOT_FAILING);
		put_waiting(agenda, (size_t)number, &choice, false);
	}
}

/*
 * Looking
 */

/* Room for so many slots; false if there is not that much. */
static bool make_room(struct agenda *agenda, size_t count)
{
	size_t room = agenda->room ? agenda->room : ROOM_FIRST;
	struct queue_node *nodes;
	struct entry *entries;

	if (count <= agenda->room)
		return true;
	while (room < count)
		room *= 2;
	nodes = realloc(agenda->nodes, room * sizeof(*nodes));
	if (nodes)
		agenda->nodes = nodes;
	entries = realloc(agenda->entries, room * sizeof(*entries));
	if (entries)
		agenda->entries = entries;
	if (!nodes || !entries)
		return false;
	agenda->room = room;
	return true;
}

static void take_new(struct agenda *agenda)
{
	size_t count = cache_slot_count(agenda->supply->cache);

	if (count == agenda->count || !make_room(agenda, count))
		return;
	for (; agenda->count < count; agenda->count++) {
		agenda->entries[agenda->count] = (struct entry){0};
		put_by_time(agenda, agenda->count,
			supply_due(agenda->supply, slot_at(agenda, agenda->count)));
		gate_pause_at(gate_of(agenda), agenda->count);
	}
}

static void look_at(struct agenda *agenda, size_t number, int64_t now)
{
	struct slot *slot = slot_at(agenda, number);
	struct entry *entry = &agenda->entries[number];
	int64_t due;

	if (entry->place == UNDER_WAY)
		return;
	supply_mend(agenda->supply, slot);
	due = supply_due(agenda->supply, slot);
	if (entry->place == WAITING ? due > now : due != agenda->nodes[number].key) {
		take_out(agenda, number);
		put_by_time(agenda, number, due);
	}
}

/* After how long to look at all slots: the more there are, the dearer it is. */
static int64_t look_interval(const struct agenda *agenda)
{
	return agenda->stirred ? (int64_t)agenda->count / LOOKED_AT : AGENDA_LOOK;
}

static bool must_look(const struct agenda *agenda)
{
	int64_t now = clock_steady();
	int64_t drift = clock_wall() - now - agenda->ahead;
	int64_t since = now - agenda->looked;

	return agenda->issuers != cache_issuer_count(agenda->supply->cache) ||
	       drift > CLOCK_TOLERANCE || drift < -CLOCK_TOLERANCE ||
	       since >= look_interval(agenda);
}

static void look(struct agenda *agenda)
{
	int64_t now = clock_wall();

	if (cache_has_news(agenda->supply->cache))
		agenda->stirred = true;
	take_new(agenda);
	if (must_look(agenda)) {
		agenda->stirred = false;
		agenda->looked = clock_steady();
		agenda->ahead = now - agenda->looked;
		agenda->issuers = cache_issuer_count(agenda->supply->cache);
		for (size_t i = 0; i < agenda->count; i++) {
			look_at(agenda, i, now);
			gate_pause_at(gate_of(agenda), i);
		}
	}
	for (size_t i = 0;
		agenda->by_time != QUEUE_NONE && agenda->nodes[agenda->by_time].key <= now; i++) {
		size_t number = (size_t)queue_pop(agenda->nodes, &agenda->by_time);
		int64_t due = supply_due(agenda->supply, slot_at(agenda, number));

		if (due <= now)
			route(agenda, number);
		else
			put_by_time(agenda, number, due);
		gate_pause_at(gate_of(agenda), i);
	}
}

/*
 * Beginning
 */

/* First who has nothing to staple, then who has the fewest under way, then who is in a hurry. */
static bool goes_before(const struct agenda *agenda, size_t a, size_t b)
{
	const struct responder *list = agenda->responders.list;
	bool first = is_first(agenda, list[a].waiting);

	if (first != is_first(agenda, list[b].waiting))
		return first;
	if (list[a].in_flight != list[b].in_flight)
		return list[a].in_flight < list[b].in_flight;
	return agenda->nodes[list[a].waiting].key < agenda->nodes[list[b].waiting].key;
}

/* A machine asks a few dozen hosts: they are looked through. */
static bool choose_host(const struct agenda *agenda, size_t *best)
{
	const struct responders *responders = &agenda->responders;
	int64_t now = clock_steady();
	bool found = false;

	for (size_t i = 0; i < responders->count; i++) {
		int32_t waiting = responders->list[i].waiting;

		if (waiting == QUEUE_NONE ||
			!responders_may_begin(responders, i, is_first(agenda, waiting), now))
			continue;
		if (!found || goes_before(agenda, i, *best))
			*best = i;
		found = true;
	}
	return found;
}

bool agenda_next(struct agenda *agenda, struct errand *errand)
{
	struct entry *entry;
	size_t host = 0, number;

	look(agenda);
	if (!choose_host(agenda, &host))
		return false;
	number = (size_t)queue_pop(agenda->nodes, &agenda->responders.list[host].waiting);
	responders_begin(&agenda->responders, host);
	entry = &agenda->entries[number];
	entry->place = UNDER_WAY;
	entry->begun = clock_steady();
	errand->slot = slot_at(agenda, number);
	errand->responder[0] = '\0';
	if (cache_pin(errand->slot, atomic_load(&errand->slot->generation))) {
		copy_responder(errand->slot->responders, entry->choice, errand->responder);
		cache_unpin(errand->slot);
	}
	return true;
}

/*
 * Ending
 */

static struct entry *entry_of(const struct agenda *agenda, const struct slot *slot)
{
	return &agenda->entries[cache_slot_index(agenda->supply->cache, slot)];
}

/* Not now at once, whatever it says: others shall have their turn. */
static void come_back(struct agenda *agenda, const struct slot *slot)
{
	int64_t soon = clock_wall() + 1;
	int64_t due = supply_due(agenda->supply, slot);

	put_by_time(agenda, cache_slot_index(agenda->supply->cache, slot), due < soon ? soon : due);
}

void agenda_withdraw(struct agenda *agenda, const struct slot *slot)
{
	struct entry *entry = entry_of(agenda, slot);

	responders_withdraw(&agenda->responders, entry->host);
	entry->tried = 0;
	come_back(agenda, slot);
}

static void take_good(struct agenda *agenda, struct slot *slot, const struct answer *answer)
{
	struct entry *entry = entry_of(agenda, slot);

	responders_good(&agenda->responders, entry->host,
		is_first(agenda, host_of(agenda, entry)->waiting), clock_steady());
	entry->is_suspect = false;
	if (answer->state == FETCH_UNCHANGED)
		supply_unchanged(agenda->supply, slot, answer->responder, answer->fresh_until);
	else
		supply_answer(agenda->supply, slot, &answer->judgement, answer->response,
			answer->responder, answer->fresh_until);
}

/* True if the responder itself fails; those who wait for it know it then. */
static bool note_failure(
	struct agenda *agenda, const struct slot *slot, const struct answer *answer)
{
	struct entry *entry = entry_of(agenda, slot);
	int64_t now = clock_steady();

	entry->tried |= 1U << entry->choice;
	entry->is_suspect = answer->fault == FETCH_FAULT_RESPONDER;
	if (!entry->is_suspect) {
		responders_bad(&agenda->responders, entry->host, now);
		return false;
	}
	if (!responders_failed(&agenda->responders, entry->host, entry->begun, now,
		    answer->retry_after, supply_draw()))
		return false;
	route_again(agenda, entry->host);
	return true;
}

/* True if another responder of the certificate can be asked at once. */
static bool try_next(struct agenda *agenda, const struct slot *slot, const struct answer *answer)
{
	size_t number = cache_slot_index(agenda->supply->cache, slot);
	struct option choice = {0};

	if (!choose(agenda, number, &choice) || choice.is_left_alone)
		return false;
	log_info("%s: no usable response from %s: %s; asking its next responder", slot->label,
		answer->responder, answer->why);
	put_waiting(agenda, number, &choice, false);
	return true;
}

static void take_failure(struct agenda *agenda, struct slot *slot, const struct answer *answer)
{
	struct entry *entry = entry_of(agenda, slot);
	bool is_outage = note_failure(agenda, slot, answer);

	if (try_next(agenda, slot, answer))
		return;
	entry->tried = 0;
	if (is_outage)
		supply_outage(agenda->supply, slot, answer->responder, answer->why,
			host_of(agenda, entry)->until - clock_steady());
	else if (answer->fault == FETCH_FAULT_UNAUTHORIZED)
		supply_refusal(
			agenda->supply, slot, answer->responder, answer->why, answer->retry_after);
	else
		supply_failure(agenda->supply, slot, SLOT_FAILING, answer->responder, answer->why,
			answer->retry_after);
	come_back(agenda, slot);
}

void agenda_land(struct agenda *agenda, struct slot *slot, const struct answer *answer)
{
	struct entry *entry = entry_of(agenda, slot);

	if (answer->state == FETCH_FAILED) {
		take_failure(agenda, slot, answer);
		return;
	}
	if (answer->state == FETCH_ANSWERED && answer->judgement.verdict == VERDICT_UNKNOWN) {
		responders_bad(&agenda->responders, entry->host, clock_steady());
		supply_failure(agenda->supply, slot, SLOT_UNKNOWN, answer->responder,
			verdict_text(answer->judgement.verdict), 0);
	} else {
		take_good(agenda, slot, answer);
	}
	entry->tried = 0;
	come_back(agenda, slot);
}

bool agenda_is_backed_up(const struct agenda *agenda)
{
	const struct responders *responders = &agenda->responders;
	int64_t now = clock_steady();

	for (size_t i = 0; i < responders->count; i++)
		if (responders->list[i].waiting != QUEUE_NONE &&
			!responders_is_left_alone(responders, i, now))
			return true;
	return false;
}

int agenda_wait(const struct agenda *agenda)
{
	int64_t now = clock_steady();
	int64_t wait = agenda->looked + look_interval(agenda) - now;

	if (agenda->by_time != QUEUE_NONE &&
		agenda->nodes[agenda->by_time].key - clock_wall() < wait)
		wait = agenda->nodes[agenda->by_time].key - clock_wall();
	for (size_t i = 0; i < agenda->responders.count; i++) {
		const struct responder *responder = &agenda->responders.list[i];

		if (responder->waiting != QUEUE_NONE && responder->until - now < wait)
			wait = responder->until - now;
	}
	return wait > 0 ? (int)wait : 0;
}
