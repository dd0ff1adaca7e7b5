/* SPDX-License-Identifier: MIT */
#include "queue.h"

/* The roots of two heaps, either of which may be none; returns the root of both. */
static int32_t join(struct queue_node *nodes, int32_t above, int32_t below)
{
	if (above == QUEUE_NONE)
		return below;
	if (below == QUEUE_NONE)
		return above;
	if (nodes[below].key < nodes[above].key) {
		int32_t swapped = above;

		above = below;
		below = swapped;
	}
	nodes[below].previous = above;
	nodes[below].next = nodes[above].child;
	if (nodes[below].next != QUEUE_NONE)
		nodes[nodes[below].next].previous = below;
	nodes[above].child = below;
	return above;
}

/* From a row of roots that is taken apart; returns it in pairs, last to first. */
static int32_t join_in_pairs(struct queue_node *nodes, int32_t row)
{
	int32_t pairs = QUEUE_NONE;

	while (row != QUEUE_NONE) {
		int32_t first = row, second = nodes[first].next, pair;

		row = second == QUEUE_NONE ? QUEUE_NONE : nodes[second].next;
		nodes[first].next = QUEUE_NONE;
		if (second != QUEUE_NONE)
			nodes[second].next = QUEUE_NONE;
		pair = join(nodes, first, second);
		nodes[pair].next = pairs;
		pairs = pair;
	}
	return pairs;
}

/* What was below a thing that goes, as one heap. */
static int32_t join_children(struct queue_node *nodes, int32_t number)
{
	int32_t row = join_in_pairs(nodes, nodes[number].child);
	int32_t root = QUEUE_NONE;

	while (row != QUEUE_NONE) {
		int32_t next = nodes[row].next;

		nodes[row].next = QUEUE_NONE;
		root = join(nodes, root, row);
		row = next;
	}
	if (root != QUEUE_NONE)
		nodes[root].previous = QUEUE_NONE;
	return root;
}

void queue_push(struct queue_node *nodes, int32_t *queue, int32_t number, int64_t key)
{
	nodes[number] = (struct queue_node){key, QUEUE_NONE, QUEUE_NONE, QUEUE_NONE};
	*queue = join(nodes, *queue, number);
}

void queue_remove(struct queue_node *nodes, int32_t *queue, int32_t number)
{
	struct queue_node *node = &nodes[number];
	int32_t children;

	if (number == *queue) {
		*queue = join_children(nodes, number);
		return;
	}
	if (nodes[node->previous].child == number)
		nodes[node->previous].child = node->next;
	else
		nodes[node->previous].next = node->next;
	if (node->next != QUEUE_NONE)
		nodes[node->next].previous = node->previous;
	children = join_children(nodes, number);
	*queue = join(nodes, *queue, children);
}

int32_t queue_pop(struct queue_node *nodes, int32_t *queue)
{
	int32_t first = *queue;

	queue_remove(nodes, queue, first);
	return first;
}
