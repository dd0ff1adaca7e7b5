/* SPDX-License-Identifier: MIT */
/*
 * System calls that must not meet the shim's thread: children that are made past fork() and its
 * handlers, and what the kernel refuses to a process with two threads.
 *
 * vsftpd makes one for each connection by a raw clone, through libc's syscall(); others call
 * clone() or _Fork(). Made while the shim's thread computes, such a child inherits locks of
 * libcrypto and of the allocator that nobody in it will ever release. So these calls, too, wait for
 * the gate (host.h). Children that share memory with their parent (vfork, posix_spawn, threads) are
 * none of our business, and neither are those of programs that bring a system call of their own.
 *
 * unshare() and setns() into a user namespace, and setns() into some others, are for processes with
 * one thread: where the kernel says so, ours ends, and is born again when the call is done.
 */
#include "host.h"

#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

#define HOOK __attribute__((visibility("default")))
/* Called before a sanitizer's runtime is ready, and on stacks that it does not know. */
#define UNSANITIZED \
	__attribute__((no_sanitize_address, no_sanitize_thread, no_sanitize("undefined")))

/*
 * Under names of their own and without the dots of the real ones, because all that was passed must
 * be passed on; where arguments travel is the same on these machines.
 */
HOOK long hooked_syscall(long number, long a, long b, long c, long d, long e, long f) __asm__(
	"syscall");
HOOK int hooked_clone(int (*run)(void *), void *stack, int flags, void *argument, void *parent_tid,
	void *tls, void *child_tid) __asm__("clone");
HOOK pid_t hooked_fork(void) __asm__("_Fork");
HOOK int hooked_unshare(int flags) __asm__("unshare");
HOOK int hooked_setns(int fd, int type) __asm__("setns");

/*
 * Not by dlsym: allocators call syscall() before they can allocate what dlsym may ask them for, and
 * signal handlers call it, too.
 */
UNSANITIZED static long call_kernel(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
	register long fourth __asm__("r10") = d;
	register long fifth __asm__("r8") = e;
	register long sixth __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth), "r"(sixth)
			 : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long name __asm__("x8") = number;
	register long first __asm__("x0") = a;
	register long second __asm__("x1") = b;
	register long third __asm__("x2") = c;
	register long fourth __asm__("x3") = d;
	register long fifth __asm__("x4") = e;
	register long sixth __asm__("x5") = f;

	__asm__ volatile("svc 0"
			 : "+r"(first)
			 : "r"(name), "r"(second), "r"(third), "r"(fourth), "r"(fifth), "r"(sixth)
			 : "memory");
	return first;
#else
	/* Elsewhere as well as it can be done. */
	void *symbol = dlsym(RTLD_NEXT, "syscall");
	__typeof__(&hooked_syscall) real;
	long result;

	memcpy(&real, &symbol, sizeof(real));
	result = real ? real(number, a, b, c, d, e, f) : -1;
	return result == -1 ? -(long)errno : result;
#endif
}

UNSANITIZED static bool copies_memory(uint64_t flags)
{
	return !(flags & CLONE_VM);
}

UNSANITIZED static bool makes_child(long number, long a, long b)
{
	switch (number) {
#ifdef SYS_fork
	case SYS_fork:
		return true;
#endif
	case SYS_clone:
		return copies_memory((unsigned long)a);
#ifdef SYS_clone3
	case SYS_clone3:
		/* struct clone_args; flags come first. Without any, the kernel refuses. */
		return a && (unsigned long)b >= sizeof(uint64_t) &&
		       copies_memory(*(const uint64_t *)a); /* NOLINT(performance-no-int-to-ptr) */
#endif
	default:
		return false;
	}
}

/* True if error may be the kernel's word for: you have two threads. */
UNSANITIZED static bool is_for_one_thread(long number, long flags, long error)
{
	const long alone = CLONE_NEWUSER | CLONE_THREAD | CLONE_SIGHAND | CLONE_VM;
	const long joined = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWTIME;

	return (number == SYS_unshare && error == EINVAL && (flags & alone)) ||
	       /* EUSERS is for namespaces of time. Without flags it can be any. */
	       (number == SYS_setns && (error == EINVAL || error == EUSERS) &&
		       (flags == 0 || (flags & joined)));
}

UNSANITIZED long hooked_syscall(long number, long a, long b, long c, long d, long e, long f)
{
	bool child = makes_child(number, a, b);
	enum host_locks taken = child ? host_prepare_clone(true) : HOST_NO_LOCK;
	long result = call_kernel(number, a, b, c, d, e, f);

	if (child && result == 0)
		host_child_cloned(false);
	else if (child)
		host_parent_cloned(taken);
	if (is_for_one_thread(number, number == SYS_setns ? b : a, -result) &&
		host_dismiss_thread()) {
		result = call_kernel(number, a, b, c, d, e, f);
		host_recall_thread();
	}
	if (result < 0 && result >= -4095) {
		errno = (int)-result;
		return -1;
	}
	return result;
}

/* What the child of a clone() is to do; on the stack of the parent, of which it has a copy. */
struct start {
	int (*run)(void *);
	void *argument;
};

static int start_child(void *argument)
{
	struct start start = *(const struct start *)argument;

	host_child_cloned(false);
	return start.run(start.argument);
}

int hooked_clone(int (*run)(void *), void *stack, int flags, void *argument, void *parent_tid,
	void *tls, void *child_tid)
{
	__typeof__(&hooked_clone) real;
	struct start start = {run, argument};
	void *symbol = dlsym(RTLD_NEXT, "clone");
	enum host_locks taken;
	int child;

	memcpy(&real, &symbol, sizeof(real));
	if (!real) {
		errno = ENOSYS;
		return -1;
	}
	if (!run || !copies_memory((unsigned)flags))
		return real(run, stack, flags, argument, parent_tid, tls, child_tid);
	taken = host_prepare_clone(true);
	child = real(start_child, stack, flags, &start, parent_tid, tls, child_tid);
	host_parent_cloned(taken);
	return child;
}

/* fork() without handlers, for signal handlers. libc does for it what makes its child a process
 * like any other. */
pid_t hooked_fork(void)
{
	static void *_Atomic known; /* a signal handler must not wait for the loader each time */
	__typeof__(&hooked_fork) real;
	void *symbol = atomic_load(&known);
	enum host_locks taken;
	pid_t child;

	if (!symbol)
		atomic_store(&known, symbol = dlsym(RTLD_NEXT, "_Fork"));
	memcpy(&real, &symbol, sizeof(real));
	if (!real) {
		errno = ENOSYS;
		return -1;
	}
	taken = host_prepare_clone(false);
	child = real();
	if (child == 0)
		host_child_cloned(true);
	else
		host_parent_cloned(taken);
	return child;
}

int hooked_unshare(int flags)
{
	__typeof__(&hooked_unshare) real;
	void *symbol = dlsym(RTLD_NEXT, "unshare");
	int result;

	memcpy(&real, &symbol, sizeof(real));
	if (!real) {
		errno = ENOSYS;
		return -1;
	}
	result = real(flags);
	if (result != 0 && is_for_one_thread(SYS_unshare, flags, errno) && host_dismiss_thread()) {
		result = real(flags);
		host_recall_thread();
	}
	return result;
}

int hooked_setns(int fd, int type)
{
	__typeof__(&hooked_setns) real;
	void *symbol = dlsym(RTLD_NEXT, "setns");
	int result;

	memcpy(&real, &symbol, sizeof(real));
	if (!real) {
		errno = ENOSYS;
		return -1;
	}
	result = real(fd, type);
	if (result != 0 && is_for_one_thread(SYS_setns, type, errno) && host_dismiss_thread()) {
		result = real(fd, type);
		host_recall_thread();
	}
	return result;
}
