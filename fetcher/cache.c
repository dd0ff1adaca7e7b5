/* SPDX-License-Identifier: MIT */
#include "cache.h"

#include "clock.h"
#include "ocsp.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
	/* What a response takes is a multiple of this, with some room for its successors, which
	 * differ from it by the length of a number or two. */
	CAPACITY_UNIT = 512,
	CAPACITY_MORE = 32,
	/* A host with a limit on its address space keeps this share of it, and more, for itself. */
	LEAST_SHARE = 8,
	/* Slots of certificates that nobody has loaded keep their responses for a while: somebody
	 * may come back. No more than so many of them, and not the half of a small cache. */
	RELEASED_MOST = 256,
	TOUCH_INTERVAL = 1000, /* milliseconds; not each handshake writes */
	SCAN_INTERVAL = 1000,
	LEAST_LIFE = 2 * TOUCH_INTERVAL,
	/* For how long a sign of somebody counts where no response is held. */
	COMMON_LIFE = 3600 * 1000,
	LONGEST_LIFE = 366 * 24 * 3600, /* seconds; longer ones exist on paper only */
	LOOK_INTERVAL = 1, /* seconds between two looks of a standby at what the lock cannot tell */
	/* Milliseconds after which a leader that has not come back from its sleep is stopped. */
	SILENCE = 5000,
};

/* At which alone a revocation may be read, lest anybody who is slow take it for a staple. */
#define NO_TIME INT64_MIN

/*
 * Address space, not memory: pages come into being when they are written. But it counts in
 * RLIMIT_AS, which vsftpd sets to 200 MB in its children, after a thread's malloc took 64 of them.
 */
static const struct extent {
	size_t size;
	uint32_t slots; /* as many buckets */
	uint32_t issuers;
} extents[] = {
	{(size_t)64 << 20, 16384, 4096},
	{(size_t)16 << 20, 2048, 512},
	{(size_t)2 << 20, 256, 64},
};

struct cache {
	struct extent extent;
	_Atomic uint32_t news;     /* futex of the leader */
	_Atomic uint32_t progress; /* futex of those who wait for a first answer */

	pthread_mutex_t leader;
	pthread_mutex_t standby[CACHE_STANDBYS];
	_Atomic int64_t leader_back; /* steady clock: when it was to be at work at the latest */

	/* Everything below is written under add, in an order that a dead writer cannot spoil. */
	pthread_mutex_t add;
	_Atomic uint32_t slot_count;
	_Atomic uint32_t issuer_count;
	_Atomic uint32_t released; /* about so many slots have no witness */
	int64_t scanned;           /* steady clock: when they were last looked through */
	size_t used;
	_Atomic(struct slot *) *buckets;
	struct slot *slots;
	struct issuer_entry *issuers;
	_Alignas(8) unsigned char arena[];
};

static bool mutex_init(pthread_mutex_t *mutex)
{
	pthread_mutexattr_t attributes;
	bool ok;

	if (pthread_mutexattr_init(&attributes) != 0)
		return false;
	ok = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) == 0 &&
	     pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0 &&
	     pthread_mutex_init(mutex, &attributes) == 0;
	pthread_mutexattr_destroy(&attributes);
	return ok;
}

/* True if the caller now owns the mutex, be it as a dead owner's heir. */
static bool mutex_taken(pthread_mutex_t *mutex, int result)
{
	if (result == EOWNERDEAD)
		result = pthread_mutex_consistent(mutex);
	return result == 0;
}

static bool mutex_trylock(pthread_mutex_t *mutex)
{
	return mutex_taken(mutex, pthread_mutex_trylock(mutex));
}

/* Within so many seconds. EOWNERDEAD is as good as 0; ETIMEDOUT. */
static int mutex_lock_within(pthread_mutex_t *mutex, int seconds)
{
	struct timespec until;

	/* The one clock that every libc has for this. */
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += seconds;
	return pthread_mutex_timedlock(mutex, &until);
}

/*
 * False if ends says true, which it is asked now and then: nobody but the owner could wake who
 * waits here, and the owner may be another process.
 */
static bool mutex_lock_unless(pthread_mutex_t *mutex, bool (*ends)(void))
{
	int result;

	do {
		if (ends && ends())
			return false;
		result = mutex_lock_within(mutex, LOOK_INTERVAL);
	} while (result == ETIMEDOUT);
	return mutex_taken(mutex, result);
}

static bool add_lock(struct cache *cache)
{
	return mutex_taken(&cache->add, pthread_mutex_lock(&cache->add));
}

/* Not FUTEX_PRIVATE: the other side may be another process. */
static void futex_wait(_Atomic uint32_t *word, uint32_t value, int64_t timeout)
{
	struct timespec time = {timeout / 1000, timeout % 1000 * 1000000};

	syscall(SYS_futex, word, FUTEX_WAIT, value, &time, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word)
{
	atomic_fetch_add(word, 1);
	syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* Under add. What a dead writer had taken is lost, no more. */
static void *arena_take(struct cache *cache, size_t size)
{
	size_t room = cache->extent.size - sizeof(*cache) - cache->used;
	void *memory = cache->arena + cache->used;

	size = (size + 7) & ~(size_t)7;
	if (size > room)
		return NULL;
	cache->used += size;
	return memory;
}

/* The largest that the kernel grants and that leaves the host enough. */
static struct cache *map_extent(struct extent *extent)
{
	struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};

	getrlimit(RLIMIT_AS, &limit);
	for (size_t i = 0; i < sizeof(extents) / sizeof(*extents); i++) {
		void *memory;

		*extent = extents[i];
		if (limit.rlim_cur != RLIM_INFINITY && extent->size > limit.rlim_cur / LEAST_SHARE)
			continue;
		memory = mmap(NULL, extent->size, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (memory != MAP_FAILED)
			return memory;
	}
	errno = ENOMEM;
	return NULL;
}

struct cache *cache_create(void)
{
	struct extent extent;
	struct cache *cache = map_extent(&extent);
	bool ok;

	if (!cache)
		return NULL;
	cache->extent = extent;
	cache->buckets = arena_take(cache, extent.slots * sizeof(*cache->buckets));
	cache->slots = arena_take(cache, extent.slots * sizeof(*cache->slots));
	cache->issuers = arena_take(cache, extent.issuers * sizeof(*cache->issuers));
	ok = mutex_init(&cache->leader) && mutex_init(&cache->add);
	for (int place = 0; place < CACHE_STANDBYS; place++)
		ok = ok && mutex_init(&cache->standby[place]);
	if (ok)
		return cache;
	cache_destroy(cache);
	return NULL;
}

void cache_destroy(struct cache *cache)
{
	munmap(cache, cache->extent.size);
}

static bool arena_copy(struct cache *cache, struct bytes from, struct bytes *to)
{
	unsigned char *memory = arena_take(cache, from.size);

	if (!memory)
		return false;
	memcpy(memory, from.data, from.size);
	*to = (struct bytes){memory, from.size};
	return true;
}

/*
 * Under add. Memory for size bytes: what there is, or at least twice that, so that what is lost
 * does not add up however often a slot is used again.
 */
static unsigned char *arena_renew(struct cache *cache, struct slot_room *room, size_t size)
{
	size_t more = (size + 255) & ~(size_t)255;
	uint32_t before = atomic_load(&room->size);
	unsigned char *memory;

	if (size <= before)
		return room->memory;
	if (more < 2 * (size_t)before)
		more = 2 * (size_t)before;
	memory = arena_take(cache, more);
	if (!memory)
		return NULL;
	room->memory = memory;
	atomic_store(&room->size, (uint32_t)more);
	return memory;
}

static size_t bucket_of(const struct cache *cache, const unsigned char *key)
{
	uint32_t start;

	memcpy(&start, key, sizeof(start));
	return start % cache->extent.slots;
}

static uint64_t tag_of(const unsigned char *key)
{
	uint64_t tag;

	memcpy(&tag, key, sizeof(tag));
	return tag;
}

/*
 * Who pins looks at the generation after that, and slot_empty at the pins after it has changed the
 * generation: one of the two sees the other.
 */
static bool pin(struct slot *slot, uint32_t generation)
{
	atomic_fetch_add(&slot->pins, 1);
	if (atomic_load(&slot->generation) == generation)
		return true;
	cache_unpin(slot);
	return false;
}

bool cache_pin(struct slot *slot, uint32_t generation)
{
	return generation % 2 == 1 && pin(slot, generation);
}

void cache_unpin(struct slot *slot)
{
	atomic_fetch_sub(&slot->pins, 1);
}

static bool pin_if_of(struct slot *slot, const unsigned char *key)
{
	if (!cache_pin(slot, atomic_load(&slot->generation)))
		return false;
	if (memcmp(slot->key, key, CERTIFICATE_KEY_SIZE) == 0)
		return true;
	cache_unpin(slot);
	return false;
}

struct slot *cache_find(const struct cache *cache, const unsigned char *key)
{
	struct slot *slot =
		atomic_load_explicit(&cache->buckets[bucket_of(cache, key)], memory_order_acquire);

	/* A slot that is used again under our eyes leads into another bucket: what is missed then
	 * is found by a second look under add; what is not found ends all the same. */
	for (uint32_t steps = 0; slot && steps < cache->extent.slots; steps++) {
		if (atomic_load(&slot->tag) == tag_of(key) && pin_if_of(slot, key))
			return slot;
		slot = atomic_load_explicit(&slot->next_in_bucket, memory_order_acquire);
	}
	return NULL;
}

/* Under add. */
static void slot_link(struct cache *cache, struct slot *slot)
{
	size_t bucket = bucket_of(cache, slot->key);

	atomic_store(&slot->next_in_bucket, atomic_load(&cache->buckets[bucket]));
	atomic_store_explicit(&cache->buckets[bucket], slot, memory_order_release);
}

/* Under add. Nothing happens to one that a dead writer has taken out already. */
static void slot_unlink(struct cache *cache, struct slot *slot)
{
	_Atomic(struct slot *) *link = &cache->buckets[bucket_of(cache, slot->key)];

	while (atomic_load(link) && atomic_load(link) != slot)
		link = &atomic_load(link)->next_in_bucket;
	if (atomic_load(link))
		atomic_store_explicit(
			link, atomic_load(&slot->next_in_bucket), memory_order_release);
}

/*
 * How long a sign that somebody has it loaded counts: a response that is held can still be stapled
 * for the rest of its life, and whoever does so gives the next sign.
 */
static int64_t slot_life(const struct slot *slot)
{
	int64_t end = cache_usable_until(slot);
	int64_t life = end - atomic_load(&slot->this_update);

	if (end == 0)
		return COMMON_LIFE;
	if (life > LONGEST_LIFE)
		life = LONGEST_LIFE;
	return life * 1000 > LEAST_LIFE ? life * 1000 : LEAST_LIFE;
}

static bool slot_is_used(const struct slot *slot)
{
	return atomic_load(&slot->generation) % 2 == 1;
}

/* Under add. The one that has been without a sign of anybody for the longest time. */
static struct slot *find_released(struct cache *cache, int64_t now, bool pressed)
{
	uint32_t count = atomic_load(&cache->slot_count), released = 0;
	struct slot *best = NULL;

	for (uint32_t i = 0; i < count; i++) {
		struct slot *slot = &cache->slots[i];
		int64_t held = atomic_load(&slot->held);

		if (slot_is_used(slot) && atomic_load(&slot->witness) != 0)
			continue;
		released++;
		if (atomic_load(&slot->pins) > 0 ||
			(best && slot_is_used(slot) && held >= atomic_load(&best->held)))
			continue;
		best = slot;
		/* What a dead writer began belongs to nobody. */
		if (!slot_is_used(slot))
			return slot;
	}
	atomic_store(&cache->released, released);
	cache->scanned = now;
	return best && (pressed || now - atomic_load(&best->held) > slot_life(best)) ? best : NULL;
}

/* False if the process is no more; then others may say that they have it. */
static bool witness_lives(struct cache *cache, struct slot *slot)
{
	pid_t witness = atomic_load(&slot->witness);

	if (witness == 0 || kill(witness, 0) == 0 || errno != ESRCH)
		return witness != 0;
	if (atomic_compare_exchange_strong(&slot->witness, &witness, 0))
		atomic_fetch_add(&cache->released, 1);
	return false;
}

/* Under add. True if the slot was nobody's and can be filled now. */
static bool slot_empty(struct cache *cache, struct slot *slot)
{
	uint32_t generation = atomic_load(&slot->generation);

	if (generation % 2 == 1) {
		atomic_store(&slot->generation, generation + 1);
		if (atomic_load(&slot->pins) > 0 || atomic_load(&slot->witness) != 0) {
			atomic_store(&slot->generation, generation);
			return false;
		}
	}
	/* Before the leader can take it for one that is due. */
	atomic_store(&slot->due, SLOT_NEVER);
	slot_unlink(cache, slot);
	return true;
}

/* Under add. A slot to be filled, an old one if there are enough of them. NULL if all are in use.
 */
static struct slot *slot_obtain(struct cache *cache, int64_t now, bool has_memory)
{
	uint32_t most =
		cache->extent.slots / 4 < RELEASED_MOST ? cache->extent.slots / 4 : RELEASED_MOST;
	uint32_t count = atomic_load(&cache->slot_count);
	uint32_t released = atomic_load(&cache->released);
	bool is_full = count == cache->extent.slots || !has_memory;
	bool pressed = is_full || released > most;
	struct slot *slot = NULL;

	if (pressed || (released > 0 && now - cache->scanned > SCAN_INTERVAL))
		slot = find_released(cache, now, pressed);
	if (!slot && is_full) {
		for (uint32_t i = 0; i < count; i++)
			witness_lives(cache, &cache->slots[i]);
		slot = find_released(cache, now, true);
	}
	if (slot && slot_empty(cache, slot))
		return slot;
	return is_full ? NULL : &cache->slots[count];
}

/* Under add; nobody else looks at the slot. All fields but the responses' memory, which stays. */
static bool slot_fill(struct cache *cache, struct slot *slot, const struct certificate *certificate,
	const char *responders, int64_t now)
{
	struct bytes der = buffer_bytes(&certificate->der);
	size_t responders_size = strlen(responders) + 1;
	size_t label_size = strlen(certificate->label) + 1;
	unsigned char *memory = arena_renew(cache, &slot->certificate_room, der.size);
	unsigned char *text;

	if (!memory)
		return false;
	slot->certificate = (struct bytes){memcpy(memory, der.data, der.size), der.size};
	text = arena_renew(cache, &slot->text_room, responders_size + label_size);
	if (!text)
		return false;
	slot->responders = memcpy(text, responders, responders_size);
	slot->label = memcpy(text + responders_size, certificate->label, label_size);
	memcpy(slot->key, certificate->key, sizeof(slot->key));
	memcpy(slot->issuer_key, certificate->issuer_key, sizeof(slot->issuer_key));
	slot->issuer_name = certificate->issuer;
	atomic_store(&slot->tag, tag_of(slot->key));
	atomic_store(&slot->registered, now);
	atomic_store(&slot->held, now);
	atomic_store(&slot->witness, getpid());
	atomic_store(&slot->state, SLOT_PENDING);
	atomic_store(&slot->issuers_seen, 0);
	atomic_store(&slot->current, 0);
	atomic_store(&slot->revocation, 0);
	atomic_store(&slot->issuer, NULL);
	atomic_store(&slot->this_update, 0);
	atomic_store(&slot->failures, 0);
	atomic_store(&slot->stamp, 0);
	atomic_store(&slot->barred, 0);
	atomic_store(&slot->looked, 0);
	atomic_store(&slot->asked, 0);
	atomic_store(&slot->sought, 0);
	atomic_store(&slot->ready.serial, 0);
	atomic_store(&slot->ready.stamp, 0);
	atomic_store(&slot->ready.judged, 0);
	atomic_store(&slot->ready.state, READY_NONE);
	atomic_store(&slot->ready.until, 0);
	atomic_store(&slot->ready.end, 0);
	return true;
}

/* Under add. */
static struct slot *slot_make(struct cache *cache, const struct certificate *certificate,
	const char *responders, int64_t now)
{
	struct slot *slot = slot_obtain(cache, now, true);
	uint32_t generation;

	if (slot && !slot_fill(cache, slot, certificate, responders, now)) {
		/* An old one may have enough. */
		slot = slot_obtain(cache, now, false);
		if (slot && !slot_fill(cache, slot, certificate, responders, now))
			slot = NULL;
	}
	if (!slot)
		return NULL;
	generation = atomic_load(&slot->generation);
	atomic_store(&slot->generation, generation | 1);
	atomic_store(&slot->due, 0);
	/* Counted before it can be found: the other way round, a writer that dies in between would
	 * leave a slot in the bucket that the next certificate overwrites. */
	if (cache_slot_index(cache, slot) == atomic_load(&cache->slot_count))
		atomic_fetch_add(&cache->slot_count, 1);
	slot_link(cache, slot);
	pin(slot, generation | 1);
	return slot;
}

static void claim(struct cache *cache, struct slot *slot, int64_t now)
{
	if (cache_touch(slot, now))
		cache_claim(cache, slot, now);
}

struct slot *cache_add(struct cache *cache, const struct certificate *certificate,
	const char *responders, int64_t now)
{
	struct slot *slot = cache_find(cache, certificate->key);
	bool is_new = false;

	if (!slot && add_lock(cache)) {
		slot = cache_find(cache, certificate->key);
		is_new = !slot;
		if (is_new)
			slot = slot_make(cache, certificate, responders, now);
		pthread_mutex_unlock(&cache->add);
	}
	if (slot && is_new)
		cache_wake(cache);
	else if (slot)
		claim(cache, slot, now);
	return slot;
}

bool cache_touch(struct slot *slot, int64_t now)
{
	if (now - atomic_load(&slot->held) >= TOUCH_INTERVAL)
		atomic_store(&slot->held, now);
	return atomic_load(&slot->witness) == 0 || atomic_load(&slot->due) == SLOT_NEVER;
}

/* Under add. What is left of its response is kept; what can no longer be stapled may be waited for.
 */
static void revive(struct slot *slot, int64_t now)
{
	if (atomic_load(&slot->due) != SLOT_NEVER)
		return;
	if (cache_usable_until(slot) <= clock_wall() / 1000 &&
		atomic_load(&slot->state) != SLOT_REVOKED) {
		atomic_store_explicit(&slot->current, 0, memory_order_release);
		atomic_store(&slot->state, SLOT_PENDING);
	}
	atomic_store(&slot->registered, now);
	atomic_store(&slot->due, 0);
}

void cache_claim(struct cache *cache, struct slot *slot, int64_t now)
{
	pid_t nobody = 0;

	atomic_compare_exchange_strong(&slot->witness, &nobody, getpid());
	if (atomic_load(&slot->due) != SLOT_NEVER || !add_lock(cache))
		return;
	revive(slot, now);
	pthread_mutex_unlock(&cache->add);
	cache_wake(cache);
}

void cache_release(struct cache *cache, struct slot *slot, uint32_t generation)
{
	pid_t self = getpid();

	if (!cache_pin(slot, generation))
		return;
	if (atomic_compare_exchange_strong(&slot->witness, &self, 0)) {
		atomic_store(&slot->held, clock_steady());
		atomic_fetch_add(&cache->released, 1);
	}
	cache_unpin(slot);
}

bool cache_is_wanted(struct cache *cache, struct slot *slot, int64_t now)
{
	return witness_lives(cache, slot) || now - atomic_load(&slot->held) <= slot_life(slot);
}

static const struct issuer_entry *issuer_find_entry(
	const struct cache *cache, const unsigned char *key)
{
	uint32_t count = cache_issuer_count(cache);

	for (uint32_t i = 0; i < count; i++)
		if (memcmp(cache->issuers[i].key, key, CERTIFICATE_KEY_SIZE) == 0)
			return &cache->issuers[i];
	return NULL;
}

/* Under add. */
static const struct issuer_entry *issuer_make(
	struct cache *cache, const struct certificate *certificate)
{
	uint32_t count = atomic_load(&cache->issuer_count);
	struct issuer_entry *entry = cache->issuers + count;

	if (count == cache->extent.issuers ||
		!arena_copy(cache, buffer_bytes(&certificate->der), &entry->der))
		return NULL;
	memcpy(entry->key, certificate->key, sizeof(entry->key));
	entry->subject = certificate->subject;
	entry->not_before = certificate->not_before;
	entry->not_after = certificate->not_after;
	atomic_store_explicit(&cache->issuer_count, count + 1, memory_order_release);
	return entry;
}

const struct issuer_entry *cache_keep_issuer(
	struct cache *cache, const struct certificate *certificate)
{
	const struct issuer_entry *entry = issuer_find_entry(cache, certificate->key);

	if (entry || !add_lock(cache))
		return entry;
	entry = issuer_find_entry(cache, certificate->key);
	if (!entry)
		entry = issuer_make(cache, certificate);
	pthread_mutex_unlock(&cache->add);
	return entry;
}

bool cache_add_issuer(struct cache *cache, const struct certificate *certificate)
{
	uint32_t before = cache_issuer_count(cache);

	if (!cache_keep_issuer(cache, certificate))
		return false;
	if (cache_issuer_count(cache) != before)
		cache_wake(cache);
	return true;
}

size_t cache_slot_limit(const struct cache *cache)
{
	return cache->extent.slots;
}

size_t cache_slot_count(const struct cache *cache)
{
	return atomic_load_explicit(&cache->slot_count, memory_order_acquire);
}

struct slot *cache_slot(struct cache *cache, size_t index)
{
	return &cache->slots[index];
}

size_t cache_slot_index(const struct cache *cache, const struct slot *slot)
{
	return (size_t)(slot - cache->slots);
}

uint32_t cache_issuer_count(const struct cache *cache)
{
	return atomic_load_explicit(&cache->issuer_count, memory_order_acquire);
}

const struct issuer_entry *cache_issuer(const struct cache *cache, uint32_t index)
{
	return &cache->issuers[index];
}

/*
 * Responses are a sequence lock around words that are atomic themselves. Acquire on every word
 * keeps the second look at the sequence behind all of them, release on every word keeps them behind
 * the first change of the sequence; no fence, which ThreadSanitizer would not understand.
 */
static void words_store(_Atomic uint64_t *words, struct bytes from)
{
	for (size_t at = 0; at < from.size; at += 8) {
		size_t left = from.size - at;
		uint64_t word = 0;

		memcpy(&word, from.data + at, left < 8 ? left : 8);
		atomic_store_explicit(&words[at / 8], word, memory_order_release);
	}
}

static void words_load(const _Atomic uint64_t *words, unsigned char *to, size_t size)
{
	for (size_t at = 0; at < size; at += 8) {
		size_t left = size - at;
		uint64_t word = atomic_load_explicit(&words[at / 8], memory_order_acquire);

		memcpy(to + at, &word, left < 8 ? left : 8);
	}
}

/* False if the leader wrote to it meanwhile: by then the other place is current. */
static bool response_read(
	const struct slot_response *response, int64_t now, void *out, size_t room, size_t *size)
{
	uint32_t sequence = atomic_load_explicit(&response->sequence, memory_order_acquire);
	const _Atomic uint64_t *words;
	int64_t usable_from, usable_until;

	*size = atomic_load_explicit(&response->size, memory_order_acquire);
	usable_from = atomic_load_explicit(&response->usable_from, memory_order_acquire);
	usable_until = atomic_load_explicit(&response->usable_until, memory_order_acquire);
	words = atomic_load_explicit(&response->words, memory_order_acquire);
	/* Before the copy: only a size and a pointer that belong together are safe to follow. */
	if (sequence % 2 ||
		atomic_load_explicit(&response->sequence, memory_order_acquire) != sequence)
		return false;
	if (now < usable_from || now >= usable_until)
		*size = 0;
	else if (*size <= room)
		words_load(words, out, *size);
	return atomic_load_explicit(&response->sequence, memory_order_acquire) == sequence;
}

static size_t slot_read(const struct slot *slot, const _Atomic uint32_t *number, int64_t now,
	void *out, size_t room)
{
	size_t size;

	/* A second try can only be needed if two responses were published during the first. */
	for (int tries = 0; tries < 100; tries++) {
		uint32_t place = atomic_load_explicit(number, memory_order_acquire);

		if (place == 0)
			return 0;
		if (response_read(&slot->response[place - 1], now, out, room, &size))
			return size;
	}
	return 0;
}

size_t cache_read(const struct slot *slot, int64_t now, void *out, size_t room)
{
	return slot_read(slot, &slot->current, now, out, room);
}

size_t cache_read_revocation(const struct slot *slot, void *out, size_t room)
{
	return slot_read(slot, &slot->revocation, NO_TIME, out, room);
}

int64_t cache_usable_until(const struct slot *slot)
{
	uint32_t current = atomic_load_explicit(&slot->current, memory_order_acquire);

	return current == 0 ? 0 : atomic_load(&slot->response[current - 1].usable_until);
}

/* Under add. */
static bool is_older(const struct slot *slot, int64_t this_update, int64_t now)
{
	return this_update < atomic_load(&slot->this_update) &&
	       (atomic_load(&slot->state) == SLOT_REVOKED || cache_usable_until(slot) > now);
}

/*
 * At least twice what there was, if there was any: what is replaced is lost, and must not add up
 * however often the responses of one certificate grow.
 */
static uint32_t capacity_for(size_t size, uint32_t before)
{
	uint32_t units = (uint32_t)(size + CAPACITY_MORE + CAPACITY_UNIT - 1) / CAPACITY_UNIT;
	uint32_t capacity = units * CAPACITY_UNIT;

	if (capacity < 2 * before)
		capacity = 2 * before;
	return capacity < CACHE_RESPONSE_LIMIT ? capacity : CACHE_RESPONSE_LIMIT;
}

/*
 * Under add. Words that are replaced stay readable for ever: somebody may be reading them. False,
 * and nothing has changed, if there is no room.
 */
static bool response_write(struct cache *cache, struct slot_response *place, struct bytes response,
	int64_t usable_from, int64_t usable_until)
{
	_Atomic uint64_t *words = atomic_load(&place->words);
	uint32_t capacity = atomic_load(&place->capacity);
	uint32_t sequence;

	if (response.size > capacity) {
		capacity = capacity_for(response.size, capacity);
		words = arena_take(cache, capacity);
	}
	if (!words)
		return false;
	/* Still odd if a writer died here. */
	sequence = atomic_load(&place->sequence) | 1;
	atomic_store(&place->sequence, sequence);
	atomic_store_explicit(&place->words, words, memory_order_release);
	/* Never before words: a writer that died in between would leave the next too little. */
	atomic_store(&place->capacity, capacity);
	atomic_store_explicit(&place->size, (uint32_t)response.size, memory_order_release);
	atomic_store_explicit(&place->usable_from, usable_from, memory_order_release);
	atomic_store_explicit(&place->usable_until, usable_until, memory_order_release);
	words_store(words, response);
	atomic_store_explicit(&place->sequence, sequence + 1, memory_order_release);
	return true;
}

/* Under add. Into the place that is not current; its number, or 0 if there is no room. */
static uint32_t slot_write(struct cache *cache, struct slot *slot, struct bytes response,
	int64_t usable_from, int64_t usable_until)
{
	uint32_t next = atomic_load(&slot->current) == 1 ? 2 : 1;

	/* It may be there. */
	atomic_store(&slot->revocation, 0);
	return response_write(cache, &slot->response[next - 1], response, usable_from, usable_until)
		       ? next
		       : 0;
}

/* Under add. */
static enum cache_result publish(struct cache *cache, struct slot *slot, struct bytes response,
	int64_t this_update, int64_t usable_until)
{
	uint32_t next = slot_write(cache, slot, response, this_update - OCSP_SKEW, usable_until);

	if (next == 0)
		return CACHE_FULL;
	atomic_store_explicit(&slot->current, next, memory_order_release);
	return CACHE_DONE;
}

enum cache_result cache_publish(struct cache *cache, struct slot *slot, struct bytes response,
	int64_t this_update, int64_t usable_until, int64_t now)
{
	enum cache_result result = CACHE_OLDER;

	if (response.size == 0 || response.size > CACHE_RESPONSE_LIMIT || !add_lock(cache))
		return CACHE_FULL;
	if (!is_older(slot, this_update, now))
		result = publish(cache, slot, response, this_update, usable_until);
	if (result == CACHE_DONE) {
		atomic_store(&slot->this_update, this_update);
		atomic_store_explicit(&slot->state, SLOT_GOOD, memory_order_release);
	}
	pthread_mutex_unlock(&cache->add);
	futex_wake(&cache->progress);
	return result;
}

/* Under add. */
static void slot_revoke(
	struct cache *cache, struct slot *slot, struct bytes response, int64_t this_update)
{
	uint32_t next = 0;

	if (response.size > 0 && response.size <= CACHE_RESPONSE_LIMIT)
		next = slot_write(cache, slot, response, NO_TIME, NO_TIME + 1);
	atomic_store_explicit(&slot->current, 0, memory_order_release);
	atomic_store_explicit(&slot->revocation, next, memory_order_release);
	atomic_store(&slot->this_update, this_update);
	atomic_store_explicit(&slot->state, SLOT_REVOKED, memory_order_release);
}

enum cache_result cache_revoke(struct cache *cache, struct slot *slot, struct bytes response,
	int64_t this_update, int64_t now)
{
	bool older;

	if (!add_lock(cache))
		return CACHE_FULL;
	older = is_older(slot, this_update, now);
	if (!older)
		slot_revoke(cache, slot, response, this_update);
	pthread_mutex_unlock(&cache->add);
	futex_wake(&cache->progress);
	return older ? CACHE_OLDER : CACHE_DONE;
}

void cache_set_state(struct cache *cache, struct slot *slot, enum slot_state state)
{
	atomic_store_explicit(&slot->state, state, memory_order_release);
	futex_wake(&cache->progress);
}

static bool slot_awaits_answer(const struct cache *cache, const struct slot *slot)
{
	uint32_t state = atomic_load_explicit(&slot->state, memory_order_acquire);

	if (!slot->responders[0])
		return false;
	/* Another search for the issuer is due when the pool has grown since the last. */
	return state == SLOT_PENDING ||
	       (state == SLOT_NO_ISSUER &&
		       atomic_load(&slot->issuers_seen) != cache_issuer_count(cache));
}

void cache_await(struct cache *cache, const struct slot *slot, int64_t deadline)
{
	for (;;) {
		uint32_t progress = atomic_load(&cache->progress);
		int64_t left = deadline - clock_steady();

		if (left <= 0 || !slot_awaits_answer(cache, slot))
			return;
		futex_wait(&cache->progress, progress, left);
	}
}

/* The calling thread's: a leader and its deputy may be at work at the same time. */
static _Thread_local __attribute__((tls_model("initial-exec"))) enum cache_rank rank;
static _Thread_local __attribute__((tls_model("initial-exec"))) uint32_t news_seen;

static void promise(struct cache *cache, int timeout)
{
	if (rank == CACHE_LEADER)
		atomic_store(&cache->leader_back, clock_steady() + timeout);
}

void cache_beat(struct cache *cache)
{
	/* Somebody stands in for it, and may sleep. */
	bool was_silent = rank == CACHE_LEADER && cache_is_silent(cache);

	promise(cache, 0);
	if (was_silent)
		cache_wake(cache);
}

bool cache_is_silent(const struct cache *cache)
{
	return clock_steady() > atomic_load(&cache->leader_back) + SILENCE;
}

bool cache_sleep(struct cache *cache, int timeout)
{
	uint32_t seen = news_seen;

	promise(cache, timeout);
	futex_wait(&cache->news, seen, timeout);
	news_seen = atomic_load(&cache->news);
	return news_seen != seen;
}

bool cache_has_news(const struct cache *cache)
{
	return atomic_load(&cache->news) != news_seen;
}

void cache_wake(struct cache *cache)
{
	futex_wake(&cache->news);
}

int cache_stand_by(struct cache *cache)
{
	static const struct timespec moment = {0, 500000};

	/* Whoever only looks (mutex_is_free) holds it for an instant: that is no reason to go. */
	for (int tries = 0; tries < 4; tries++) {
		for (int place = 0; place < CACHE_STANDBYS; place++)
			if (mutex_trylock(&cache->standby[place]))
				return place;
		nanosleep(&moment, NULL);
	}
	return -1;
}

/* From place to place: who holds one waits for the one before it. */
static bool move_up(struct cache *cache, int place, bool (*ends)(void))
{
	bool moves = true;

	for (; moves && place > 0; place--) {
		moves = mutex_lock_unless(&cache->standby[place - 1], ends);
		pthread_mutex_unlock(&cache->standby[place]);
	}
	return moves;
}

/* Holding the first standby's place, which only a deputy keeps. */
static enum cache_rank succeed(struct cache *cache, bool (*ends)(void))
{
	int result;

	do {
		if (ends && ends())
			return CACHE_NOBODY;
		result = mutex_lock_within(&cache->leader, LOOK_INTERVAL);
	} while (result == ETIMEDOUT && !cache_is_silent(cache));
	if (result == ETIMEDOUT)
		return CACHE_DEPUTY;
	return mutex_taken(&cache->leader, result) ? CACHE_LEADER : CACHE_NOBODY;
}

enum cache_rank cache_lead(struct cache *cache, int place, bool (*ends)(void))
{
	rank = CACHE_NOBODY;
	if (!move_up(cache, place, ends))
		return rank;
	rank = succeed(cache, ends);
	/* Before the next standby can see for how long nobody has led. */
	promise(cache, 0);
	if (rank != CACHE_DEPUTY)
		pthread_mutex_unlock(&cache->standby[0]);
	return rank;
}

void cache_resign(struct cache *cache)
{
	if (rank == CACHE_LEADER)
		pthread_mutex_unlock(&cache->leader);
	if (rank == CACHE_DEPUTY)
		pthread_mutex_unlock(&cache->standby[0]);
	rank = CACHE_NOBODY;
}

/* A lock that is free or a dead owner's is taken for an instant: nobody else can tell the kernel.
 */
static bool mutex_is_free(pthread_mutex_t *mutex)
{
	if (!mutex_trylock(mutex))
		return false;
	pthread_mutex_unlock(mutex);
	return true;
}

static bool any_standby_is(struct cache *cache, bool free)
{
	for (int place = 0; place < CACHE_STANDBYS; place++)
		if (mutex_is_free(&cache->standby[place]) == free)
			return true;
	return false;
}

bool cache_is_led(struct cache *cache)
{
	return any_standby_is(cache, false) || !mutex_is_free(&cache->leader);
}

bool cache_wants_standby(struct cache *cache)
{
	return any_standby_is(cache, true);
}
