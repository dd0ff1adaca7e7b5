/* SPDX-License-Identifier: MIT */
#include "privileges.h"

#include "../fetcher/file.h"

#include <errno.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Where these are for numbers of 16 bits. */
#ifdef SYS_setresuid32
#undef SYS_setgroups
#define SYS_setgroups SYS_setgroups32
#undef SYS_setresgid
#define SYS_setresgid SYS_setresgid32
#undef SYS_setresuid
#define SYS_setresuid SYS_setresuid32
#undef SYS_getresuid
#define SYS_getresuid SYS_getresuid32
#undef SYS_getresgid
#define SYS_getresgid SYS_getresgid32
#endif

enum {
	STATUS_LIMIT = 65536,
	GROUPS = 256,
	ROOT = 0,
};

typedef struct __user_cap_data_struct capabilities[_LINUX_CAPABILITY_U32S_3];

/* Of a thread by its number; 0 is the caller. */
static bool get_capabilities(int thread, capabilities data)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, thread};

	return syscall(SYS_capget, &header, data) == 0;
}

static bool lower(__u32 *own, __u32 most)
{
	bool lowers = *own & ~most;

	*own &= most;
	return lowers;
}

/* Whom a thread acts for: real, effective and saved, and the other groups. */
struct identity {
	uint32_t users[3];
	uint32_t groups[3];
	uint32_t more[GROUPS];
	size_t more_count;
};

/* Numbers up to the end of the line; false if there are more than room. */
static bool parse_numbers(const char *text, uint32_t *numbers, size_t room, size_t *count)
{
	for (*count = 0;; (*count)++) {
		text += strspn(text, " \t");
		if (*text < '0' || *text > '9')
			return *text == '\n';
		if (*count == room)
			return false;
		numbers[*count] = (uint32_t)strtoul(text, (char **)&text, 10);
	}
}

static bool parse_line(const unsigned char *status, const char *name, uint32_t *numbers,
	size_t room, size_t *count)
{
	const char *line = strstr((const char *)status, name);

	return line && parse_numbers(line + strlen(name), numbers, room, count);
}

/* Of the main thread; nobody but the kernel's /proc can tell. */
static bool read_identity(struct identity *identity)
{
	uint32_t users[4] = {0}, groups[4] = {0}; /* the last is for files */
	size_t user_count = 0, group_count = 0;
	struct buffer status = {0};
	char path[64];
	bool ok;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", (int)getpid());
	ok = !file_read(path, STATUS_LIMIT, &status) && buffer_append(&status, "", 1) &&
	     parse_line(status.data, "\nUid:", users, 4, &user_count) && user_count == 4 &&
	     parse_line(status.data, "\nGid:", groups, 4, &group_count) && group_count == 4 &&
	     parse_line(status.data, "\nGroups:", identity->more, GROUPS, &identity->more_count);
	buffer_free(&status);
	memcpy(identity->users, users, sizeof(identity->users));
	memcpy(identity->groups, groups, sizeof(identity->groups));
	return ok;
}

static bool has_root(const uint32_t users[3])
{
	return users[0] == ROOT || users[1] == ROOT || users[2] == ROOT;
}

static bool may(const capabilities permitted, int capability)
{
	return permitted[capability / 32].permitted >> (capability % 32) & 1;
}

/*
 * By system calls of the thread's own: libc's change all threads. The groups first, which takes
 * rights that go with the user.
 */
static void become(const struct identity *to)
{
	syscall(SYS_setgroups, to->more_count, to->more);
	syscall(SYS_setresgid, to->groups[0], to->groups[1], to->groups[2]);
	syscall(SYS_setresuid, to->users[0], to->users[1], to->users[2]);
}

/*
 * The main thread is somebody else for good: it was root and is so no more, or has given up the
 * right to become whom it likes.
 */
static bool has_left(const uint32_t users[3], const uint32_t groups[3], const struct identity *main,
	const capabilities leads)
{
	return (has_root(users) && !has_root(main->users)) ||
	       (!may(leads, CAP_SETUID) && memcmp(users, main->users, sizeof(main->users)) != 0) ||
	       (!may(leads, CAP_SETGID) && memcmp(groups, main->groups, sizeof(main->groups)) != 0);
}

/*
 * The main thread has fewer capabilities, and may be somebody whom this one is not: so that was not
 * libc's doing, which lets the one that calls it come last. To be root without capabilities would
 * still be to be whom root's files belong to; and when the host calls libc's setuid next, this
 * thread could not follow, for which libc would abort the process.
 *
 * The kernel forgets two things as soon as a thread changes its user: its capabilities, unless told
 * not to, and that the process (not the thread) may be looked at by its user.
 */
static void follow_identity(capabilities own, const capabilities leads)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	int dumpable = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
	int keeps = prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0);
	uint32_t users[3], groups[3];
	struct identity main;

	if (syscall(SYS_getresuid, &users[0], &users[1], &users[2]) != 0 ||
		syscall(SYS_getresgid, &groups[0], &groups[1], &groups[2]) != 0 ||
		!read_identity(&main) || !has_left(users, groups, &main, leads))
		return;
	for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++)
		own[i].effective = own[i].permitted;
	syscall(SYS_capset, &header, own);
	prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
	become(&main);
	prctl(PR_SET_KEEPCAPS, keeps > 0, 0, 0, 0);
	if (dumpable == 1)
		prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
}

/* libc asks every thread by a signal to do what one has called (setuid), and then waits for it. */
static void block_libc(uint64_t *before)
{
	uint64_t all = UINT64_MAX;

	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, before, sizeof(all));
}

static void unblock_libc(const uint64_t *before)
{
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, before, NULL, sizeof(*before));
}

/* True if own had more than leads, to which it is cut. */
static bool cut(capabilities own, const capabilities leads)
{
	bool differs = false;

	for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
		/* Not to what is effective there: a host that becomes another user for a while, and
		 * root again, does so in all threads, the main one last. What its effective set was
		 * a moment before would take away here what the next setgid needs. */
		differs |= lower(&own[i].effective, leads[i].permitted);
		differs |= lower(&own[i].permitted, leads[i].permitted);
		differs |= lower(&own[i].inheritable, leads[i].inheritable);
	}
	return differs;
}

static void follow(void)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	capabilities own = {0}, leads = {0}, before;
	uint64_t blocked;

	block_libc(&blocked);
	/* Once more: libc may have made both alike meanwhile. */
	if (!get_capabilities(0, own) || !get_capabilities(getpid(), leads))
		goto out;
	memcpy(before, own, sizeof(before));
	if (!cut(own, leads))
		goto out;
	follow_identity(before, leads);
	syscall(SYS_capset, &header, own);
out:
	unblock_libc(&blocked);
}

void privileges_follow(void)
{
	/* Zeroed for valgrind, which does not know how much capget writes. */
	capabilities own = {0}, leads = {0};
	int saved = errno;

	/* The main thread has the number of the process. */
	if (get_capabilities(0, own) && get_capabilities(getpid(), leads) && cut(own, leads))
		follow();
	errno = saved;
}

void privileges_give_up(void)
{
	int saved = errno;

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	errno = saved;
}
