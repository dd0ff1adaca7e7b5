/* SPDX-License-Identifier: MIT */
#include "privileges.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

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

void privileges_follow(void)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	/* Zeroed for valgrind, which does not know how much capget writes. */
	capabilities own = {0}, leads = {0};
	bool differs = false;
	int saved = errno;

	/* The main thread has the number of the process. */
	if (!get_capabilities(0, own) || !get_capabilities(getpid(), leads))
		goto out;
	for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
		/* Not to what is effective there: a host that becomes another user for a while, and
		 * root again, does so in all threads, the main one last. What its effective set was
		 * a moment before would take away here what the next setgid needs. */
		differs |= lower(&own[i].effective, leads[i].permitted);
		differs |= lower(&own[i].permitted, leads[i].permitted);
		differs |= lower(&own[i].inheritable, leads[i].inheritable);
	}
	if (differs)
		syscall(SYS_capset, &header, own);
out:
	errno = saved;
}

void privileges_give_up(void)
{
	int saved = errno;

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	errno = saved;
}
