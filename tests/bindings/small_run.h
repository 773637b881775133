/* What the programs that test the C API from C11 share: checks that are counted, a small cache, a run of
 * tokens through it. One program includes it once: the counts are its own. */
#ifndef TESTS_BINDINGS_SMALL_RUN_H_
#define TESTS_BINDINGS_SMALL_RUN_H_

#include <quire.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bindings/plain_attention.h"

enum { kLayers = 2, kQueryHeads = 4, kKvHeads = 2, kHeadDim = 64, kTokens = 200 };
enum { kRow = kKvHeads * kHeadDim, kQueryRow = kQueryHeads * kHeadDim };

static int cases, failures;

static inline void expect(int holds, const char* what, const char* file, int line) {
  cases++;
  if (holds) return;
  failures++;
  fprintf(stderr, "%s:%d: %s\n", file, line, what);
}
#define EXPECT(condition) expect((condition), #condition, __FILE__, __LINE__)
#define EXPECT_STATUS(want, call) expect((want) == (call), #call " gives " #want, __FILE__, __LINE__)

static inline quire_options small_options(void) {
  quire_options options;
  quire_options_init(&options);
  options.layers = kLayers;
  options.query_heads = kQueryHeads;
  options.kv_heads = kKvHeads;
  options.head_dim = kHeadDim;
  options.host_budget = 64 << 20;
  options.threads = 2;
  return options;
}

static inline quire_cache* open_cache(const quire_options* options) {
  quire_cache* cache = NULL;
  if (quire_open(options, &cache) != QUIRE_OK) {
    fprintf(stderr, "quire_open: %s\n", quire_last_error(NULL));
    exit(1);
  }
  return cache;
}

static inline quire_sequence* create_sequence(quire_cache* cache) {
  quire_sequence* sequence = NULL;
  EXPECT_STATUS(QUIRE_OK, quire_sequence_create(cache, &sequence));
  return sequence;
}

static inline quire_step* begin_step(quire_cache* cache, quire_sequence* sequence, uint64_t first,
                                     uint64_t count) {
  const quire_step_entry entry = {sequence, first, count};
  quire_step* step = NULL;
  EXPECT_STATUS(QUIRE_OK, quire_step_begin(cache, &entry, 1, NULL, &step));
  return step;
}

static inline quire_append_args append_args(float* keys, float* values) {
  quire_append_args args;
  quire_append_args_init(&args);
  args.keys.data = keys;
  args.values.data = values;
  return args;
}

static inline quire_attend_args attend_args(float* queries, float* out) {
  quire_attend_args args;
  quire_attend_args_init(&args);
  args.queries.data = queries;
  args.out.data = out;
  return args;
}

/* One run of tokens through a cache; the buffers stay for comparison. */
typedef struct run {
  float keys[kLayers][kTokens * kRow], values[kLayers][kTokens * kRow];
  float queries[kLayers][kTokens * kQueryRow], out[kLayers][kTokens * kQueryRow];
  float lse[kLayers][kTokens * kQueryHeads];
} run;

static inline void fill(run* r) {
  plain_random(1, &r->keys[0][0], sizeof r->keys / sizeof(float));
  plain_random(2, &r->values[0][0], sizeof r->values / sizeof(float));
  plain_random(3, &r->queries[0][0], sizeof r->queries / sizeof(float));
}

static inline void run_chunk(quire_cache* cache, quire_sequence* sequence, run* r, uint64_t first,
                             uint64_t count) {
  quire_step* step = begin_step(cache, sequence, first, count);
  for (uint32_t layer = 0; layer < kLayers; layer++) {
    quire_append_args kv = append_args(&r->keys[layer][first * kRow], &r->values[layer][first * kRow]);
    EXPECT_STATUS(QUIRE_OK, quire_append(step, layer, &kv));
    quire_attend_args q =
        attend_args(&r->queries[layer][first * kQueryRow], &r->out[layer][first * kQueryRow]);
    q.lse = &r->lse[layer][first * kQueryHeads];
    EXPECT_STATUS(QUIRE_OK, quire_attend(step, layer, &q));
    EXPECT_STATUS(QUIRE_OK, quire_step_wait(step));
  }
  EXPECT_STATUS(QUIRE_OK, quire_step_end(step));
}

/* quire_open refuses, in a sentence that names the thing. */
static inline void expect_refused(quire_status want, const quire_options* options, const char* word,
                                  const char* file, int line) {
  quire_cache* cache = (quire_cache*)1;
  const quire_status status = quire_open(options, &cache);
  expect(status == want, word, file, line);
  expect(cache == NULL, "a refused quire_open leaves NULL", file, line);
  const char* sentence = quire_last_error(NULL);
  const int named = strstr(sentence, word) != NULL;
  expect(named, word, file, line);
  if (status != want || !named) fprintf(stderr, "  status %d, sentence: %s\n", (int)status, sentence);
}
#define EXPECT_REFUSED(want, field, value)                  \
  do {                                                      \
    quire_options bad = small_options();                    \
    bad.field = (value);                                    \
    expect_refused(want, &bad, #field, __FILE__, __LINE__); \
  } while (0)

#endif /* TESTS_BINDINGS_SMALL_RUN_H_ */
