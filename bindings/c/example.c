/* Appends random keys and values to a cache, attends over them, prints what the cache holds. */
#include <quire.h>
#include <stdio.h>
#include <stdlib.h>

enum { kLayers = 2, kQueryHeads = 8, kKvHeads = 2, kHeadDim = 128, kTokens = 512, kSteps = 4 };

static float keys[kTokens * kKvHeads * kHeadDim], values[kTokens * kKvHeads * kHeadDim];
static float queries[kTokens * kQueryHeads * kHeadDim], out[kTokens * kQueryHeads * kHeadDim];

static void check(quire_status status, const quire_cache* cache) {
  if (status == QUIRE_OK) return;
  fprintf(stderr, "%s: %s\n", quire_strerror(status), quire_last_error(cache));
  exit(2);
}

static void randomize(float* x, size_t n) {
  for (size_t i = 0; i < n; i++) x[i] = (float)rand() / (float)RAND_MAX - 0.5f;
}

int main(void) {
  quire_options options;
  quire_options_init(&options);
  options.layers = kLayers;
  options.query_heads = kQueryHeads;
  options.kv_heads = kKvHeads;
  options.head_dim = kHeadDim;
  options.host_budget = 64 << 20;

  quire_cache* cache = NULL;
  quire_sequence* sequence = NULL;
  check(quire_open(&options, &cache), NULL);
  check(quire_sequence_create(cache, &sequence), cache);

  for (uint64_t first = 0; first < kSteps * kTokens; first += kTokens) {
    quire_step_entry entry = {sequence, first, kTokens};
    quire_step* step = NULL;
    check(quire_step_begin(cache, &entry, 1, NULL, &step), cache);
    for (uint32_t layer = 0; layer < kLayers; layer++) {
      randomize(keys, sizeof keys / sizeof *keys);
      randomize(values, sizeof values / sizeof *values);
      randomize(queries, sizeof queries / sizeof *queries);

      quire_append_args kv;
      quire_append_args_init(&kv);
      kv.keys.data = keys;
      kv.values.data = values;
      check(quire_append(step, layer, &kv), cache);

      quire_attend_args attend;
      quire_attend_args_init(&attend);
      attend.queries.data = queries;
      attend.out.data = out;
      check(quire_attend(step, layer, &attend), cache);
      check(quire_step_wait(step), cache); /* `out` is written */
    }
    check(quire_step_end(step), cache);
  }

  quire_stats stats = {.struct_size = sizeof stats};
  check(quire_cache_stats(cache, &stats), cache);
  printf("%llu tokens in %llu pages: %.2f bits per value in pages, %.2f in all, %.1f MB of memory\n",
         (unsigned long long)stats.tokens, (unsigned long long)stats.pages, stats.page_bits,
         stats.effective_bits, (double)stats.host_bytes / 1e6);

  check(quire_sequence_free(sequence), cache);
  check(quire_close(cache), NULL);
  return 0;
}
