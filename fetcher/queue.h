/* SPDX-License-Identifier: MIT */
/*
 * Queues of numbered things, the one with the least key first: pairing heaps whose links lie in the
 * things' own nodes, so that nothing is allocated and nothing can fail. A node is in one queue at
 * the most. Pure.
 */
#ifndef OCSPRELOAD_QUEUE_H
#define OCSPRELOAD_QUEUE_H

#include <stdint.h>

/* In the place of a number; as a queue, one that is empty. */
enum { QUEUE_NONE = -1 };

struct queue_node {
	int64_t key;
	int32_t child;    /* the first of those below */
	int32_t next;     /* beside this one */
	int32_t previous; /* beside this one, or the one above */
};

/*
 * A queue is the number of its first thing. Puts the thing that has this number, and is in no
 * queue, into this one.
 */
void queue_push(struct queue_node *nodes, int32_t *queue, int32_t number, int64_t key);

/* Takes the thing out of the queue that it is in. */
void queue_remove(struct queue_node *nodes, int32_t *queue, int32_t number);

/* Takes the first out of a queue that is not empty. */
int32_t queue_pop(struct queue_node *nodes, int32_t *queue);

#endif
