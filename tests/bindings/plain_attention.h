/* Causal attention over contiguous float keys and values in double precision: the truth of the API tests. */
#ifndef TESTS_BINDINGS_PLAIN_ATTENTION_H_
#define TESTS_BINDINGS_PLAIN_ATTENTION_H_

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct plain_shape {
  size_t query_heads, kv_heads, head_dim;
} plain_shape;

/* One query row of the token at `position`, [query_heads][head_dim], over positions <= its own of keys and
 * values, [tokens][kv_heads][head_dim]; writes out, [query_heads][head_dim]. At most 4096 positions. */
void plain_attention(const plain_shape* shape, const float* keys, const float* values, const float* query,
                     size_t position, double* out);

/* Uniform in (-1, 1), the same for the same seed (splitmix64). */
void plain_random(unsigned long long seed, float* out, size_t count);

#ifdef __cplusplus
}
#endif

#endif /* TESTS_BINDINGS_PLAIN_ATTENTION_H_ */
