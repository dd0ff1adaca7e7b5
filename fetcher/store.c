/* SPDX-License-Identifier: MIT */
#include "store.h"

#include "cache.h"
#include "clock.h"
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const system_directory = "/var/cache/ocspreload";

enum {
	FILE_NAME_SIZE = 2 * CERTIFICATE_KEY_SIZE + sizeof("/.der"),
	PATH_SIZE = STORE_PATH_SIZE + FILE_NAME_SIZE,
	TEMPORARY_AGE = 3600, /* seconds */
	DEAD_AGE = 400 * 24 * 3600,
};

/* Whoever else may write there, or is asked by a link to look elsewhere, is not to be relied upon.
 */
static bool is_ours(const struct stat *is)
{
	return (is->st_uid == 0 || is->st_uid == geteuid()) && !(is->st_mode & (S_IWGRP | S_IWOTH));
}

static bool is_usable(const char *path)
{
	struct stat is;

	return lstat(path, &is) == 0 && S_ISDIR(is.st_mode) && is_ours(&is);
}

/* Remembers a directory, made if it can be; first if this process may write to it. */
static bool add_directory(struct store *store, const char *path)
{
	size_t at = store->directory[0][0] != '\0';
	bool writable;

	if (strlen(path) >= STORE_PATH_SIZE || (mkdir(path, 0755) != 0 && errno != EEXIST) ||
		!is_usable(path))
		return false;
	writable = faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) == 0;
	if (writable && at > 0) {
		memcpy(store->directory[1], store->directory[0], STORE_PATH_SIZE);
		at = 0;
	}
	strcpy(store->directory[at], path);
	store->writable = store->writable || writable;
	return true;
}

static void add_user_directory(struct store *store, const struct config *config)
{
	char path[STORE_PATH_SIZE];

	if (config->cache_home)
		snprintf(path, sizeof(path), "%s", config->cache_home);
	else if (config->home)
		snprintf(path, sizeof(path), "%s/.cache", config->home);
	else
		return;
	if (strlen(path) + sizeof("/ocspreload") > sizeof(path))
		return;
	mkdir(path, 0700);
	strcat(path, "/ocspreload");
	add_directory(store, path);
}

void store_open(struct store *store, const struct config *config)
{
	memset(store, 0, sizeof(*store));
	if (!config->use_store)
		return;
	if (config->store) {
		if (!add_directory(store, config->store))
			log_warning(
				"OCSPRELOAD_STORE=%s is not used: it must be a directory that "
				"root or this user owns and no one else may write",
				config->store);
		return;
	}
	add_directory(store, system_directory);
	if (!store->writable)
		add_user_directory(store, config);
}

static void make_path(char path[static PATH_SIZE], const char *directory, const unsigned char *key,
	const char *suffix)
{
	char name[2 * CERTIFICATE_KEY_SIZE + 1];

	for (size_t i = 0; i < CERTIFICATE_KEY_SIZE; i++)
		snprintf(name + 2 * i, 3, "%02x", key[i]);
	snprintf(path, PATH_SIZE, "%s/%s%s", directory, name, suffix);
}

static uint64_t stamp_of(const struct stat *is)
{
	uint64_t time = (uint64_t)is->st_mtim.tv_sec * 1000000000 + (uint64_t)is->st_mtim.tv_nsec;

	return (time ^ ((uint64_t)is->st_ino << 40)) | 1;
}

uint64_t store_look(const struct store *store, const unsigned char *key)
{
	char path[PATH_SIZE];
	struct stat is;

	for (size_t i = 0; i < STORE_DIRECTORIES && store->directory[i][0]; i++) {
		make_path(path, store->directory[i], key, ".der");
		if (lstat(path, &is) == 0)
			return stamp_of(&is);
	}
	return 0;
}

bool store_has_changed(const struct store *store, uint64_t *seen)
{
	int64_t now = clock_wall() / 1000;
	uint64_t stamp = 0;
	bool is_new = false, changed;
	struct stat is;

	for (size_t i = 0; i < STORE_DIRECTORIES && store->directory[i][0]; i++) {
		if (lstat(store->directory[i], &is) != 0)
			continue;
		stamp = stamp * 31 + stamp_of(&is);
		/* Another change in the same tick of the file system's clock would not be seen. */
		is_new = is_new || llabs(now - (int64_t)is.st_mtim.tv_sec) <= 1;
	}
	changed = stamp != *seen;
	*seen = is_new ? 0 : stamp;
	return changed;
}

/* All of the file, or nothing. */
static bool read_response(int fd, size_t size, struct buffer *out)
{
	if (size > 0 && !file_read_open(fd, size, out) && out->size == size)
		return true;
	buffer_free(out);
	return false;
}

static bool read_file(const char *path, struct stored *stored)
{
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	bool done = false;
	struct stat is;

	if (fd < 0)
		return false;
	if (fstat(fd, &is) == 0 && S_ISREG(is.st_mode) && is_ours(&is) &&
		is.st_size <= CACHE_RESPONSE_LIMIT) {
		stored->written = (int64_t)is.st_mtim.tv_sec * 1000 + is.st_mtim.tv_nsec / 1000000;
		stored->stamp = stamp_of(&is);
		done = read_response(fd, (size_t)is.st_size, &stored->response);
	}
	close(fd);
	return done;
}

static bool read_any(const struct store *store, const unsigned char *key, const char *suffix,
	struct stored *stored)
{
	char path[PATH_SIZE];

	memset(stored, 0, sizeof(*stored));
	for (size_t i = 0; i < STORE_DIRECTORIES && store->directory[i][0]; i++) {
		make_path(path, store->directory[i], key, suffix);
		if (read_file(path, stored))
			return true;
	}
	return false;
}

bool store_read(const struct store *store, const unsigned char *key, struct stored *stored)
{
	return read_any(store, key, ".der", stored);
}

bool store_read_issuer(const struct store *store, const unsigned char *key, struct buffer *out)
{
	struct stored stored;

	if (!read_any(store, key, ".crt", &stored))
		return false;
	*out = stored.response;
	return true;
}

static bool write_any(const struct store *store, const unsigned char *key, const char *suffix,
	struct bytes content)
{
	char path[PATH_SIZE];

	if (!store->writable) {
		errno = EROFS;
		return false;
	}
	make_path(path, store->directory[0], key, suffix);
	/* Not durable: what a power failure spoils is fetched again. */
	return file_replace(path, content, false);
}

bool store_write(const struct store *store, const unsigned char *key, struct bytes response)
{
	return write_any(store, key, ".der", response);
}

/* By the descriptor: what replaces the file meanwhile is not touched, and keeps its own stamp. */
uint64_t store_touch(const struct store *store, const unsigned char *key, uint64_t stamp)
{
	char path[PATH_SIZE];
	struct stat is;
	int fd;

	if (!store->writable || stamp == 0)
		return 0;
	make_path(path, store->directory[0], key, ".der");
	fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return 0;
	if (fstat(fd, &is) != 0 || stamp_of(&is) != stamp || futimens(fd, NULL) != 0 ||
		fstat(fd, &is) != 0)
		stamp = 0;
	else
		stamp = stamp_of(&is);
	close(fd);
	return stamp;
}

bool store_write_issuer(const struct store *store, const unsigned char *key, struct bytes der)
{
	return write_any(store, key, ".crt", der);
}

/* What nobody has refreshed for longer than any response lives, and what a killed writer left. */
static bool is_dead(const char *name, const struct stat *is, int64_t now)
{
	const char *ending = strrchr(name, '.');
	int64_t age = now - (int64_t)is->st_mtim.tv_sec;

	if (!S_ISREG(is->st_mode) || !ending)
		return false;
	if (file_is_temporary(name))
		return age > TEMPORARY_AGE;
	return (strcmp(ending, ".der") == 0 || strcmp(ending, ".crt") == 0) && age > DEAD_AGE;
}

struct pruning {
	const char *directory;
	int64_t now;
};

/* By its path: the directory's number may be the host's by now. */
static bool prune_file(const char *name, void *context)
{
	const struct pruning *pruning = context;
	char path[STORE_PATH_SIZE + NAME_MAX + 2];
	struct stat is;

	snprintf(path, sizeof(path), "%s/%s", pruning->directory, name);
	if (lstat(path, &is) == 0 && is_dead(name, &is, pruning->now))
		unlink(path);
	return true;
}

void store_prune(const struct store *store, int64_t now, const struct gate *gate)
{
	struct pruning pruning = {store->directory[0], now};
	struct descriptor names;
	int fd;

	if (!store->writable)
		return;
	fd = open(pruning.directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || !descriptor_adopt(&names, fd))
		return;
	while (descriptor_check(&names) && file_list_some(names.number, prune_file, &pruning) > 0)
		gate_pause(gate);
	descriptor_close(&names);
}

/* One byte of the lock file; two certificates may share it, at the price of a short wait. */
static bool set_lock(int fd, const unsigned char *key, short type)
{
	struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_len = 1};

	memcpy(&lock.l_start, key, 4);
	lock.l_start &= 0x7fffffff;
	return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

bool store_lock(const struct store *store, const unsigned char *key, struct descriptor *lock)
{
	char path[PATH_SIZE];
	int fd;

	lock->number = -1;
	if (!store->writable)
		return true;
	snprintf(path, sizeof(path), "%s/lock", store->directory[0]);
	fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0644);
	if (fd < 0 || !descriptor_adopt(lock, fd))
		return true;
	if (set_lock(fd, key, F_WRLCK))
		return true;
	/* Anything else than somebody's lock (no locks on this file system) must not stop us. */
	if (errno == EAGAIN || errno == EACCES) {
		descriptor_close(lock);
		return false;
	}
	descriptor_close(lock);
	return true;
}

void store_unlock(struct descriptor *lock)
{
	struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

	/* Not by closing alone: a child of a raw clone may still have it open. */
	if (descriptor_check(lock))
		fcntl(lock->number, F_OFD_SETLK, &all);
	descriptor_close(lock);
}
