/* SPDX-License-Identifier: MIT */
/*
 * The side door, for hosts that interposition cannot reach: those that look OpenSSL's functions up
 * by themselves (dlsym: FFI, .NET), load it with RTLD_DEEPBIND, or have it inside and export it
 * (the official Node.js).
 *
 * Every OpenSSL tells those who have an ex_data index when an SSL is made; at that moment its
 * context is as the host wants it, and nothing was said yet. So the shim takes such an index in
 * each OpenSSL that the host has used without a hook being called, and looks at the context then.
 */
#ifndef OCSPRELOAD_SIDEDOOR_H
#define OCSPRELOAD_SIDEDOOR_H

/*
 * Looks for such libraries. Called when the host listens, which is when a server has its OpenSSL
 * and, mostly, no connection yet. Any thread.
 */
void sidedoor_open(void);

/* The real listen(2). */
int sidedoor_listen(int fd, int backlog);

#endif
