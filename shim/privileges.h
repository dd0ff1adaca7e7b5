/* SPDX-License-Identifier: MIT */
/*
 * What follows libc's setuid needs no care: libc does it in all threads.
 *
 * Capabilities are a thread's own: a host that drops them with capset drops only those of the
 * thread that calls it, and what the shim's thread was born with would stay. So is the user, for a
 * host that changes it by a system call of its own: from root, it is followed too, with its groups.
 * Not from one of many to another, nor securebits, which no thread can ask of another.
 */
#ifndef OCSPRELOAD_PRIVILEGES_H
#define OCSPRELOAD_PRIVILEGES_H

/*
 * Brings the calling thread down to what the main thread of the process holds now, never below and
 * never ahead of it: glibc aborts a process whose threads cannot all follow a setuid. No error:
 * what the kernel refuses to tell (a sandbox) stays as it is.
 */
void privileges_follow(void);

/*
 * For a thread that never executes a program: it never gains anything by that either
 * (no-new-privs), whether the main thread has said so for itself or not. Nobody but the calling
 * thread is affected, and setuid works as before.
 */
void privileges_give_up(void);

#endif
