// The choice of pages against a plain one: shares in f64, sorted.
#include "kvcache/select.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

namespace quire {
namespace {

struct Choice {
  std::vector<uint8_t> chosen;
  std::vector<float> left_out;
};

Choice choose(const Selection& selection, std::vector<float> mass, const std::vector<float>& peak,
              uint32_t rows, const std::vector<uint8_t>& always) {
  const auto pages = static_cast<uint32_t>(always.size());
  std::vector<float> weight(pages);
  std::vector<uint32_t> order(pages);
  Choice out{std::vector<uint8_t>(pages), std::vector<float>(rows)};
  choose_pages(selection, {rows, pages, mass.data(), peak.data(), weight.data(), order.data(), always.data()},
               out.chosen.data(), out.left_out.data());
  return out;
}

// [rows][pages] shares in f64.
std::vector<double> shares(const std::vector<float>& mass, uint32_t rows) {
  const size_t pages = mass.size() / rows;
  std::vector<double> out(mass.size());
  for (uint32_t row = 0; row < rows; ++row) {
    double sum = 0;
    for (size_t i = 0; i < pages; ++i) sum += std::exp2(static_cast<double>(mass[row * pages + i]));
    for (size_t i = 0; i < pages; ++i)
      out[row * pages + i] = std::exp2(static_cast<double>(mass[row * pages + i])) / sum;
  }
  return out;
}

struct World {
  uint32_t rows;
  std::vector<float> mass;
  std::vector<float> peak;
  std::vector<uint8_t> always;
};

World random_world(uint32_t seed) {
  std::mt19937 random(seed);
  World world{1 + static_cast<uint32_t>(random() % 16), {}, {}, {}};
  const size_t pages = 1 + random() % 300;
  std::normal_distribution<float> normal(0, 1 + static_cast<float>(random() % 6));
  for (size_t i = 0; i < pages * world.rows; ++i) {
    world.mass.push_back(normal(random));
    world.peak.push_back(normal(random));
  }
  for (size_t i = 0; i < pages; ++i) world.always.push_back(random() % 8 == 0 ? 1 : 0);
  return world;
}

// Candidates from the heaviest on; weights that differ by rounding alone may stand either way.
std::vector<size_t> by_weight(const World& world, std::vector<double>* weight) {
  const std::vector<double> share = shares(world.mass, world.rows);
  const size_t pages = world.always.size();
  weight->assign(pages, 0);
  for (size_t i = 0; i < share.size(); ++i) (*weight)[i % pages] = std::max((*weight)[i % pages], share[i]);
  std::vector<size_t> order;
  for (size_t i = 0; i < pages; ++i) {
    if (world.always[i] == 0) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return (*weight)[a] > (*weight)[b]; });
  return order;
}

// The candidates with the largest weights, `count` of them; what is chosen besides in *chosen is left alone.
void expect_largest(const std::vector<double>& weight, std::vector<size_t> candidates, size_t count,
                    const std::vector<uint8_t>& chosen, std::vector<uint8_t>* expected) {
  std::stable_sort(candidates.begin(), candidates.end(),
                   [&](size_t a, size_t b) { return weight[a] > weight[b]; });
  candidates.resize(std::min(count, candidates.size()));
  for (const size_t i : candidates) {
    EXPECT_NE(chosen[i], 0) << "page " << i;
    (*expected)[i] = 1;
  }
}

TEST(Select, TopPagesAreTheHeaviestAndThoseThatMayScoreHighest) {
  constexpr uint32_t kSeeds = 200;
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    const World world = random_world(seed);
    const size_t all = world.always.size();
    std::vector<double> weight;
    const std::vector<size_t> order = by_weight(world, &weight);
    std::vector<double> peak(all, -INFINITY);
    for (uint32_t row = 0; row < world.rows; ++row) {
      const auto* of_row = world.peak.data() + row * all;
      const auto highest = static_cast<double>(*std::max_element(of_row, of_row + all));
      for (size_t i = 0; i < all; ++i) peak[i] = std::max(peak[i], static_cast<double>(of_row[i]) - highest);
    }
    for (const uint32_t pages : {0U, 1U, 2U, 7U, 20U, 1000U}) {
      Selection selection;
      selection.kind = SelectionKind::kTopPages;
      selection.pages = pages;
      const Choice choice = choose(selection, world.mass, world.peak, world.rows, world.always);
      std::vector<uint8_t> expected = world.always;
      expect_largest(weight, order, pages - pages / 2, choice.chosen, &expected);
      std::vector<size_t>
          left;  // in the order of positions: every row's highest page is level with the others'
      for (size_t i = 0; i < all; ++i) {
        if (expected[i] == 0) left.push_back(i);
      }
      expect_largest(peak, left, pages / 2, choice.chosen, &expected);
      EXPECT_EQ(choice.chosen, expected) << "seed " << seed << " pages " << pages;
    }
  }
  std::printf("[counts] cases=%u seeds=%u\n", 6 * kSeeds, kSeeds);
}

TEST(Select, AShareGrowsWithThePages) {
  for (uint32_t seed = 0; seed < 50; ++seed) {
    const World world = random_world(seed);
    const size_t all = world.always.size();
    const auto chosen_with = [&](float share, uint32_t pages) {
      Selection selection;
      selection.kind = SelectionKind::kTopPages;
      selection.share = share;
      selection.pages = pages;
      return choose(selection, world.mass, world.peak, world.rows, world.always).chosen;
    };
    const auto quarter = static_cast<uint32_t>((all + 3) / 4);
    EXPECT_EQ(chosen_with(0.25F, 0), chosen_with(0, quarter));
    EXPECT_EQ(chosen_with(0.25F, quarter + 5), chosen_with(0, quarter + 5)) << "the larger counts";
    EXPECT_EQ(chosen_with(1, 0), std::vector<uint8_t>(all, 1));
  }
}

TEST(Select, AShareIsADecimalNumber) {
  for (uint32_t pages = 10; pages <= 100000; pages = pages * 3 + 10) {
    const uint32_t all = pages - pages % 10;
    const std::vector<float> level(all, 0);
    const std::vector<uint8_t> none(all, 0);
    for (uint32_t tenths = 1; tenths < 10; ++tenths) {
      Selection selection;
      selection.kind = SelectionKind::kTopPages;
      selection.share = static_cast<float>(tenths) / 10;
      const Choice choice = choose(selection, level, level, 1, none);
      EXPECT_EQ(std::count(choice.chosen.begin(), choice.chosen.end(), 1), int64_t{all} / 10 * tenths)
          << "." << tenths << " of " << all;
    }
  }
}

TEST(Select, MassIsHeldByEveryRowAndNoPageTooMany) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    const World world = random_world(seed);
    const size_t pages = world.always.size();
    const std::vector<double> share = shares(world.mass, world.rows);
    std::vector<double> weight;
    const std::vector<size_t> order = by_weight(world, &weight);
    for (const float mass : {0.1F, 0.5F, 0.9F}) {
      Selection selection;
      selection.kind = SelectionKind::kMass;
      selection.mass = mass;
      const Choice choice = choose(selection, world.mass, world.peak, world.rows, world.always);
      bool was_needed = false;  // without the lightest chosen candidate some row would have too little
      const auto lightest =
          std::find_if(order.rbegin(), order.rend(), [&](size_t i) { return choice.chosen[i] != 0; });
      for (uint32_t row = 0; row < world.rows; ++row) {
        double held = 0;
        for (size_t i = 0; i < pages; ++i) held += choice.chosen[i] != 0 ? share[row * pages + i] : 0;
        EXPECT_GE(held, static_cast<double>(mass) - 1e-5) << "seed " << seed << " row " << row;
        if (lightest != order.rend())
          was_needed |= held - share[row * pages + *lightest] < static_cast<double>(mass) + 1e-5;
        if (held > 1e-3 && held < 1 - 1e-3) {
          EXPECT_NEAR(static_cast<double>(choice.left_out[row]), std::log2((1 - held) / held), 1e-3);
        }
      }
      if (lightest != order.rend()) {
        EXPECT_TRUE(was_needed) << "seed " << seed;
      }
    }
  }
}

TEST(Select, NothingIsLeftOutOfAllPages) {
  const World world = random_world(5);
  Selection selection;
  selection.kind = SelectionKind::kTopPages;
  selection.pages = 1000;
  const Choice choice = choose(selection, world.mass, world.peak, world.rows, world.always);
  EXPECT_EQ(std::count(choice.chosen.begin(), choice.chosen.end(), 0), 0);
  for (const float left : choice.left_out) EXPECT_EQ(left, -INFINITY);
}

TEST(Select, TiesGoToTheOlderPage) {
  Selection selection;
  selection.kind = SelectionKind::kTopPages;
  selection.pages = 2;
  const Choice choice =
      choose(selection, std::vector<float>(6, 1.5F), std::vector<float>(6, 2.5F), 1, {0, 0, 0, 0, 0, 1});
  EXPECT_EQ(choice.chosen, (std::vector<uint8_t>{1, 1, 0, 0, 0, 1}));
  selection.kind = SelectionKind::kMass;
  selection.mass = 0.4F;
  const Choice mass =
      choose(selection, std::vector<float>(6, 1.5F), std::vector<float>(6, 2.5F), 1, {0, 0, 0, 0, 0, 1});
  EXPECT_EQ(mass.chosen, (std::vector<uint8_t>{1, 1, 0, 0, 0, 1}));
}

}  // namespace
}  // namespace quire
