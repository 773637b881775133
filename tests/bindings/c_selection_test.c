/* Selective attention through the C API from C11: every option refused or taken, all pages against exact
 * attention, figures. */
#include <math.h>
#include <quire.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bindings/plain_attention.h"

_Static_assert(QUIRE_SELECT_NONE == 0 && QUIRE_SELECT_TOP_PAGES == 1 && QUIRE_SELECT_MASS == 2, "pinned");

enum { kLayers = 2, kQueryHeads = 4, kKvHeads = 2, kHeadDim = 64, kTokens = 200 };
enum { kRow = kKvHeads * kHeadDim, kQueryRow = kQueryHeads * kHeadDim };

static int cases, failures;

static void expect(int holds, const char* what, int line) {
  cases++;
  if (holds) return;
  failures++;
  fprintf(stderr, "c_selection_test.c:%d: %s\n", line, what);
}
#define EXPECT(condition) expect((condition), #condition, __LINE__)
#define EXPECT_STATUS(want, call) expect((want) == (call), #call " gives " #want, __LINE__)

static quire_options small_options(void) {
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

static quire_cache* open_cache(const quire_options* options) {
  quire_cache* cache = NULL;
  if (quire_open(options, &cache) != QUIRE_OK) {
    fprintf(stderr, "quire_open: %s\n", quire_last_error(NULL));
    exit(1);
  }
  return cache;
}

static quire_sequence* create_sequence(quire_cache* cache) {
  quire_sequence* sequence = NULL;
  EXPECT_STATUS(QUIRE_OK, quire_sequence_create(cache, &sequence));
  return sequence;
}

static quire_step* begin_step(quire_cache* cache, quire_sequence* sequence, uint64_t first, uint64_t count) {
  const quire_step_entry entry = {sequence, first, count};
  quire_step* step = NULL;
  EXPECT_STATUS(QUIRE_OK, quire_step_begin(cache, &entry, 1, NULL, &step));
  return step;
}

static quire_append_args append_args(float* keys, float* values) {
  quire_append_args args;
  quire_append_args_init(&args);
  args.keys.data = keys;
  args.values.data = values;
  return args;
}

static quire_attend_args attend_args(float* queries, float* out) {
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

static void fill(run* r) {
  plain_random(1, &r->keys[0][0], sizeof r->keys / sizeof(float));
  plain_random(2, &r->values[0][0], sizeof r->values / sizeof(float));
  plain_random(3, &r->queries[0][0], sizeof r->queries / sizeof(float));
}

static void run_chunk(quire_cache* cache, quire_sequence* sequence, run* r, uint64_t first, uint64_t count) {
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

static void expect_refused(quire_status want, const quire_options* options, const char* word, int line) {
  quire_cache* cache = (quire_cache*)1;
  const quire_status status = quire_open(options, &cache);
  expect(status == want, word, line);
  expect(cache == NULL, "a refused quire_open leaves NULL", line);
  const char* sentence = quire_last_error(NULL);
  const int named = strstr(sentence, word) != NULL;
  expect(named, word, line);
  if (status != want || !named) fprintf(stderr, "  status %d, sentence: %s\n", (int)status, sentence);
}
#define EXPECT_REFUSED(want, field, value)        \
  do {                                            \
    quire_options bad = small_options();          \
    bad.field = (value);                          \
    expect_refused(want, &bad, #field, __LINE__); \
  } while (0)

static void expect_attend_refused(quire_cache* cache, quire_step* step, const quire_attend_args* args,
                                  const char* word, int line) {
  expect(quire_attend(step, 0, args) == QUIRE_INVALID, word, line);
  expect(strstr(quire_last_error(cache), word) != NULL, quire_last_error(cache), line);
}
#define EXPECT_ATTEND_REFUSED(field, value)                     \
  do {                                                          \
    quire_attend_args bad = args;                               \
    bad.field = (value);                                        \
    expect_attend_refused(cache, step, &bad, #field, __LINE__); \
  } while (0)

static void test_selection_is_checked(void) {
  static run r;
  fill(&r);
  quire_options options = small_options();
  EXPECT(options.digests == 0);
  EXPECT_REFUSED(QUIRE_INVALID, digests, 2);
  for (uint32_t digests = 0; digests < 2; digests++) {
    options.digests = digests;
    quire_cache* cache = open_cache(&options);
    quire_sequence* sequence = create_sequence(cache);
    quire_step* step = begin_step(cache, sequence, 0, 100);
    quire_append_args kv = append_args(r.keys[0], r.values[0]);
    EXPECT_STATUS(QUIRE_OK, quire_append(step, 0, &kv));
    quire_attend_args args = attend_args(r.queries[0], r.out[0]);
    EXPECT(args.selection == QUIRE_SELECT_NONE && args.select_start == NULL && args.missed_mass == NULL);
    args.select_mass = 7; /* no selection: not looked at */
    EXPECT_STATUS(QUIRE_OK, quire_attend(step, 0, &args));
    args.selection = QUIRE_SELECT_MASS;
    args.select_mass = 0.5F;
    if (digests == 0) {
      expect_attend_refused(cache, step, &args, "digests", __LINE__);
    } else {
      EXPECT_ATTEND_REFUSED(selection, (quire_selection)3);
      EXPECT_ATTEND_REFUSED(select_mass, 0.0F);
      EXPECT_ATTEND_REFUSED(select_mass, 1.5F);
      EXPECT_ATTEND_REFUSED(select_mass, NAN);
      EXPECT_ATTEND_REFUSED(select_check, 2);
      EXPECT_STATUS(QUIRE_OK, quire_attend(step, 0, &args));
    }
    EXPECT_STATUS(QUIRE_OK, quire_step_wait(step));
    EXPECT(quire_step_end(step) != QUIRE_MISS);
    EXPECT_STATUS(QUIRE_OK, quire_close(cache));
  }
  options = small_options();
  options.digests = 1;
  options.key_space = QUIRE_PRE_ROPE;
  expect_refused(QUIRE_INVALID, &options, "digests", __LINE__);
}

/* Of all pages: the bits of exact attention. Of few: less mass, and figures that say so. */
static void test_selection(void) {
  static run r;
  static float exact[kQueryRow], some[kQueryRow], missed[kQueryHeads];
  fill(&r);
  quire_options options = small_options();
  options.digests = 1;
  quire_cache* cache = open_cache(&options);
  quire_sequence* sequence = create_sequence(cache);
  run_chunk(cache, sequence, &r, 0, kTokens - 1);
  quire_step* step = begin_step(cache, sequence, kTokens - 1, 1);
  quire_append_args kv = append_args(&r.keys[0][(kTokens - 1) * kRow], &r.values[0][(kTokens - 1) * kRow]);
  EXPECT_STATUS(QUIRE_OK, quire_append(step, 0, &kv));
  quire_attend_args args = attend_args(&r.queries[0][(kTokens - 1) * kQueryRow], exact);
  EXPECT_STATUS(QUIRE_OK, quire_attend(step, 0, &args));
  const uint8_t start = 1;
  args.out.data = some;
  args.missed_mass = missed;
  args.select_start = &start;
  args.selection = QUIRE_SELECT_TOP_PAGES;
  args.select_pages = 1000;
  EXPECT_STATUS(QUIRE_OK, quire_attend(step, 0, &args));
  EXPECT_STATUS(QUIRE_OK, quire_step_wait(step));
  EXPECT(memcmp(exact, some, sizeof exact) == 0);
  for (int h = 0; h < kQueryHeads; h++) EXPECT(missed[h] == 0);
  quire_stats before = {.struct_size = sizeof before}, after = {.struct_size = sizeof after};
  EXPECT_STATUS(QUIRE_OK, quire_cache_stats(cache, &before));
  EXPECT(before.pages_skipped == 0 && before.missed_mass == 0 && before.selected_rows == kQueryHeads);
  for (uint32_t check = 0; check < 2; check++) {
    args.select_pages = 1;
    args.select_check = check;
    EXPECT_STATUS(QUIRE_OK, quire_attend(step, 0, &args));
    EXPECT_STATUS(QUIRE_OK, quire_step_wait(step));
    EXPECT(memcmp(exact, some, sizeof exact) != 0);
    for (int h = 0; h < kQueryHeads; h++) EXPECT(missed[h] > 0 && missed[h] < 1);
  }
  EXPECT_STATUS(QUIRE_OK, quire_cache_stats(cache, &after));
  EXPECT(after.pages_skipped > 0 && after.pages_chosen == before.pages_chosen + 2 * 2 * kKvHeads);
  EXPECT(after.missed_mass > 0 && after.missed_mass < 1 && after.select_seconds > 0);
  EXPECT(quire_step_end(step) != QUIRE_MISS);
  EXPECT_STATUS(QUIRE_OK, quire_close(cache));
}

int main(void) {
  test_selection_is_checked();
  test_selection();
  printf("[counts] cases=%d\n", cases);
  return failures == 0 ? 0 : 1;
}
