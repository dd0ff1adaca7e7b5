/* SPDX-License-Identifier: MIT */
#include "ready.h"

#include "cache.h"
#include "certificate.h"
#include "clock.h"
#include "descriptor.h"
#include "file.h"
#include "gate.h"
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
	ROUND = 1000, /* milliseconds from one look to the next, for as many files at the most */
	/* In one call: files that are as they were, files that are read, and names. */
	STEP = 64,
	STEP_READ = 8,
	STEP_NAMES = 512,
	/* A change in the same tick of the file system's clock as the one before leaves no trace:
	 * what is younger than this many seconds is read again. */
	SETTLED = 2,
	HEAD_SIZE = 8,
	FILES_MOST = 65536, /* in a directory that was meant to be another one */
	ROOM_FIRST = 64,    /* a power of two */
};

static const uint32_t nobody = UINT32_MAX; /* the end of a bucket */

struct ready_file {
	char *name;       /* with a path of its own if it is no directory's */
	uint64_t hash;    /* of it */
	uint32_t next;    /* in its bucket */
	uint64_t stamp;   /* of the file, 0: to be read again */
	uint64_t content; /* a hash; 0: it is no response */
	bool is_there;    /* while names are compared */
	bool was_response;
	bool is_reported; /* that it is none */
};

struct ready_entry {
	uint64_t serial;
	uint64_t content;
	const char *name; /* the file's own */
};

/* FNV-1a, never 0. Whoever makes two alike wins nothing: what is found is judged. */
static uint64_t hash_bytes(struct bytes bytes)
{
	uint64_t hash = 14695981039346656037U;

	for (size_t i = 0; i < bytes.size; i++)
		hash = (hash ^ bytes.data[i]) * 1099511628211U;
	return hash ? hash : 1;
}

void ready_open(struct ready *ready, const char *path)
{
	memset(ready, 0, sizeof(*ready));
	pthread_mutex_init(&ready->lock, NULL);
	ready->path = path;
}

static void drop_all(struct ready *ready)
{
	for (size_t i = 0; i < ready->count; i++)
		free(ready->files[i].name);
	free(ready->files);
	free(ready->buckets);
	free(ready->entries);
	buffer_free(&ready->names);
}

void ready_close(struct ready *ready)
{
	drop_all(ready);
	pthread_mutex_destroy(&ready->lock);
	memset(ready, 0, sizeof(*ready));
}

bool ready_lock(struct ready *ready, int64_t patience)
{
	int64_t until = clock_wall() + patience;
	struct timespec time;

	if (!ready || !ready->path)
		return false;
	if (patience == 0)
		return pthread_mutex_trylock(&ready->lock) == 0;
	time.tv_sec = (time_t)(until / 1000);
	time.tv_nsec = (long)(until % 1000 * 1000000);
	return pthread_mutex_timedlock(&ready->lock, &time) == 0;
}

void ready_unlock(struct ready *ready)
{
	pthread_mutex_unlock(&ready->lock);
}

void ready_forked(struct ready *ready)
{
	if (!ready->path)
		return;
	/* Not freed: it may be in the middle of anything. */
	if (pthread_mutex_trylock(&ready->lock) != 0)
		ready_open(ready, ready->path);
	else
		pthread_mutex_unlock(&ready->lock);
}

/*
 * One file
 */

static const char not_a_response[] = "it is not the DER of an OCSP response";

/* 0 for what changed so lately that it may have changed again. */
static uint64_t stamp_of(const struct stat *is)
{
	int64_t words[] = {(int64_t)is->st_dev, (int64_t)is->st_ino, is->st_size,
		is->st_mtim.tv_sec, is->st_mtim.tv_nsec, is->st_ctim.tv_sec, is->st_ctim.tv_nsec};
	int64_t age = clock_wall() / 1000 - (int64_t)is->st_ctim.tv_sec;

	if (age >= 0 && age < SETTLED)
		return 0;
	return hash_bytes((struct bytes){(const unsigned char *)words, sizeof(words)});
}

/* True if a file of this size may be an OCSPResponse: a SEQUENCE up to its end, an ENUMERATED in it
 * (RFC 6960, 4.2.1). A certificate or a key is not. */
static bool is_response_head(const unsigned char head[static HEAD_SIZE], size_t size)
{
	size_t at = 2, length = head[1];

	if (head[1] == 0x81)
		length = head[at++];
	else if (head[1] == 0x82) {
		length = (size_t)head[2] << 8 | head[3];
		at += 2;
	} else if (head[1] > 0x7f)
		return false;
	return head[0] == 0x30 && head[at] == 0x0a && at + length == size;
}

/* NULL, or why it is no response. */
static const char *read_response(const char *path, struct buffer *out)
{
	unsigned char head[HEAD_SIZE] = {0};
	const char *why = NULL;
	struct stat is;
	int fd;

	/* First, because to open a device may have effects. */
	if (stat(path, &is) != 0)
		return strerror(errno);
	if (!S_ISREG(is.st_mode))
		return "it is not a file";
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return strerror(errno);
	if (fstat(fd, &is) != 0 || !S_ISREG(is.st_mode))
		why = "it is not a file";
	else if (is.st_mode & S_IWOTH)
		why = "everybody may write it";
	else if (is.st_size > CACHE_RESPONSE_LIMIT || pread(fd, head, sizeof(head), 0) < 5 ||
		 !is_response_head(head, (size_t)is.st_size))
		why = not_a_response;
	else
		why = file_read_open(fd, CACHE_RESPONSE_LIMIT, out);
	close(fd);
	return why;
}

/* Some may have been added when memory runs out: then they are found, and the others not. */
static bool add_entry(struct ready *ready, uint64_t serial, const struct ready_file *file)
{
	if (ready->entry_count == ready->entry_room) {
		size_t room = ready->entry_room ? 2 * ready->entry_room : ROOM_FIRST;
		struct ready_entry *entries = realloc(ready->entries, room * sizeof(*entries));

		if (!entries)
			return false;
		ready->entries = entries;
		ready->entry_room = room;
	}
	ready->entries[ready->entry_count++] =
		(struct ready_entry){serial, file->content, file->name};
	return true;
}

/* Those of one file; NULL: of all that have lost their names. The others stay in order. */
static void remove_entries(struct ready *ready, const char *name)
{
	size_t left = 0, sorted_left = 0;

	for (size_t i = 0; i < ready->entry_count; i++) {
		const struct ready_entry *entry = &ready->entries[i];

		if (name ? entry->name == name : !entry->name[0])
			continue;
		sorted_left += i < ready->sorted;
		ready->entries[left++] = *entry;
	}
	ready->entry_count = left;
	ready->sorted = sorted_left;
}

static int compare_entries(const void *a, const void *b)
{
	const struct ready_entry *one = a, *other = b;

	if (one->serial != other->serial)
		return one->serial < other->serial ? -1 : 1;
	return strcmp(one->name, other->name);
}

/* Puts those that were added in their places: to sort all of them for a few would take long. */
static void sort_entries(struct ready *ready)
{
	size_t count = ready->entry_count - ready->sorted, old = ready->sorted;
	size_t size = count * sizeof(*ready->entries);
	struct ready_entry *added;

	if (count == 0)
		return;
	ready->sorted = ready->entry_count;
	added = malloc(size);
	if (!added) {
		qsort(ready->entries, ready->entry_count, sizeof(*added), compare_entries);
		return;
	}
	qsort(ready->entries + old, count, sizeof(*added), compare_entries);
	memcpy(added, ready->entries + old, size);
	/* From the end, where there is room. */
	for (size_t to = ready->entry_count; count > 0; to--) {
		bool is_old =
			old > 0 && compare_entries(&ready->entries[old - 1], &added[count - 1]) > 0;

		ready->entries[to - 1] = is_old ? ready->entries[--old] : added[--count];
	}
	free(added);
}

static uint64_t hash_serial(const struct libcrypto *crypto, const ASN1_INTEGER *serial)
{
	int size = crypto->ASN1_STRING_length(serial);

	return hash_bytes(
		(struct bytes){crypto->ASN1_STRING_get0_data(serial), size > 0 ? (size_t)size : 0});
}

static int count_answers(const struct libcrypto *crypto, OCSP_BASICRESP *basic, struct ready *ready,
	const struct ready_file *file)
{
	int count = basic ? crypto->OCSP_resp_count(basic) : 0;

	for (int i = 0; i < count; i++) {
		/* 1.1.1's OCSP_id_get0_info wants it without const, and only reads. */
		OCSP_CERTID *id = (OCSP_CERTID *)crypto->OCSP_SINGLERESP_get0_id(
			crypto->OCSP_resp_get0(basic, i));
		ASN1_INTEGER *serial = NULL;

		crypto->OCSP_id_get0_info(NULL, NULL, NULL, &serial, id);
		if (serial && !add_entry(ready, hash_serial(crypto, serial), file))
			break;
	}
	return count;
}

/* NULL, or why there is nothing in it. */
static const char *add_entries(struct ready *ready, const struct libcrypto *crypto,
	struct bytes response, const struct ready_file *file)
{
	const unsigned char *at = response.data;
	const char *why = NULL;
	OCSP_RESPONSE *outer;
	OCSP_BASICRESP *basic;

	crypto->ERR_set_mark();
	outer = crypto->d2i_OCSP_RESPONSE(NULL, &at, (long)response.size);
	basic = outer ? crypto->OCSP_response_get1_basic(outer) : NULL;
	if (!outer)
		why = not_a_response;
	else if (count_answers(crypto, basic, ready, file) == 0)
		why = "it is an OCSP response without an answer";
	crypto->OCSP_BASICRESP_free(basic);
	crypto->OCSP_RESPONSE_free(outer);
	crypto->ERR_pop_to_mark();
	return why;
}

static bool make_path(const struct ready *ready, const char *name, char path[static PATH_MAX])
{
	int size = ready->is_directory ? snprintf(path, PATH_MAX, "%s/%s", ready->path, name)
				       : snprintf(path, PATH_MAX, "%s", name);

	return size > 0 && size < PATH_MAX;
}

/* In a directory there may be anything; but what is called so, or was one, is meant to be one. */
static void report_file(
	const struct ready *ready, struct ready_file *file, const char *path, const char *why)
{
	const char *ending = strrchr(file->name, '.');
	bool is_meant = !ready->is_directory || file->was_response ||
			(ending && strcmp(ending, ".ocsp") == 0);

	if (is_meant && !file->is_reported)
		log_warning("%s is no ready-made response that can be used: %s", path, why);
	file->is_reported = true;
}

static void read_file(struct ready *ready, const struct libcrypto *crypto, struct ready_file *file,
	const char *path)
{
	struct buffer response = {0};
	const char *why = read_response(path, &response);
	uint64_t content = why ? 0 : hash_bytes(buffer_bytes(&response));

	if (content != file->content) {
		if (file->content != 0)
			remove_entries(ready, file->name);
		file->content = content;
		if (!why)
			why = add_entries(ready, crypto, buffer_bytes(&response), file);
	}
	if (!why) {
		file->was_response = true;
		file->is_reported = false;
	} else {
		file->content = 0;
		/* What is still being written is not worth a word. */
		if (file->stamp != 0)
			report_file(ready, file, path, why);
	}
	buffer_free(&response);
}

/* True if it was read. */
static bool check_file(struct ready *ready, const struct libcrypto *crypto, struct ready_file *file)
{
	static const uint64_t gone = 1;
	char path[PATH_MAX];
	struct stat is;
	uint64_t stamp;

	if (!make_path(ready, file->name, path))
		return false;
	stamp = stat(path, &is) == 0 ? stamp_of(&is) : gone;
	if (stamp != 0 && stamp == file->stamp)
		return false;
	file->stamp = stamp;
	read_file(ready, crypto, file, path);
	return true;
}

/* The next few. */
static void check_files(struct ready *ready, const struct libcrypto *crypto)
{
	int looked_at = 0, read = 0;

	for (; ready->at < ready->count && looked_at < STEP && read < STEP_READ; ready->at++) {
		read += check_file(ready, crypto, &ready->files[ready->at]);
		looked_at++;
	}
	sort_entries(ready);
}

/*
 * All files
 */

static void report_path(struct ready *ready, const char *why)
{
	if (!ready->is_useless)
		log_warning(
			"OCSPRELOAD_RESPONSES=%s cannot be used: %s; what was read from it "
			"before is stapled to its end",
			ready->path, why);
	ready->is_useless = true;
}

static struct ready_file *find_file(const struct ready *ready, const char *name, uint64_t hash)
{
	uint32_t i = ready->room ? ready->buckets[hash % ready->room] : nobody;

	while (i != nobody &&
		(ready->files[i].hash != hash || strcmp(ready->files[i].name, name) != 0))
		i = ready->files[i].next;
	return i == nobody ? NULL : &ready->files[i];
}

/* All of them, since their places have changed. */
static void fill_buckets(struct ready *ready)
{
	if (ready->room == 0)
		return;
	for (size_t i = 0; i < ready->room; i++)
		ready->buckets[i] = nobody;
	for (size_t i = 0; i < ready->count; i++) {
		uint32_t *bucket = &ready->buckets[ready->files[i].hash % ready->room];

		ready->files[i].next = *bucket;
		*bucket = (uint32_t)i;
	}
}

/* Doubles the room. */
static bool grow(struct ready *ready)
{
	size_t room = ready->room ? 2 * ready->room : ROOM_FIRST;
	struct ready_file *files = realloc(ready->files, room * sizeof(*files));
	uint32_t *buckets;

	if (!files)
		return false;
	ready->files = files;
	buckets = realloc(ready->buckets, room * sizeof(*buckets));
	if (!buckets)
		return false;
	ready->buckets = buckets;
	ready->room = room;
	fill_buckets(ready);
	return true;
}

/* It is there, and may be new. False when memory ran out. */
static bool note_file(struct ready *ready, const char *name)
{
	uint64_t hash = hash_bytes((struct bytes){(const unsigned char *)name, strlen(name)});
	struct ready_file *file = find_file(ready, name, hash);
	uint32_t *bucket;
	char *copy;

	if (file) {
		file->is_there = true;
		return true;
	}
	if (ready->count == ready->room && !grow(ready))
		return false;
	copy = strdup(name);
	if (!copy)
		return false;
	bucket = &ready->buckets[hash % ready->room];
	ready->files[ready->count] =
		(struct ready_file){.name = copy, .hash = hash, .next = *bucket, .is_there = true};
	*bucket = (uint32_t)ready->count++;
	return true;
}

static void forget_what_is_there(struct ready *ready)
{
	for (size_t i = 0; i < ready->count; i++)
		ready->files[i].is_there = false;
}

/* Those that are no longer there, and what was in them. */
static void remove_files(struct ready *ready)
{
	size_t left = 0;

	for (size_t i = 0; i < ready->count; i++)
		if (!ready->files[i].is_there)
			ready->files[i].name[0] = '\0';
	remove_entries(ready, NULL);
	for (size_t i = 0; i < ready->count; i++) {
		if (ready->files[i].is_there)
			ready->files[left++] = ready->files[i];
		else
			free(ready->files[i].name);
	}
	ready->count = left;
	fill_buckets(ready);
}

/*
 * Names
 */

/* Hidden files are on their way to another name. */
static bool is_of_interest(const char *name)
{
	return name[0] != '.' && !file_is_temporary(name);
}

/* Names that were read, each with its NUL. */
struct names {
	struct buffer list;
	size_t count;
	const char *why; /* they are of no use; NULL: they are */
	bool is_lost;    /* the host took the descriptor; another time they may be read */
};

static bool add_name(const char *name, void *context)
{
	struct names *names = context;

	if (!is_of_interest(name))
		return true;
	if (++names->count >= FILES_MOST)
		names->why = "it has too many files";
	else if (!buffer_append(&names->list, name, strlen(name) + 1))
		names->why = "memory ran out";
	return !names->why;
}

/* False if there are no more. */
static bool read_some_names(int fd, struct names *names)
{
	int is_more = file_list_some(fd, add_name, names);

	if (is_more < 0)
		names->why = strerror(errno);
	return is_more > 0;
}

/* With the gate open in between, in which the host may close the number and use it itself. */
static void read_names_at_gate(int fd, const struct gate *gate, struct names *names)
{
	struct descriptor directory;

	names->is_lost = !descriptor_adopt(&directory, fd);
	while (!names->is_lost && read_some_names(directory.number, names)) {
		gate_pause(gate);
		names->is_lost = !descriptor_check(&directory);
	}
	descriptor_close(&directory);
}

/* With a gate the lock must not be held; without one, whoever this is keeps forks away. */
static void read_names(const char *path, const struct gate *gate, struct names *names)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0) {
		names->why = strerror(errno);
		return;
	}
	if (gate) {
		read_names_at_gate(fd, gate, names);
		return;
	}
	while (read_some_names(fd, names))
		;
	close(fd);
}

static void drop_names(struct ready *ready)
{
	buffer_free(&ready->names);
	ready->names_at = 0;
}

/* The next few of those that were read; once there are no more, the files are looked at. */
static void take_names(struct ready *ready)
{
	for (int i = 0; i < STEP_NAMES && ready->names_at < ready->names.size; i++) {
		const char *name = (const char *)ready->names.data + ready->names_at;

		ready->names_at += strlen(name) + 1;
		if (note_file(ready, name))
			continue;
		/* What it did not come to is not gone: it is asked for again. */
		ready->directory = 0;
		ready->at = 0;
		drop_names(ready);
		return;
	}
	if (ready->names_at < ready->names.size)
		return;
	drop_names(ready);
	remove_files(ready);
	ready->at = 0;
}

/*
 * Rounds
 */

/* What the path is. */
struct look {
	const char *why;      /* it cannot be used; NULL: it can */
	uint64_t stamp;       /* of a directory; 0: it may be changing */
	bool is_to_be_listed; /* its names are to be read */
};

static struct look look_at_path(struct ready *ready)
{
	struct stat is;
	uint64_t stamp;

	if (stat(ready->path, &is) != 0)
		return (struct look){.why = strerror(errno)};
	if (ready->is_directory != S_ISDIR(is.st_mode)) {
		forget_what_is_there(ready);
		remove_files(ready);
		ready->is_directory = S_ISDIR(is.st_mode);
		ready->directory = 0;
	}
	if (!ready->is_directory)
		return (struct look){
			.why = note_file(ready, ready->path) ? NULL : "memory ran out"};
	if (is.st_mode & S_IWOTH)
		return (struct look){.why = "everybody may write to it"};
	stamp = stamp_of(&is);
	return (struct look){
		.stamp = stamp, .is_to_be_listed = stamp == 0 || stamp != ready->directory};
}

static bool is_round_over(const struct ready *ready)
{
	return ready->names.size == 0 && ready->at >= ready->count;
}

static bool is_time(const struct ready *ready)
{
	return is_round_over(ready) && clock_steady() >= ready->next_round;
}

/* Takes over the names, if any were to be read. True if there is something to do in this round. */
static bool begin_round(struct ready *ready, const struct look *look, struct names *names)
{
	const char *why = look->why ? look->why : names->why;
	size_t files = names->count > ready->count ? names->count : ready->count;

	ready->next_round = clock_steady() + (int64_t)(files > ROUND ? files : ROUND);
	if (why) {
		report_path(ready, why);
		ready->directory = 0;
	} else if (!names->is_lost) {
		ready->is_useless = false;
		ready->directory = look->stamp;
		ready->at = 0;
	}
	if (!why && !names->is_lost && look->is_to_be_listed) {
		drop_names(ready);
		ready->names = names->list;
		names->list = (struct buffer){0};
		forget_what_is_there(ready);
		ready->at = ready->count;
		take_names(ready);
	}
	buffer_free(&names->list);
	return !is_round_over(ready);
}

/* In the middle of a round. */
static bool go_on(struct ready *ready, const struct libcrypto *crypto)
{
	if (ready->names.size > 0)
		take_names(ready);
	else
		check_files(ready, crypto);
	return !is_round_over(ready);
}

bool ready_step(struct ready *ready, const struct libcrypto *crypto)
{
	struct names names = {0};
	struct look look;

	if (!is_time(ready))
		return go_on(ready, crypto);
	look = look_at_path(ready);
	if (look.is_to_be_listed)
		read_names(ready->path, NULL, &names);
	return begin_round(ready, &look, &names);
}

bool ready_look(struct ready *ready, const struct libcrypto *crypto)
{
	struct names names = {0};
	struct look look;
	bool is_more;

	if (!ready_lock(ready, 0))
		return false;
	if (is_time(ready)) {
		look = look_at_path(ready);
		ready_unlock(ready);
		if (look.is_to_be_listed)
			read_names(ready->path, crypto->gate, &names);
		if (!ready_lock(ready, 0)) {
			buffer_free(&names.list);
			return false;
		}
		is_more = begin_round(ready, &look, &names);
	} else {
		is_more = go_on(ready, crypto);
	}
	ready_unlock(ready);
	return is_more;
}

/*
 * One certificate
 */

uint64_t ready_serial(const struct libcrypto *crypto, struct bytes certificate)
{
	uint64_t serial = 1;
	X509 *x;

	crypto->ERR_set_mark();
	x = certificate_x509(crypto, certificate);
	if (x)
		serial = hash_serial(crypto, crypto->X509_get0_serialNumber(x));
	crypto->X509_free(x);
	crypto->ERR_pop_to_mark();
	return serial;
}

/* The first entry of the serial number, or of a greater one. */
static size_t find_entries(const struct ready *ready, uint64_t serial)
{
	size_t low = 0, high = ready->sorted;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (ready->entries[middle].serial < serial)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool is_entry_of(const struct ready *ready, size_t at, uint64_t serial)
{
	return at < ready->entry_count && ready->entries[at].serial == serial;
}

uint64_t ready_stamp(struct ready *ready, uint64_t serial)
{
	size_t at = find_entries(ready, serial);
	uint64_t stamp = 0;

	if (ready->is_useless)
		return 0;
	for (; is_entry_of(ready, at, serial); at++)
		stamp = (stamp * 31 + ready->entries[at].content) | 1;
	return stamp;
}

void ready_place(struct ready *ready, uint64_t serial, char path[static PATH_MAX])
{
	size_t at = find_entries(ready, serial);

	if (!is_entry_of(ready, at, serial) || !make_path(ready, ready->entries[at].name, path))
		snprintf(path, PATH_MAX, "%s", ready->path);
}

/* True if an answer is more worth than another. */
static bool is_better(const struct judgement *a, const struct judgement *b)
{
	bool a_counts = a->verdict == VERDICT_GOOD || a->verdict == VERDICT_REVOKED;
	bool b_counts = b->verdict == VERDICT_GOOD || b->verdict == VERDICT_REVOKED;

	if (a_counts != b_counts)
		return a_counts;
	return a_counts && a->this_update > b->this_update;
}

bool ready_judge(struct ready *ready, const struct libcrypto *crypto, uint64_t serial,
	struct bytes certificate, struct bytes issuer, int64_t now, struct ready_answer *out)
{
	bool found = false;

	memset(out, 0, sizeof(*out));
	for (size_t at = find_entries(ready, serial); is_entry_of(ready, at, serial); at++) {
		struct buffer response = {0};
		struct judgement judgement;
		char path[PATH_MAX];

		if (!make_path(ready, ready->entries[at].name, path) ||
			read_response(path, &response))
			continue;
		judgement = ocsp_judge(crypto, buffer_bytes(&response), certificate, issuer, now);
		if (judgement.verdict == VERDICT_OTHER_CERTIFICATE ||
			(found && !is_better(&judgement, &out->judgement))) {
			buffer_free(&response);
			continue;
		}
		buffer_free(&out->response);
		out->response = response;
		out->judgement = judgement;
		strcpy(out->path, path);
		found = true;
	}
	return found;
}
