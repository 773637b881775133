/* The C API from C11: pinned values, defaults, bad input, and numbers against plain attention. */
#include <math.h>
#include <poll.h>
#include <quire.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bindings/plain_attention.h"
#include "tests/bindings/small_run.h"

_Static_assert(QUIRE_OK == 0 && QUIRE_MISS == 1 && QUIRE_NOT_READY == 2 && QUIRE_INVALID == 3, "pinned");
_Static_assert(QUIRE_OVER_BUDGET == 4 && QUIRE_IO == 5 && QUIRE_DEADLINE == 6, "pinned");
_Static_assert(QUIRE_UNSUPPORTED == 7 && QUIRE_NOT_FINITE == 8 && QUIRE_DEVICE_LOST == 9, "pinned");
_Static_assert(QUIRE_INTERNAL == 10, "pinned");
_Static_assert(QUIRE_CODEC_F32 == 1 && QUIRE_CODEC_BF16 == 2 && QUIRE_CODEC_INT8 == 8, "pinned");
_Static_assert(QUIRE_CODEC_INT2 == 11 && QUIRE_CODEC_ROT4 == 16 && QUIRE_CODEC_ROT2 == 18, "pinned");
_Static_assert(QUIRE_CODEC_TCQ4 == 24 && QUIRE_CODEC_TCQ1 == 27, "pinned");
_Static_assert(QUIRE_CODEC_NUQ4 == 32 && QUIRE_CODEC_NUQ2 == 34 && QUIRE_CODEC_NUQ2S == 38, "pinned");
_Static_assert(QUIRE_POST_ROPE == 0 && QUIRE_PRE_ROPE == 1 && QUIRE_BF16 == 1 && QUIRE_F16 == 2, "pinned");

static const plain_shape kShape = {kQueryHeads, kKvHeads, kHeadDim};

/* Largest difference of every row from plain attention. */
static double worst_error(const run* r) {
  static double want[kQueryRow];
  double worst = 0;
  for (size_t layer = 0; layer < kLayers; layer++) {
    for (size_t t = 0; t < kTokens; t++) {
      plain_attention(&kShape, r->keys[layer], r->values[layer], &r->queries[layer][t * kQueryRow], t, want);
      for (size_t i = 0; i < kQueryRow; i++) {
        const double error = fabs(want[i] - (double)r->out[layer][t * kQueryRow + i]);
        if (!(error <= worst)) worst = error;
      }
    }
  }
  return worst;
}

/* ---- what needs no cache ---- */

static void test_version_and_capabilities(void) {
  char version[32];
  snprintf(version, sizeof version, "%d.%d.%d", QUIRE_VERSION_MAJOR, QUIRE_VERSION_MINOR,
           QUIRE_VERSION_PATCH);
  EXPECT(strcmp(quire_version(), version) == 0);

  quire_capabilities_info info = {.struct_size = sizeof info};
  EXPECT_STATUS(QUIRE_OK, quire_capabilities(&info));
  EXPECT(info.isa != NULL && (strstr("amx avx512 avxvnni avx2 neon scalar", info.isa) != NULL));
  EXPECT(info.codecs != NULL && strstr(info.codecs, "rot4") != NULL && strstr(info.codecs, "bf16") != NULL);
  EXPECT(info.cuda <= 1);
  info.struct_size = 1;
  EXPECT_STATUS(QUIRE_INVALID, quire_capabilities(&info));
}

static void test_strerror(void) {
  for (int a = QUIRE_OK; a <= QUIRE_INTERNAL; a++) {
    EXPECT(quire_strerror((quire_status)a)[0] != '\0');
    for (int b = QUIRE_OK; b < a; b++) {
      EXPECT(strcmp(quire_strerror((quire_status)a), quire_strerror((quire_status)b)) != 0);
    }
  }
  EXPECT(quire_strerror((quire_status)4711) != NULL);
}

static void test_defaults(void) {
  quire_options options;
  memset(&options, 0xFF, sizeof options);
  quire_options_init(&options);
  EXPECT(options.struct_size == sizeof options);
  EXPECT(options.page_tokens == 64 && options.sink_tokens == 4 && options.recent_pages == 0);
  EXPECT(options.key_codec == QUIRE_CODEC_DEFAULT && options.value_codec == QUIRE_CODEC_DEFAULT);
  EXPECT(options.host_budget == (uint64_t)1 << 30 && options.device_budget == 0 && options.nvme_budget == 0);
  EXPECT(options.io_depth == 64 && options.io_deadline_ms == 30000 && options.max_step_tokens == 512);
  EXPECT(options.layer_options == NULL && options.nvme_path == NULL && options.trace_path == NULL);
  EXPECT(options.store_path == NULL && options.store_budget == 0 && options.model_fingerprint[0] == 0);
  EXPECT(options.eviction == QUIRE_EVICT_AUTO && options.device == QUIRE_DEVICE_CPU &&
         options.nvme_compression == 0 && options.access_trace_path == NULL);
  for (size_t i = 0; i < sizeof options.reserved / sizeof *options.reserved; i++) {
    EXPECT(options.reserved[i] == 0);
  }

  quire_attend_args attend;
  memset(&attend, 0xFF, sizeof attend);
  quire_attend_args_init(&attend);
  EXPECT(attend.struct_size == sizeof attend && attend.queries.data == NULL && attend.lse == NULL);
  EXPECT(attend.softmax_scale == 0 && attend.window == 0 && attend.row_mask == NULL);
}

/* ---- bad input: one sentence that names the thing ---- */

static void test_refused_options(void) {
  quire_cache* cache = NULL;
  quire_options options = small_options();
  EXPECT_STATUS(QUIRE_INVALID, quire_open(NULL, &cache));
  EXPECT_STATUS(QUIRE_INVALID, quire_open(&options, NULL));

  EXPECT_REFUSED(QUIRE_INVALID, struct_size, 0);
  EXPECT_REFUSED(QUIRE_INVALID, struct_size, 1 << 20);
  EXPECT_REFUSED(QUIRE_INVALID, layers, 0);
  EXPECT_REFUSED(QUIRE_INVALID, kv_heads, 0);
  EXPECT_REFUSED(QUIRE_INVALID, query_heads, 3);
  EXPECT_REFUSED(QUIRE_INVALID, query_heads, 17 * kKvHeads);
  EXPECT_REFUSED(QUIRE_INVALID, head_dim, 100);
  EXPECT_REFUSED(QUIRE_INVALID, head_dim, 288);
  EXPECT_REFUSED(QUIRE_INVALID, page_tokens, 48);
  EXPECT_REFUSED(QUIRE_INVALID, sink_tokens, 33);
  EXPECT_REFUSED(QUIRE_INVALID, key_space, (quire_key_space)2);
  const int8_t ascending[] = {-100, -20, 30, 101}, equal[] = {-100, 30, 30, 101};
  quire_layer_options layer;
  quire_layer_options_init(&layer);
  layer.key_levels = ascending;
  options.layer_options = &layer;
  options.layer_option_count = 1;
  expect_refused(QUIRE_INVALID, &options, "only nuq codecs", __FILE__, __LINE__);
  layer.key_codec = QUIRE_CODEC_NUQ2;
  layer.value_codec = QUIRE_CODEC_NUQ2S;
  layer.value_levels = equal;
  expect_refused(QUIRE_INVALID, &options, "value levels of layer 0", __FILE__, __LINE__);
  layer.value_levels = ascending;
  EXPECT_STATUS(QUIRE_OK, quire_open(&options, &cache));
  EXPECT_STATUS(QUIRE_OK, quire_close(cache));
  options.layer_options = NULL;
  options.layer_option_count = 0;
  EXPECT_REFUSED(QUIRE_INVALID, max_step_tokens, 0);
  EXPECT_REFUSED(QUIRE_OVER_BUDGET, host_budget, 4096);

  options.key_codec = (quire_codec)99;
  expect_refused(QUIRE_INVALID, &options, "rot4", __FILE__, __LINE__);
  options.key_codec = QUIRE_CODEC_DEFAULT;
  options.value_codec = (quire_codec)3;
  expect_refused(QUIRE_INVALID, &options, "rot4", __FILE__, __LINE__);
  options.value_codec = QUIRE_CODEC_DEFAULT;
  options.nvme_budget = 1 << 20;
  expect_refused(QUIRE_INVALID, &options, "nvme_path", __FILE__, __LINE__);
  options.nvme_path = "/no/such/folder";
  options.io_depth = 7;
  expect_refused(QUIRE_INVALID, &options, "io_depth", __FILE__, __LINE__);
  options.io_depth = 64;
  options.eviction = (quire_eviction)6;
  expect_refused(QUIRE_INVALID, &options, "eviction", __FILE__, __LINE__);
  options.eviction = QUIRE_EVICT_S3FIFO;
  options.device = QUIRE_DEVICE_CUDA; /* a build with CUDA wants a device_budget first, and then a device */
  EXPECT(quire_open(&options, &cache) != QUIRE_OK && cache == NULL && *quire_last_error(NULL) != '\0');
  options.device = QUIRE_DEVICE_CPU;
  options.io_engine = (quire_io_engine)3;
  expect_refused(QUIRE_INVALID, &options, "io_engine", __FILE__, __LINE__);
  options.io_engine = QUIRE_IO_AUTO;
  options.nvme_compression = 10;
  expect_refused(QUIRE_INVALID, &options, "nvme_compression", __FILE__, __LINE__);
  options.nvme_compression = 0;
  expect_refused(QUIRE_IO, &options, "/no/such/folder", __FILE__, __LINE__);
}

static void test_refused_calls(void) {
  const quire_options options = small_options();
  quire_cache* cache = open_cache(&options);
  quire_sequence* sequence = create_sequence(cache);
  static float x[8 * kQueryRow], out[8 * kQueryRow];
  quire_step* none = (quire_step*)1;

  const quire_step_entry gap = {sequence, 5, 8}, empty = {sequence, 0, 0}, nobody = {NULL, 0, 8};
  const quire_step_entry too_long = {sequence, 0, (uint64_t)options.max_step_tokens + 1};
  EXPECT_STATUS(QUIRE_INVALID, quire_step_begin(cache, &gap, 1, NULL, &none));
  EXPECT(none == NULL && strlen(quire_last_error(cache)) > 10);
  EXPECT_STATUS(QUIRE_INVALID, quire_step_begin(cache, &empty, 1, NULL, &none));
  EXPECT_STATUS(QUIRE_INVALID, quire_step_begin(cache, &nobody, 1, NULL, &none));
  EXPECT_STATUS(QUIRE_INVALID, quire_step_begin(cache, &too_long, 1, NULL, &none));
  EXPECT_STATUS(QUIRE_INVALID, quire_step_begin(cache, NULL, 0, NULL, &none));

  quire_step* step = begin_step(cache, sequence, 0, 8);
  quire_append_args kv = append_args(x, x);
  EXPECT_STATUS(QUIRE_INVALID, quire_append(step, kLayers, &kv));
  kv.struct_size--;
  EXPECT_STATUS(QUIRE_INVALID, quire_append(step, 0, &kv));
  kv = append_args(NULL, x);
  EXPECT_STATUS(QUIRE_INVALID, quire_append(step, 0, &kv));
  kv = append_args(x, x);
  kv.keys.dtype = (quire_dtype)7;
  EXPECT_STATUS(QUIRE_INVALID, quire_append(step, 0, &kv));
  quire_attend_args q = attend_args(x, out);
  EXPECT_STATUS(QUIRE_INVALID, quire_attend(step, kLayers, &q));
  q.struct_size = 0;
  EXPECT_STATUS(QUIRE_INVALID, quire_attend(step, 0, &q));
  quire_miss miss = {.struct_size = sizeof miss};
  EXPECT_STATUS(QUIRE_INVALID, quire_step_miss(step, &miss));
  EXPECT(quire_step_end(step) != QUIRE_MISS);

  quire_stats stats = {.struct_size = 3};
  EXPECT_STATUS(QUIRE_INVALID, quire_cache_stats(cache, &stats));
  EXPECT_STATUS(QUIRE_INVALID, quire_sequence_truncate(sequence, 1000));
  EXPECT_STATUS(QUIRE_INVALID, quire_sequence_create(NULL, &sequence));
  EXPECT_STATUS(QUIRE_OK, quire_close(cache)); /* frees the sequence, too */
  EXPECT_STATUS(QUIRE_OK, quire_close(NULL));
}

static void test_not_finite(void) {
  const float bad[] = {NAN, INFINITY, -INFINITY};
  const quire_options options = small_options();
  quire_cache* cache = open_cache(&options);
  quire_sequence* sequence = create_sequence(cache);
  for (size_t i = 0; i < 2 * sizeof bad / sizeof *bad; i++) {
    float keys[8 * kRow] = {0}, values[8 * kRow] = {0};
    (i % 2 == 0 ? keys : values)[3 * kRow + 1] = bad[i / 2];
    quire_step* step = begin_step(cache, sequence, 0, 8);
    quire_append_args kv = append_args(keys, values);
    EXPECT_STATUS(QUIRE_OK, quire_append(step, 0, &kv));
    EXPECT_STATUS(QUIRE_NOT_FINITE, quire_step_wait(step));
    EXPECT(strlen(quire_last_error(cache)) > 10);
    EXPECT(quire_step_end(step) != QUIRE_MISS);
    uint64_t length = 1;
    EXPECT_STATUS(QUIRE_OK, quire_sequence_length(sequence, &length));
    EXPECT(length == 0);
  }
  EXPECT_STATUS(QUIRE_OK, quire_close(cache));
}

static void test_not_finite_queries(void) {
  static float kv[8 * kRow], queries[8 * kQueryRow], out[8 * kQueryRow];
  const quire_options options = small_options();
  quire_cache* cache = open_cache(&options);
  quire_step* step = begin_step(cache, create_sequence(cache), 0, 8);
  const quire_append_args append = append_args(kv, kv);
  EXPECT_STATUS(QUIRE_OK, quire_append(step, 0, &append));
  const quire_attend_args attend = attend_args(queries, out);
  queries[5 * kQueryRow + 7] = NAN;
  EXPECT_STATUS(QUIRE_OK, quire_attend(step, 0, &attend));
  EXPECT_STATUS(QUIRE_NOT_FINITE, quire_step_wait(step));
  EXPECT(strstr(quire_last_error(cache), "queries of layer 0") != NULL);
  queries[5 * kQueryRow + 7] = 0; /* nothing is lost: the same step attends again */
  EXPECT_STATUS(QUIRE_OK, quire_attend(step, 0, &attend));
  EXPECT_STATUS(QUIRE_OK, quire_step_wait(step));
  EXPECT_STATUS(QUIRE_OK, quire_close(cache));
}

/* Handles that are not open any more are recognised, also when the cache is gone. */
static void test_closed_handles(void) {
  static float x[kRow], q[kQueryRow];
  const quire_options options = small_options();
  quire_cache* cache = open_cache(&options);
  quire_sequence* sequence = create_sequence(cache);
  quire_step* step = begin_step(cache, sequence, 0, 1);
  EXPECT_STATUS(QUIRE_OK, quire_close(cache));

  const quire_append_args append = append_args(x, x);
  const quire_attend_args attend = attend_args(q, q);
  const quire_step_entry entry = {sequence, 0, 1};
  const quire_tensor rows = append.keys;
  const quire_rope rope = {.struct_size = sizeof rope};
  quire_stats stats = {.struct_size = sizeof stats};
  quire_miss miss = {.struct_size = sizeof miss};
  quire_sequence* no_sequence = NULL;
  quire_step* no_step = NULL;
  uint64_t length = 0;
  int fd = -1;
  const quire_status statuses[] = {quire_close(cache),
                                   quire_cache_stats(cache, &stats),
                                   quire_flush(cache),
                                   quire_sequence_create(cache, &no_sequence),
                                   quire_step_begin(cache, &entry, 1, NULL, &no_step),
                                   quire_sequence_fork(sequence, &no_sequence),
                                   quire_sequence_truncate(sequence, 0),
                                   quire_sequence_length(sequence, &length),
                                   quire_sequence_set_rope(sequence, &rope),
                                   quire_refill(sequence, 0, 0, 64, &rows, &rows),
                                   quire_prefetch(sequence, 0, 0, 64),
                                   quire_sequence_free(sequence),
                                   quire_append(step, 0, &append),
                                   quire_attend(step, 0, &attend),
                                   quire_step_wait(step),
                                   quire_step_poll(step),
                                   quire_step_eventfd(step, &fd),
                                   quire_step_miss(step, &miss),
                                   quire_step_end(step)};
  for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++) EXPECT(statuses[i] == QUIRE_INVALID);
  EXPECT(strstr(quire_last_error(cache), "quire_step is not open") != NULL);
  EXPECT_STATUS(QUIRE_INVALID, quire_flush(cache));
  EXPECT(strstr(quire_last_error(cache), "quire_cache is not open") != NULL);
}

/* ---- numbers ---- */

static void test_attention(quire_codec codec, double bound) {
  static run r;
  fill(&r);
  quire_options options = small_options();
  options.key_codec = options.value_codec = codec;
  quire_cache* cache = open_cache(&options);
  quire_sequence* sequence = create_sequence(cache);
  const uint64_t chunks[] = {1, 62, 1, 70, 66};
  uint64_t first = 0;
  for (size_t i = 0; i < sizeof chunks / sizeof *chunks; first += chunks[i++]) {
    run_chunk(cache, sequence, &r, first, chunks[i]);
  }
  EXPECT(first == kTokens);
  const double error = worst_error(&r);
  EXPECT(error <= bound);
  if (!(error <= bound)) fprintf(stderr, "  codec %d: error %g, bound %g\n", (int)codec, error, bound);

  quire_stats stats = {.struct_size = sizeof stats};
  EXPECT_STATUS(QUIRE_OK, quire_cache_stats(cache, &stats));
  EXPECT(stats.tokens == kTokens && stats.values == 2 * (uint64_t)kTokens * kRow * kLayers);
  EXPECT(stats.pages == kTokens / 64 * kLayers && stats.pages_lost == 0 && stats.nvme_bytes == 0);
  EXPECT(stats.host_bytes > 0 && stats.host_bytes <= options.host_budget);
  EXPECT(stats.page_bits > 0 && stats.effective_bits > 0);
  EXPECT_STATUS(QUIRE_OK, quire_close(cache));
}

static uint16_t to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (uint16_t)(bits >> 16);
}

static float from_bf16(uint16_t half) {
  const uint32_t bits = (uint32_t)half << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* Rows as an engine has them: queries, keys and values of a token side by side in one bf16 buffer, the output
 * bf16 with a gap behind each head. The same numbers as f32, dense, give the same attention. */
static void test_half_types_and_strides(void) {
  enum { kTokenRow = kQueryRow + 2 * kRow, kOutHead = kHeadDim + 8, kCount = 100 };
  static run r;
  static uint16_t fused[kCount * kTokenRow], out[kCount * kQueryHeads * kOutHead];
  fill(&r);
  float* parts[] = {r.queries[0], r.keys[0], r.values[0]};
  const size_t widths[] = {kQueryRow, kRow, kRow}, offsets[] = {0, kQueryRow, kQueryRow + kRow};
  for (size_t part = 0; part < 3; part++) {
    for (size_t i = 0; i < kCount * widths[part]; i++) {
      const uint16_t half = to_bf16(parts[part][i]);
      fused[i / widths[part] * kTokenRow + offsets[part] + i % widths[part]] = half;
      parts[part][i] = from_bf16(half);
    }
  }
  memset(out, 0xEE, sizeof out);

  quire_options options = small_options();
  options.layers = 1;
  options.key_codec = options.value_codec = QUIRE_CODEC_F32;
  quire_cache* cache = open_cache(&options);
  quire_step* step = begin_step(cache, create_sequence(cache), 0, kCount);
  quire_append_args kv = append_args(NULL, NULL);
  kv.keys = (quire_tensor){fused + kQueryRow, QUIRE_BF16, QUIRE_PLACE_HOST, kTokenRow, kHeadDim};
  kv.values = (quire_tensor){fused + kQueryRow + kRow, QUIRE_BF16, QUIRE_PLACE_HOST, kTokenRow, kHeadDim};
  EXPECT_STATUS(QUIRE_OK, quire_append(step, 0, &kv));
  quire_attend_args q = attend_args(NULL, NULL);
  q.queries = (quire_tensor){fused, QUIRE_BF16, QUIRE_PLACE_HOST, kTokenRow, kHeadDim};
  q.out = (quire_tensor){out, QUIRE_BF16, QUIRE_PLACE_HOST, kQueryHeads * kOutHead, kOutHead};
  EXPECT_STATUS(QUIRE_OK, quire_attend(step, 0, &q));
  EXPECT_STATUS(QUIRE_OK, quire_step_wait(step));

  double worst = 0;
  static double want[kQueryRow];
  for (size_t t = 0; t < kCount; t++) {
    plain_attention(&kShape, r.keys[0], r.values[0], &r.queries[0][t * kQueryRow], t, want);
    for (size_t i = 0; i < kQueryRow; i++) {
      const uint16_t half = out[(t * kQueryHeads + i / kHeadDim) * kOutHead + i % kHeadDim];
      const double error = fabs(want[i] - (double)from_bf16(half));
      if (!(error <= worst)) worst = error;
    }
    for (size_t head = 0; head < kQueryHeads; head++) {
      for (size_t i = kHeadDim; i < kOutHead; i++) {
        EXPECT(out[(t * kQueryHeads + head) * kOutHead + i] == 0xEEEE);
      }
    }
  }
  EXPECT(worst < 3e-3); /* half a unit in bf16's last place below 1 is 2^-9 */
  EXPECT_STATUS(QUIRE_OK, quire_close(cache));
}

static void test_fork_and_truncate(void) {
  static run r, forked;
  fill(&r);
  quire_options options = small_options();
  options.key_codec = options.value_codec = QUIRE_CODEC_F32;
  quire_cache* cache = open_cache(&options);
  quire_sequence* sequence = create_sequence(cache);
  run_chunk(cache, sequence, &r, 0, 150);
  quire_sequence* fork = NULL;
  EXPECT_STATUS(QUIRE_OK, quire_sequence_fork(sequence, &fork));

  /* The fork goes back into a sealed page and on with the same tokens; the original never notices. */
  forked = r;
  uint64_t length = 0;
  EXPECT_STATUS(QUIRE_OK, quire_sequence_truncate(fork, 100));
  EXPECT_STATUS(QUIRE_OK, quire_sequence_length(fork, &length));
  EXPECT(length == 100);
  run_chunk(cache, fork, &forked, 100, kTokens - 100);
  EXPECT_STATUS(QUIRE_OK, quire_sequence_free(fork));
  run_chunk(cache, sequence, &r, 150, kTokens - 150);
  EXPECT(worst_error(&forked) < 1e-4);
  EXPECT(worst_error(&r) < 1e-4);
  EXPECT_STATUS(QUIRE_OK, quire_sequence_free(sequence));
  EXPECT_STATUS(QUIRE_OK, quire_close(cache));
}

static void test_stats(void) {
  quire_options options = small_options();
  options.nvme_budget = 16 << 20;
  options.nvme_path = "/tmp";
  options.io_engine = QUIRE_IO_THREADS;
  quire_cache* cache = open_cache(&options);
  quire_stats stats = {.struct_size = sizeof stats};
  EXPECT_STATUS(QUIRE_OK, quire_cache_stats(cache, &stats));
  EXPECT(stats.host_bytes > 0 && stats.host_bytes <= options.host_budget);
  EXPECT_STATUS(QUIRE_OK, quire_close(cache));
  EXPECT(strcmp(stats.io_engine, "threads") == 0); /* static storage: good after the cache is gone */
}

static void test_reserved_fields(void) {
  quire_options options = small_options();
  options.reserved[0] = 1;
  quire_cache* cache = NULL;
  EXPECT_STATUS(QUIRE_INVALID, quire_open(&options, &cache));
  EXPECT(cache == NULL && strstr(quire_last_error(NULL), "reserved") != NULL);
}

static void test_eventfd(void) {
  static run r;
  fill(&r);
  const quire_options options = small_options();
  quire_cache* cache = open_cache(&options);
  quire_sequence* sequence = create_sequence(cache);
  quire_step* step = begin_step(cache, sequence, 0, 100);
  quire_append_args kv = append_args(r.keys[0], r.values[0]);
  EXPECT_STATUS(QUIRE_OK, quire_append(step, 0, &kv));
  struct pollfd event = {.fd = -1, .events = POLLIN};
  EXPECT_STATUS(QUIRE_OK, quire_step_eventfd(step, &event.fd));
  EXPECT(poll(&event, 1, 30000) == 1);
  EXPECT_STATUS(QUIRE_OK, quire_step_poll(step));
  EXPECT(quire_step_end(step) != QUIRE_MISS); /* layer 1 has no tokens: the step is not whole */
  EXPECT_STATUS(QUIRE_OK, quire_close(cache));
}

int main(void) {
  test_version_and_capabilities();
  test_strerror();
  test_defaults();
  test_refused_options();
  test_refused_calls();
  test_not_finite();
  test_not_finite_queries();
  test_closed_handles();
  test_attention(QUIRE_CODEC_F32, 2e-5);
  test_attention(QUIRE_CODEC_BF16, 2e-2);
  test_attention(QUIRE_CODEC_INT8, 2e-2);
  test_attention(QUIRE_CODEC_NUQ4, 1.5e-1);
  test_attention(QUIRE_CODEC_DEFAULT, 1.5e-1);
  test_half_types_and_strides();
  test_fork_and_truncate();
  test_stats();
  test_reserved_fields();
  test_eventfd();
  printf("[counts] cases=%d\n", cases);
  return failures == 0 ? 0 : 1;
}
