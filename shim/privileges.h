/* SPDX-License-Identifier: MIT */
/*
 * Capabilities are a thread's own: a host that drops them with capset drops only those of the
 * thread that calls it, and what the shim's thread was born with would stay.
 */
#ifndef OCSPRELOAD_PRIVILEGES_H
#define OCSPRELOAD_PRIVILEGES_H

/*
 * Brings the calling thread down to what the main thread of the process holds now, never below and
 * never ahead of it: glibc aborts a process whose threads cannot all follow a setuid. No error:
 * what the kernel refuses to tell (a sandbox) stays as it is.
 */
void privileges_follow(void);

#endif
