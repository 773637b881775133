/* Selective attention through the C API from C11: every option refused or taken, all pages against exact
 * attention, figures. */
#include <math.h>
#include <quire.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bindings/plain_attention.h"
#include "tests/bindings/small_run.h"

_Static_assert(QUIRE_SELECT_NONE == 0 && QUIRE_SELECT_TOP_PAGES == 1 && QUIRE_SELECT_MASS == 2, "pinned");

static void expect_attend_refused(quire_cache* cache, quire_step* step, const quire_attend_args* args,
                                  const char* word, int line) {
  expect(quire_attend(step, 0, args) == QUIRE_INVALID, word, __FILE__, line);
  expect(strstr(quire_last_error(cache), word) != NULL, quire_last_error(cache), __FILE__, line);
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
    EXPECT_ATTEND_REFUSED(zero, 1);
    args.select_mass = 7; /* no selection: not looked at */
    EXPECT_STATUS(QUIRE_OK, quire_attend(step, 0, &args));
    EXPECT_STATUS(QUIRE_OK, quire_choose_ahead(step, 1, &args)); /* nothing to do */
    EXPECT_STATUS(QUIRE_INVALID, quire_choose_ahead(step, 99, &args));
    EXPECT_STATUS(QUIRE_INVALID, quire_choose_ahead(step, 1, NULL));
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
      args.selection = QUIRE_SELECT_TOP_PAGES;
      EXPECT_ATTEND_REFUSED(select_share, 1.5F);
      EXPECT_ATTEND_REFUSED(select_share, -1.0F);
      EXPECT_ATTEND_REFUSED(select_share, NAN);
      EXPECT_STATUS(QUIRE_OK, quire_attend(step, 0, &args));
    }
    EXPECT_STATUS(QUIRE_OK, quire_step_wait(step));
    EXPECT(quire_step_end(step) != QUIRE_MISS);
    EXPECT_STATUS(QUIRE_OK, quire_close(cache));
  }
  options = small_options();
  options.digests = 1;
  options.key_space = QUIRE_PRE_ROPE;
  expect_refused(QUIRE_INVALID, &options, "digests", __FILE__, __LINE__);
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
  args.select_pages = 0;
  args.select_share = 1;
  EXPECT_STATUS(QUIRE_OK, quire_attend(step, 0, &args));
  EXPECT_STATUS(QUIRE_OK, quire_step_wait(step));
  EXPECT(memcmp(exact, some, sizeof exact) == 0);
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
